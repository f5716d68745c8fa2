//! Who waits for whom, so that no call is made that would wait for itself.
//!
//! Nodes are actors and runs. An actor whose method awaits a call waits for that call's actor, and a run does whose step awaits one.
//! Whoever was answered with a workflow waits for its run. An actor with an exclusive workflow waits for that run, but for calls that
//! the run's own steps make. A run waits for its children: that is stored with each child, so a waiter is named with all the runs
//! above it.
//!
//! All of this is of this process. What waited in one that has ended waits no more, and what is executed again waits anew.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keepstep_storage::RunId;
use rustc_hash::{FxHashMap, FxHashSet};

use super::current::current_call;
use crate::context::try_context;
use crate::engine::Shared;
use crate::error::Result;

/// Who awaits a call: an actor, or a run and the runs that wait for it, innermost first. Empty if nobody can wait for the caller.
pub(super) type Waiters = Arc<[RunId]>;

/// The waits of an engine.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<Graph>);

#[derive(Debug, Default)]
struct Graph {
    /// What each waits for, and how often.
    awaited: FxHashMap<RunId, FxHashMap<RunId, usize>>,
    /// Actors whose calls wait for a run, unless its own steps make them.
    exclusive: FxHashMap<RunId, RunId>,
}

impl Graph {
    fn add(&mut self, waiter: &RunId, target: &RunId) {
        let awaited = self.awaited.entry(waiter.clone()).or_default();
        *awaited.entry(target.clone()).or_default() += 1;
    }

    fn remove(&mut self, waiter: &RunId, target: &RunId) {
        let Entry::Occupied(mut awaited) = self.awaited.entry(waiter.clone()) else {
            return;
        };
        if let Entry::Occupied(mut times) = awaited.get_mut().entry(target.clone()) {
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
            let exclusive = self.exclusive.get(node);
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut graph = self.shared.actors.waits.graph();
        for waiter in &*self.waiters {
            graph.remove(waiter, &self.target);
        }
    }
}

/// An actor's calls wait for a run, until this is dropped.
#[derive(Debug)]
pub(super) struct ExclusiveWait {
    shared: Arc<Shared>,
    actor: RunId,
    run: RunId,
}

impl Drop for ExclusiveWait {
    fn drop(&mut self) {
        let mut graph = self.shared.actors.waits.graph();
        if graph.exclusive.get(&self.actor) == Some(&self.run) {
            graph.exclusive.remove(&self.actor);
        }
    }
}

impl Shared {
    /// Notes that somebody waits for an actor or a run from now on, for a call of the run `by`.
    ///
    /// # Errors
    /// The circle, if that waits for one of them, by way of others perhaps.
    pub(super) fn wait_for(
        self: &Arc<Self>,
        waiters: &Waiters,
        target: &RunId,
        by: Option<&RunId>,
    ) -> Result<Option<Wait>, Vec<RunId>> {
        if waiters.is_empty() {
            return Ok(None);
        }
        let mut graph = self.actors.waits.graph();
        if let Some(circle) = graph.circle(waiters, target, by) {
            return Err(circle);
        }
        for waiter in &**waiters {
            graph.add(waiter, target);
        }
        Ok(Some(Wait {
            shared: Arc::clone(self),
            waiters: Arc::clone(waiters),
            target: target.clone(),
        }))
    }

    /// Notes that an actor's calls wait for a run.
    pub(super) fn wait_exclusively(self: &Arc<Self>, actor: &RunId, run: &RunId) -> ExclusiveWait {
        let mut graph = self.actors.waits.graph();
        graph.exclusive.insert(actor.clone(), run.clone());
        ExclusiveWait {
            shared: Arc::clone(self),
            actor: actor.clone(),
            run: run.clone(),
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
            graph.exclusive.insert(id(actor), id(run));
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
