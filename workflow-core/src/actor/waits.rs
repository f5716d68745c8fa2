//! Who waits for whom, so that no call is made that would wait for itself.
//!
//! Nodes are actors and runs. An actor whose method awaits a call waits for that call's actor, and a run does whose step awaits one.
//! Whoever was answered with a workflow waits for its run. An actor with an exclusive workflow waits for that run, but for calls that
//! the run's own steps make. A run waits for its children: that is stored with each child, so a waiter is named with all the runs
//! above it.
//!
//! All of this is of this process. What waited in one that has ended waits no more, and what is executed again waits anew. Where others
//! share the store, each wait has a number besides, and [`watch`](super::watch) looks for circles that go through other engines.

use std::collections::{BTreeMap, VecDeque, btree_map, hash_map};
use std::future::pending;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepstep_storage::RunId;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::circle::{Edge, Kind};
use super::current::current_call;
use crate::context::try_context;
use crate::engine::Shared;
use crate::error::Result;

/// Who awaits a call: an actor, or a run and the runs that wait for it, innermost first. Empty if nobody can wait for the caller.
pub(super) type Waiters = Arc<[RunId]>;

/// For how long others are told of an actor that was asked for: whoever wants it asks again before that.
const WANTED_FOR: Duration = Duration::from_secs(3);

/// The waits of an engine.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    graph: Mutex<Graph>,
    /// On a store that others share, something waits.
    pub(super) begun: Notify,
}

#[derive(Debug, Default)]
struct Graph {
    /// What each waits for, and how often.
    awaited: FxHashMap<RunId, FxHashMap<RunId, usize>>,
    /// Actors whose calls wait for a run, unless its own steps make them, with the number of the wait: an actor that is handed over
    /// and comes back may be noted anew before it is forgotten.
    exclusive: FxHashMap<RunId, (RunId, u64)>,
    /// On a store that others share, every wait by its number.
    open: BTreeMap<u64, Open>,
    next: u64,
    /// Actors that other engines want, and when they asked for them last.
    wanted: FxHashMap<RunId, Instant>,
}

/// A wait of an engine that is not the only one.
#[derive(Debug)]
struct Open {
    waiters: Waiters,
    target: RunId,
    by: Option<RunId>,
    since: Instant,
    /// Of a call, whether it is being made; `None` of calls that wait for a run in which they have no part.
    claim: Option<Arc<Claim>>,
    /// Tells the waiter that it is in a circle.
    circle: Option<oneshot::Sender<Vec<RunId>>>,
}

/// Who has a call: the caller until it is begun, who may take it back; then the actor.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    const WAITING: u8 = 0;
    const BEGUN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn change(&self, to: u8) -> Result<u8, u8> {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.0.compare_exchange(Self::WAITING, to, success, failure)
    }

    /// Begins the call; `false` if it was taken back.
    pub(super) fn begin(&self) -> bool {
        // An actor that was handed over begins it again.
        self.change(Self::BEGUN) != Err(Self::WITHDRAWN)
    }

    /// Takes the call back; `false` if it was begun.
    fn withdraw(&self) -> bool {
        self.change(Self::WITHDRAWN).is_ok()
    }

    fn is_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::BEGUN
    }
}

/// What may be told to other engines of an engine's waits.
#[derive(Debug, Default)]
pub(super) struct Old {
    /// Waits that have lasted for a while.
    pub(super) edges: Vec<Edge>,
    /// Actors that other engines want.
    pub(super) wanted: FxHashSet<RunId>,
    /// Whether something waits, for however short a time.
    pub(super) is_any: bool,
}

impl Open {
    fn edge(&self, number: u64) -> Edge {
        Edge {
            number,
            waiters: self.waiters.to_vec(),
            target: self.target.clone(),
            by: self.by.clone(),
            kind: match (&self.claim, &self.circle) {
                (Some(claim), _) if claim.is_begun() => Kind::Begun,
                (Some(_), _) => Kind::Call,
                (None, Some(_)) => Kind::Run,
                (None, None) => Kind::Exclusive,
            },
        }
    }
}

impl Graph {
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn open(&mut self, open: Open) -> u64 {
        let number = self.number();
        self.open.insert(number, open);
        number
    }

    /// Notes that an actor's calls wait for a run.
    fn exclude(&mut self, actor: &RunId, run: &RunId) -> u64 {
        let number = self.number();
        self.exclusive.insert(actor.clone(), (run.clone(), number));
        number
    }

    /// They do so no more.
    fn admit(&mut self, actor: &RunId, number: u64) {
        if let hash_map::Entry::Occupied(excluded) = self.exclusive.entry(actor.clone())
            && excluded.get().1 == number
        {
            excluded.remove();
        }
        self.open.remove(&number);
    }

    fn add(&mut self, waiter: &RunId, target: &RunId) {
        let awaited = self.awaited.entry(waiter.clone()).or_default();
        *awaited.entry(target.clone()).or_default() += 1;
    }

    fn remove(&mut self, waiter: &RunId, target: &RunId) {
        let hash_map::Entry::Occupied(mut awaited) = self.awaited.entry(waiter.clone()) else {
            return;
        };
        if let hash_map::Entry::Occupied(mut times) = awaited.get_mut().entry(target.clone()) {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
            }
        }
        if awaited.get().is_empty() {
            awaited.remove();
        }
    }

    /// The way from one node to the first of `to` that waits for it, both included; `None` if there is none. Calls of a run `by` are
    /// not kept from the first node by that run.
    fn way(&self, from: &RunId, to: &[RunId], by: Option<&RunId>) -> Option<Vec<RunId>> {
        if to.contains(from) {
            return Some(vec![from.clone()]);
        }
        let mut came_from: FxHashMap<&RunId, &RunId> = FxHashMap::default();
        let mut seen: FxHashSet<&RunId> = FxHashSet::default();
        let mut to_visit = VecDeque::from([from]);
        while let Some(node) = to_visit.pop_front() {
            let awaited = self.awaited.get(node).into_iter().flatten();
            let exclusive = self.exclusive.get(node).map(|(run, _)| run);
            let exclusive = exclusive.filter(|run| node != from || by != Some(*run));
            for next in awaited.map(|(next, _)| next).chain(exclusive) {
                if next == from || !seen.insert(next) {
                    continue;
                }
                came_from.insert(next, node);
                if to.contains(next) {
                    let mut way = vec![next.clone()];
                    let mut at = next;
                    while let Some(before) = came_from.get(at) {
                        way.push((*before).clone());
                        at = before;
                    }
                    way.reverse();
                    return Some(way);
                }
                to_visit.push_back(next);
            }
        }
        None
    }

    /// The circle that it would be if `waiters` waited for `target`: from that to the one that waits for it.
    fn circle(&self, waiters: &[RunId], target: &RunId, by: Option<&RunId>) -> Option<Vec<RunId>> {
        let mut circle = self.way(target, waiters, by)?;
        // From a run down to the child that is the waiter.
        let last = circle.last()?;
        let at = waiters.iter().position(|waiter| waiter == last)?;
        circle.extend(waiters[..at].iter().rev().cloned());
        Some(circle)
    }
}

impl Waits {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        // Nothing that holds the lock can panic half-way through a change.
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another engine wants an actor. That matters if something waits here.
    pub(super) fn is_wanted(&self, actor: &RunId, now: Instant) {
        let mut graph = self.graph();
        if !graph.open.is_empty() {
            graph.wanted.insert(actor.clone(), now);
        }
    }

    /// Waits that have lasted so long, and who is wanted.
    pub(super) fn old(&self, age: Duration, now: Instant) -> Old {
        let mut graph = self.graph();
        let age_of = |at: Instant| now.saturating_duration_since(at);
        graph.wanted.retain(|_, at| age_of(*at) < WANTED_FOR);
        if graph.open.is_empty() {
            graph.wanted.clear();
        }
        let open = graph.open.iter();
        let old = open.filter(|(_, open)| age_of(open.since) >= age);
        Old {
            edges: old.map(|(number, open)| open.edge(*number)).collect(),
            wanted: graph.wanted.keys().cloned().collect(),
            is_any: !graph.open.is_empty(),
        }
    }

    /// Ends a wait with the circle that it is in, if it still waits and is no call that is being made; whether it did.
    pub(super) fn end(&self, number: u64, circle: Vec<RunId>) -> bool {
        let mut graph = self.graph();
        let btree_map::Entry::Occupied(open) = graph.open.entry(number) else {
            return false;
        };
        let is_begun = |claim: &Arc<Claim>| !claim.withdraw();
        if open.get().claim.as_ref().is_some_and(is_begun) {
            return false;
        }
        let waiter = open.remove().circle;
        waiter.is_some_and(|waiter| waiter.send(circle).is_ok())
    }

    /// The circle that a call makes, which stands before an actor whose calls wait for a run.
    pub(super) fn circle_behind(
        &self,
        actor: &RunId,
        waiters: &[RunId],
        by: Option<&RunId>,
    ) -> Option<Vec<RunId>> {
        match waiters.is_empty() {
            true => None,
            false => self.graph().circle(waiters, actor, by),
        }
    }
}

/// Somebody waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Wait {
    shared: Arc<Shared>,
    waiters: Waiters,
    target: RunId,
    open: Option<OpenWait>,
}

/// What is known of a wait where others share the store.
#[derive(Debug)]
struct OpenWait {
    number: u64,
    claim: Option<Arc<Claim>>,
    circle: oneshot::Receiver<Vec<RunId>>,
}

impl Wait {
    /// The claim on the call, for whoever makes it.
    pub(super) fn claim(&self) -> Option<Arc<Claim>> {
        self.open.as_ref().and_then(|open| open.claim.clone())
    }
}

/// The circle that a wait is found to be in, through other engines; waits for ever if it is in none.
pub(super) async fn circle_of(wait: &mut Option<Wait>) -> Vec<RunId> {
    if let Some(open) = wait.as_mut().and_then(|wait| wait.open.as_mut())
        && let Ok(circle) = (&mut open.circle).await
    {
        return circle;
    }
    pending().await
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut graph = self.shared.actors.waits.graph();
        for waiter in &*self.waiters {
            graph.remove(waiter, &self.target);
        }
        if let Some(open) = &self.open {
            graph.open.remove(&open.number);
        }
    }
}

/// An actor's calls wait for a run, until this is dropped.
#[derive(Debug)]
pub(super) struct ExclusiveWait {
    shared: Arc<Shared>,
    actor: RunId,
    number: u64,
}

impl Drop for ExclusiveWait {
    fn drop(&mut self) {
        let mut graph = self.shared.actors.waits.graph();
        graph.admit(&self.actor, self.number);
    }
}

impl Shared {
    /// Notes that somebody waits for a call of an actor from now on, which a step of the run `by` makes.
    ///
    /// # Errors
    /// The circle, if the actor waits for one of them, by way of others perhaps.
    pub(super) fn wait_for_call(
        self: &Arc<Self>,
        waiters: &Waiters,
        actor: &RunId,
        by: Option<&RunId>,
    ) -> Result<Option<Wait>, Vec<RunId>> {
        self.wait_for(waiters, actor, by, || Some(Arc::default()))
    }

    /// Notes that somebody waits for a run from now on.
    ///
    /// # Errors
    /// As [`wait_for_call`](Self::wait_for_call).
    pub(super) fn wait_for_run(
        self: &Arc<Self>,
        waiters: &Waiters,
        run: &RunId,
    ) -> Result<Option<Wait>, Vec<RunId>> {
        self.wait_for(waiters, run, None, || None)
    }

    fn wait_for(
        self: &Arc<Self>,
        waiters: &Waiters,
        target: &RunId,
        by: Option<&RunId>,
        claim: impl FnOnce() -> Option<Arc<Claim>>,
    ) -> Result<Option<Wait>, Vec<RunId>> {
        if waiters.is_empty() {
            return Ok(None);
        }
        let waits = &self.actors.waits;
        let mut graph = waits.graph();
        if let Some(circle) = graph.circle(waiters, target, by) {
            return Err(circle);
        }
        for waiter in &**waiters {
            graph.add(waiter, target);
        }
        let open = self.is_shared().then(|| {
            let (sender, circle) = oneshot::channel();
            let claim = claim();
            let number = graph.open(Open {
                waiters: Arc::clone(waiters),
                target: target.clone(),
                by: by.cloned(),
                since: self.clock.instant(),
                claim: claim.clone(),
                circle: Some(sender),
            });
            waits.begun.notify_one();
            OpenWait {
                number,
                claim,
                circle,
            }
        });
        Ok(Some(Wait {
            shared: Arc::clone(self),
            waiters: Arc::clone(waiters),
            target: target.clone(),
            open,
        }))
    }

    /// Notes that an actor's calls wait for a run.
    pub(super) fn wait_exclusively(self: &Arc<Self>, actor: &RunId, run: &RunId) -> ExclusiveWait {
        let waits = &self.actors.waits;
        let mut graph = waits.graph();
        let number = graph.exclude(actor, run);
        if self.is_shared() {
            let open = Open {
                waiters: Arc::from([actor.clone()]),
                target: run.clone(),
                by: None,
                since: self.clock.instant(),
                claim: None,
                circle: None,
            };
            graph.open.insert(number, open);
            waits.begun.notify_one();
        }
        ExclusiveWait {
            shared: Arc::clone(self),
            actor: actor.clone(),
            number,
        }
    }
}

/// Who waits for the code that this is called in.
pub(super) async fn waiters_here() -> Result<Waiters> {
    if let Some(call) = current_call() {
        return Ok(call.waiters);
    }
    match try_context() {
        Some(context) => context.link().lineage().await,
        None => Ok(Arc::from([])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> RunId {
        RunId::new(id).unwrap()
    }

    fn ids(names: &str) -> Vec<RunId> {
        names.split(' ').map(id).collect()
    }

    fn graph(waits: &[(&str, &str)], exclusive: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (waiter, target) in waits {
            graph.add(&id(waiter), &id(target));
        }
        for (actor, run) in exclusive {
            graph.exclude(&id(actor), &id(run));
        }
        graph
    }

    #[test]
    fn a_circle_is_found_whatever_its_length() {
        let waits = [("a", "b"), ("b", "c"), ("b", "x"), ("c", "d"), ("x", "y")];
        let graph = graph(&waits, &[]);
        let circle = |waiters: &str, target: &str| graph.circle(&ids(waiters), &id(target), None);
        assert_eq!(circle("a", "a"), Some(ids("a")));
        assert_eq!(circle("b", "a"), Some(ids("a b")));
        assert_eq!(circle("d", "a"), Some(ids("a b c d")));
        assert_eq!(circle("y", "b"), Some(ids("b x y")));
        assert_eq!(circle("a", "d"), None);
        assert_eq!(circle("e", "a"), None);
    }

    #[test]
    fn a_child_is_named_below_the_run_that_waits_for_it() {
        let graph = graph(&[], &[("actor", "run")]);
        let circle = graph.circle(&ids("grandchild child run"), &id("actor"), None);
        assert_eq!(circle, Some(ids("actor run child grandchild")));
    }

    #[test]
    fn steps_of_an_exclusive_run_go_through_and_nobody_elses() {
        let graph = graph(&[("b", "actor")], &[("actor", "run")]);
        let by = |by: &str| graph.circle(&ids("run"), &id("actor"), Some(&id(by)));
        assert_eq!(by("run"), None);
        assert_eq!(by("child"), Some(ids("actor run")));
        // Behind another actor, it is not the run that calls.
        let run = id("run");
        let circle = graph.circle(&ids("run"), &id("b"), Some(&run));
        assert_eq!(circle, Some(ids("b actor run")));
    }

    #[test]
    fn an_actor_that_is_noted_anew_before_it_is_forgotten_stays_noted() {
        let (actor, run) = (id("actor"), id("run"));
        let mut graph = Graph::default();
        let before = graph.exclude(&actor, &run);
        let after = graph.exclude(&actor, &run);
        graph.admit(&actor, before);
        let circle = |graph: &Graph| graph.circle(&ids("child run"), &actor, None);
        assert_eq!(circle(&graph), Some(ids("actor run child")));
        graph.admit(&actor, after);
        assert_eq!(circle(&graph), None);
    }

    #[test]
    fn circles_that_are_there_already_end_no_search() {
        // A step of a run calls the actor that the run has for itself.
        let graph = graph(&[("run", "actor")], &[("actor", "run")]);
        assert_eq!(graph.circle(&ids("x"), &id("actor"), None), None);
    }

    #[test]
    fn a_wait_lasts_as_long_as_the_last_of_its_kind() {
        let mut graph = graph(&[("a", "b"), ("a", "b")], &[]);
        graph.remove(&id("a"), &id("b"));
        assert!(graph.way(&id("a"), &ids("b"), None).is_some());
        graph.remove(&id("a"), &id("b"));
        graph.remove(&id("a"), &id("b"));
        assert!(graph.way(&id("a"), &ids("b"), None).is_none());
        assert!(graph.awaited.is_empty());
    }
}
