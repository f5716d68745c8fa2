//! Looking for circles of waits that go through other engines of a shared store.
//!
//! An actor that is busy cannot go where it is called from, so whoever calls it from another engine waits. Most such waits end. Of one
//! that lasts, the engine that has the actor knows that it is wanted, and says in the store for whom it waits, if it does; and so does
//! every engine with something that others say they wait for. Whoever waits reads that. Nothing is read or written as long as all that
//! waits here waits for what is here.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{NodeId, RunId};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

use super::circle::{Edge, Kind, Said, Suspicions, circles};
use super::stored;
use crate::engine::Shared;
use crate::error::Result;

/// How long something waits before others are asked.
const AFTER: Duration = Duration::from_secs(1);
/// How often others are asked while something waits for an actor that another engine has, or another engine wants one that waits.
const EVERY: Duration = Duration::from_secs(1);
/// How often while something waits for runs only, which mostly are no part of a circle.
const EVERY_FOR_RUNS: Duration = Duration::from_secs(5);
/// How often while a circle is suspected.
const EVERY_IN_SUSPICION: Duration = Duration::from_millis(200);
/// How many waits others are told of.
const MOST: usize = 1_000;

/// Looks for circles until the engine halts.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    loop {
        let pause = match watch.look(&shared).await {
            Ok(Some(pause)) => pause,
            Ok(None) => {
                tokio::select! {
                    biased;
                    () = shared.halted.cancelled() => return,
                    () = shared.actors.waits.begun.notified() => {}
                }
                AFTER
            }
            Err(error) => {
                if !shared.is_closing() {
                    tracing::warn!(%error, "could not look for calls that wait for each other; trying again");
                }
                EVERY_FOR_RUNS
            }
        };
        tokio::select! {
            biased;
            () = shared.halted.cancelled() => return,
            () = shared.clock.sleep(pause) => {}
        }
    }
}

#[derive(Debug, Default)]
struct Watch {
    /// How often this engine has said something, and what it said last.
    count: u64,
    said: Vec<Edge>,
    suspicions: Suspicions,
    is_suspicious: bool,
    looked_at: Option<Instant>,
}

/// What the waits of an engine ask for.
#[derive(Debug, Default)]
struct Asks {
    /// Something waits for an actor of another engine, or another engine wants an actor that waits.
    is_urgent: bool,
    /// Something waits for a run.
    for_runs: bool,
    /// Where circles may enter this engine.
    entries: FxHashSet<RunId>,
}

impl Watch {
    /// Looks once, and says when to look again; `None` if nothing waits.
    async fn look(&mut self, shared: &Shared) -> Result<Option<Duration>> {
        let now = shared.clock.instant();
        // Before others are asked: what is still there when they are asked again was there in between.
        let old = shared.actors.waits.old(AFTER, now);
        let asks = shared.asks(&old.edges, old.wanted);
        if !asks.is_urgent && !asks.for_runs {
            self.say(shared, Vec::new()).await?;
            return Ok(old.is_any.then_some(EVERY));
        }
        let is_soon = |at: Instant| now.saturating_duration_since(at) < EVERY_FOR_RUNS;
        if !asks.is_urgent && !self.is_suspicious && self.looked_at.is_some_and(is_soon) {
            return Ok(Some(EVERY));
        }
        self.looked_at = Some(now);

        let mut stored_count = None;
        let mut others: Vec<(NodeId, Said)> = Vec::new();
        for (node, bytes) in shared.storage.waits().await? {
            // What another version says is not understood, and no circle is found there.
            let Some(said) = stored::decode_known::<Said>(&bytes) else {
                continue;
            };
            match node == shared.node {
                true => stored_count = Some(said.count),
                false => others.push((node, said)),
            }
        }
        let edges = reached(old.edges, asks.entries, &others);
        let found = circles((shared.node, &edges), &others);
        self.is_suspicious = !found.is_empty();
        for circle in self.suspicions.take_in(shared.node, &others, found) {
            let (node, number) = circle.fails;
            if node == shared.node {
                tracing::debug!(circle = ?circle.names, "calls at several engines wait for each other");
                shared.actors.waits.end(number, circle.names);
            }
        }
        let is_lost = !edges.is_empty() && stored_count != Some(self.count);
        if self.is_suspicious || is_lost || edges != self.said {
            self.say(shared, edges).await?;
        }
        Ok(Some(match self.is_suspicious {
            true => EVERY_IN_SUSPICION,
            false => EVERY,
        }))
    }

    /// Tells others what waits here. What is said again counts.
    async fn say(&mut self, shared: &Shared, edges: Vec<Edge>) -> Result<()> {
        if edges.is_empty() && self.said.is_empty() {
            return Ok(());
        }
        let bytes = match edges.is_empty() {
            true => bytes::Bytes::new(),
            false => stored::encode(&Said {
                // If this fails it may be stored all the same, or later: the number is used again, so that the next one tells
                // that this had returned.
                count: self.count + 1,
                edges: edges.clone(),
            })?,
        };
        shared.storage.say_waits(shared.node, bytes).await?;
        self.count += 1;
        self.said = edges;
        Ok(())
    }
}

impl Shared {
    fn asks(&self, edges: &[Edge], wanted: FxHashSet<RunId>) -> Asks {
        let mut asks = Asks::default();
        for edge in edges {
            match edge.kind {
                Kind::Call => asks.is_urgent |= !self.actors.is_loaded(&edge.target),
                Kind::Begun => {}
                Kind::Run | Kind::Exclusive => {
                    asks.for_runs = true;
                    if !self.is_driven_here(&edge.target) {
                        asks.entries.extend(edge.waiters.iter().cloned());
                    }
                }
            }
            asks.is_urgent |= edge.waiters.iter().any(|waiter| wanted.contains(waiter));
        }
        asks.entries.extend(wanted);
        asks
    }
}

/// Those waits of an engine that a circle may go through which enters it at one of `entries`, or where others wait for something.
fn reached(edges: Vec<Edge>, entries: FxHashSet<RunId>, others: &[(NodeId, Said)]) -> Vec<Edge> {
    let mut by_waiter: FxHashMap<&RunId, Vec<usize>> = FxHashMap::default();
    for (at, edge) in edges.iter().enumerate() {
        for waiter in &edge.waiters {
            by_waiter.entry(waiter).or_default().push(at);
        }
    }
    let others = others.iter().flat_map(|(_, said)| &said.edges);
    let mut to_visit: Vec<&RunId> = others.map(|edge| &edge.target).chain(&entries).collect();
    let mut seen: FxHashSet<&RunId> = to_visit.iter().copied().collect();
    let mut is_reached = vec![false; edges.len()];
    while let Some(at) = to_visit.pop() {
        for &next in by_waiter.get(at).into_iter().flatten() {
            is_reached[next] = true;
            if seen.insert(&edges[next].target) {
                to_visit.push(&edges[next].target);
            }
        }
    }
    let mut is_reached = is_reached.into_iter();
    let mut edges = edges;
    edges.retain(|_| is_reached.next() == Some(true));
    edges.truncate(MOST);
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> RunId {
        RunId::new(id).unwrap()
    }

    fn edge(number: u64, waiters: &[&str], target: &str) -> Edge {
        Edge {
            number,
            waiters: waiters.iter().copied().map(id).collect(),
            target: id(target),
            by: None,
            kind: Kind::Call,
        }
    }

    #[test]
    fn others_are_told_only_of_waits_that_a_circle_may_go_through() {
        let edges = [
            edge(0, &["a"], "b"),
            edge(1, &["b"], "c"),
            edge(2, &["x"], "b"),
            edge(3, &["child", "run"], "d"),
        ];
        let told = |entries: &[&str], others: &[Edge]| {
            let entries = entries.iter().copied().map(id).collect();
            let (count, edges_of_others) = (1, others.to_vec());
            let said = Said {
                count,
                edges: edges_of_others,
            };
            let told = reached(edges.to_vec(), entries, &[(NodeId(2), said)]);
            told.iter().map(|edge| edge.number).collect::<Vec<_>>()
        };
        assert_eq!(told(&[], &[]), [0u64; 0]);
        assert_eq!(told(&["a"], &[]), [0, 1]);
        assert_eq!(told(&["b"], &[]), [1]);
        // Another waits for a run whose child waits here.
        assert_eq!(told(&[], &[edge(7, &["other"], "run")]), [3]);
        assert_eq!(told(&["x"], &[edge(7, &["other"], "run")]), [1, 2, 3]);
    }

    #[test]
    fn others_are_told_of_a_thousand_waits_at_most() {
        let edges: Vec<Edge> = (0..3_000).map(|n| edge(n, &["a"], "b")).collect();
        let told = reached(edges, FxHashSet::from_iter([id("a")]), &[]);
        assert_eq!(told.len(), MOST);
    }
}
