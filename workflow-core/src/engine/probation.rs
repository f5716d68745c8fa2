//! Runs whose executions were cut short more than once go on one at a time: when the process dies again, it is known by which of them.
//!
//! The one that had begun last when the process died begins, alone among its kind. If the process is still alive after a while, or the
//! step has come to something, twice as many follow. So a step that ends its process is found soon, and runs that only executed beside it
//! are not taken for it: those had begun before, and are not counted while it is found. How often each was cut short says less. A step
//! that takes hours is cut short by one such step after another.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepstep_storage::{RunId, RunRecord, StoredStatus, Timestamp};
use tokio::sync::{mpsc, oneshot};

use super::shared::{Roster, SeatState, Shared};
use crate::error::SuspendReason;
use crate::run::{Event, Run};

/// How long nobody new must have come before the first one begins: the most suspicious is to be among them.
const SETTLED_AFTER: Duration = Duration::from_millis(10);
/// After how long one begins although others are still being read.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long one that was cut short twice executes before others may. It is longer for what was cut short more often.
const ALONE_FOR: Duration = Duration::from_secs(5);
const LONGEST_ALONE: Duration = Duration::from_secs(120);

/// The runs of an engine that wait until they may execute.
#[derive(Debug, Default)]
pub(crate) struct Probation(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<Waiting>,
    /// How many runs that may have to wait have got a slot and are being read.
    n_promoted: usize,
    /// Whether a task lets them execute.
    is_attended: bool,
}

#[derive(Debug)]
struct Waiting {
    suspicion: Suspicion,
    admit: oneshot::Sender<Admitted>,
}

/// How suspicious a run is: when it last began to execute on probation, and how often it was cut short.
type Suspicion = (Option<Timestamp>, u32);

/// Held while a run is read that had waited for a slot, if it may have to wait here.
#[derive(Debug)]
pub(super) struct Promoted<'a>(&'a Probation);

impl Drop for Promoted<'_> {
    fn drop(&mut self) {
        self.0.inner().n_promoted -= 1;
    }
}

/// Held by a run that executes on probation, until it has got on.
#[derive(Debug)]
pub(crate) struct Admitted {
    _until_dropped: mpsc::Sender<()>,
}

/// Where a run on probation is.
#[derive(Debug)]
pub(crate) enum OnProbation {
    Waits(oneshot::Receiver<Admitted>),
    Executes { _until_it_gets_on: Admitted },
}

impl OnProbation {
    /// Whether the run may not execute yet.
    pub(crate) fn waits(probation: Option<&Self>) -> bool {
        matches!(probation, Some(Self::Waits(_)))
    }

    /// Waits until the run may execute.
    pub(crate) async fn admission(probation: &mut Option<Self>) {
        if let Some(Self::Waits(admission)) = probation
            && let Ok(admitted) = admission.await
        {
            *probation = Some(Self::Executes {
                _until_it_gets_on: admitted,
            });
            return;
        }
        // The engine halts, or the run has nothing to wait for.
        std::future::pending().await
    }
}

impl Probation {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most suspicious of those that wait; `None` if there are none, and then nobody attends to them any more. One that is
    /// suspended if it is cut short once more is alone.
    fn take(&self, n: usize, max_interruptions: u32) -> Option<Vec<Waiting>> {
        let mut inner = self.inner();
        inner.waiting.retain(|waiting| !waiting.admit.is_closed());
        inner
            .waiting
            .sort_by_key(|waiting| Reverse(waiting.suspicion));
        let is_last_try =
            |waiting: &Waiting| waiting.suspicion.1.saturating_add(1) >= max_interruptions;
        let n_before = inner.waiting.iter().position(is_last_try);
        let n = n_before.map_or(n, |n_before| n.min(n_before.max(1)));
        let n = n.min(inner.waiting.len());
        let taken: Vec<_> = inner.waiting.drain(..n).collect();
        inner.is_attended = !taken.is_empty();
        inner.is_attended.then_some(taken)
    }

    fn n_waiting(&self) -> usize {
        self.inner().waiting.len()
    }

    /// A run that was claimed from a node that died is taken out of the queue for slots.
    fn promotes(&self) -> Promoted<'_> {
        self.inner().n_promoted += 1;
        Promoted(self)
    }
}

/// Of how many executing steps of a run it is noted that they were cut short: those that start first. By default, no more execute at
/// a time.
const MOST_STEPS: usize = 1_024;

impl Roster {
    /// Notes that a run was claimed from a node that died, if it was.
    pub(super) fn note_orphan(&mut self, id: &RunId, record: &mut RunRecord) {
        match std::mem::take(&mut record.n_orphaned) {
            n @ 1.. if record.status == StoredStatus::Running => {
                self.orphans.insert(id.clone(), (n, record.epoch));
            }
            _ => {
                self.orphans.remove(id);
            }
        }
    }
}

impl Shared {
    /// To be held while a run that had waited for a slot is read.
    pub(super) fn promotes(&self, id: &RunId) -> Option<Promoted<'_>> {
        let is_orphan = self.roster().orphans.contains_key(id);
        is_orphan.then(|| self.probation.promotes())
    }

    /// Whether runs are being read that were claimed from nodes that died: the most suspicious may be among them.
    fn reads_orphans(&self) -> bool {
        if self.probation.inner().n_promoted > 0 {
            return true;
        }
        let roster = self.roster();
        let is_queued =
            |id: &RunId| matches!(roster.seats.get(id), Some((SeatState::Queued(..), _)));
        // Without a task, they are lost until they are given up.
        let mut orphans = roster.orphans.keys();
        orphans.any(|id| roster.lost.contains(id) && !is_queued(id))
    }

    /// How a run begins that was claimed from a node that died, so often in a row: what is to be written before its steps execute
    /// again, and what it has to wait for until then.
    pub(super) fn after_interruption(
        self: &Arc<Self>,
        id: &RunId,
        n_orphaned: Option<u32>,
        run: &mut Run,
    ) -> (Option<Event>, Option<OnProbation>) {
        let at = self.clock.timestamp();
        let mut steps = run.executing(at, MOST_STEPS);
        steps.retain(|step| {
            let found = run.step_ref(*step);
            let found = found.and_then(|step| self.find_step(&step.name, step.version));
            // What only waits ends no process, and neither does what executes at another worker.
            found.is_some_and(|found| {
                let is_elsewhere =
                    !self.remote.is_local() && self.remote.pool_of(found.def).is_some();
                !found.def.options.waits && !is_elsewhere
            })
        });
        let worst = steps.iter().max_by_key(|step| run.interruptions(**step));
        let Some(worst) = worst.copied() else {
            return (None, None);
        };
        let times = match run.interruptions(worst) {
            0 if n_orphaned < Some(2) => 1,
            // More claims in a row may be those of a run that waited for its turn each time.
            0 => 2,
            times => times + 1,
        };
        let is_too_often = times >= self.max_interruptions;
        if times == 1 && !is_too_often {
            // The first time costs nothing.
            return (None, None);
        }
        let last_at = run.interrupted_at();
        let event = Event::Interrupted { at, steps };
        if is_too_often {
            let step = run.step_ref(worst).map(|step| step.name.to_string());
            let step = step.unwrap_or_default();
            tracing::warn!(run = %id, step, times, "run is suspended: its process died while the step executed, time and again");
            run.suspend(SuspendReason::Interrupted { step, times });
            return (Some(event), None);
        }
        tracing::warn!(run = %id, times, "the process died while a step of the run executed, more than once; it executes on probation");
        (Some(event), Some(self.put_on_probation(times, last_at)))
    }

    /// Has a run wait until it may execute a step that was cut short so often, and that last began to execute then.
    pub(crate) fn put_on_probation(
        self: &Arc<Self>,
        times: u32,
        last_at: Option<Timestamp>,
    ) -> OnProbation {
        let (admit, admission) = oneshot::channel();
        let is_attended = {
            let mut inner = self.probation.inner();
            inner.waiting.push(Waiting {
                suspicion: (last_at, times),
                admit,
            });
            std::mem::replace(&mut inner.is_attended, true)
        };
        if !is_attended {
            let shared = Arc::clone(self);
            self.spawn(async move {
                tokio::select! {
                    biased;
                    () = shared.closing.cancelled() => {}
                    () = attend(&shared) => {}
                }
            });
        }
        OnProbation::Waits(admission)
    }
}

/// Lets those that wait execute, more and more of them.
async fn attend(shared: &Shared) {
    let probation = &shared.probation;
    let mut n_known = 0;
    let until = shared.clock.after(LONGEST_WAIT);
    while shared.clock.instant() < until {
        shared.clock.sleep(SETTLED_AFTER).await;
        let n_waiting = probation.n_waiting();
        if n_waiting == n_known && !shared.reads_orphans() {
            break;
        }
        n_known = n_waiting;
    }
    let mut at_once = 1;
    while let Some(taken) = probation.take(at_once, shared.max_interruptions) {
        let times = taken.iter().map(|waiting| waiting.suspicion.1).max();
        let times = times.unwrap_or_default();
        let (until_dropped, mut all_dropped) = mpsc::channel(1);
        for waiting in taken {
            // It may have been canceled meanwhile.
            drop(waiting.admit.send(Admitted {
                _until_dropped: until_dropped.clone(),
            }));
        }
        drop(until_dropped);
        tokio::select! {
            biased;
            _ = all_dropped.recv() => {}
            () = shared.clock.sleep(alone_for(times)) => {}
        }
        at_once = at_once.saturating_mul(2);
    }
}

fn alone_for(times: u32) -> Duration {
    let factor = 3_u32.saturating_pow(times.saturating_sub(2));
    ALONE_FOR.saturating_mul(factor).min(LONGEST_ALONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_short_more_often_is_alone_for_longer() {
        assert_eq!(alone_for(2), ALONE_FOR);
        assert_eq!(alone_for(3), 3 * ALONE_FOR);
        assert_eq!(alone_for(u32::MAX), LONGEST_ALONE);
    }

    #[test]
    fn the_most_suspicious_comes_first_and_who_has_gone_not_at_all() {
        let probation = Probation::default();
        let mut admissions = Vec::new();
        for (times, last_at) in [
            (2, None),
            (3, Some(5)),
            (3, Some(9)),
            (4, Some(9)),
            (8, Some(1)),
        ] {
            let (admit, admission) = oneshot::channel();
            let suspicion = (last_at.map(Timestamp), times);
            probation.inner().waiting.push(Waiting { suspicion, admit });
            admissions.push(admission);
        }
        drop(admissions.remove(3));
        let taken = |n| {
            let taken = probation.take(n, 99)?;
            let suspicions = taken.into_iter().map(|waiting| waiting.suspicion);
            Some(suspicions.collect::<Vec<_>>())
        };
        assert_eq!(taken(1), Some(vec![(Some(Timestamp(9)), 3)]));
        // However often it was cut short, one that had begun before comes later.
        let others = [(Some(Timestamp(5)), 3), (Some(Timestamp(1)), 8), (None, 2)];
        assert_eq!(taken(9), Some(others.to_vec()));
        assert_eq!(taken(1), None);
    }

    #[test]
    fn what_has_its_last_try_is_alone() {
        let probation = Probation::default();
        let mut admissions = Vec::new();
        for (at, times) in [(9, 2), (8, 2), (7, 3), (6, 3), (5, 2)] {
            let (admit, admission) = oneshot::channel();
            let suspicion = (Some(Timestamp(at)), times);
            probation.inner().waiting.push(Waiting { suspicion, admit });
            admissions.push(admission);
        }
        let taken = || probation.take(8, 4).map(|taken| taken.len());
        assert_eq!(
            [taken(), taken(), taken(), taken(), taken()],
            [Some(2), Some(1), Some(1), Some(1), None]
        );
    }
}
