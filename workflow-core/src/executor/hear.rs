//! What a run's task does with what it is told, and how long it goes on before other tasks have their turn.

use std::time::Duration;

use keepstep_storage::WriteOutcome;
use tokio::time::Instant;

use super::{Exit, Happened, Outcome, RunMessage, RunTask, Written};
use crate::clock::Clock;
use crate::engine::Ended;
use crate::error::SuspendReason;

/// So many messages are taken at once.
pub(super) const AT_ONCE: usize = 1024;
/// A run that always has something to do lets others go on when it has kept its thread from them for so long.
const LONGEST: Duration = Duration::from_millis(10);
/// It lets the runtime have a look after so long in any case: one that shuts down waits for this task.
const LONGEST_BLOCKED: Duration = Duration::from_secs(1);
/// A run that has committed so often on its thread without waiting for anything else can be expected to go on so.
const OFTEN: u32 = 2;

/// A stretch of time in which a run's task goes on without waiting for anything.
#[derive(Debug)]
pub(super) struct Stretch {
    since: Instant,
    /// How much of it was spent in commits on this thread: others of its tasks were given to another thread meanwhile.
    blocked: Duration,
    /// How often that was.
    n_blocked: u32,
    /// What the clock showed a moment ago.
    latest: Option<Instant>,
}

impl Stretch {
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            blocked: Duration::ZERO,
            n_blocked: 0,
            latest: None,
        }
    }

    /// A commit on this thread has just ended.
    pub(super) fn was_blocked(&mut self, from: Instant, to: Instant) {
        self.blocked += to - from;
        self.n_blocked += 1;
        self.latest = Some(to);
    }

    /// Whether giving its thread's other tasks away once is less than with each commit to come.
    pub(super) fn is_worth_blocking(&self) -> bool {
        self.n_blocked >= OFTEN
    }

    pub(super) fn is_over(&mut self, clock: &Clock) -> bool {
        let now = self.latest.take().unwrap_or_else(|| clock.instant());
        self.is_over_at(now)
    }

    fn is_over_at(&self, now: Instant) -> bool {
        let took = now - self.since;
        took.saturating_sub(self.blocked) > LONGEST || took > LONGEST_BLOCKED
    }
}

impl RunTask {
    /// Whether there is something to take without waiting. Awaiting it would use up tokio's budget of what a task may do before it
    /// yields, and so cost a chain its thread after every few dozen commits.
    pub(super) fn has_heard(&mut self) -> bool {
        while self.inbox.len() < AT_ONCE
            && let Ok(message) = self.messages.try_recv()
        {
            self.inbox.push(message);
        }
        !self.inbox.is_empty() || self.written_here.is_some()
    }

    /// Takes what it was told.
    pub(super) fn take_all(&mut self) -> Option<Exit> {
        self.lingers_until = None;
        let mut inbox = std::mem::take(&mut self.inbox);
        for message in inbox.drain(..) {
            if let Some(exit) = self.take(message) {
                return Some(exit);
            }
        }
        self.inbox = inbox;
        if let Some(written) = self.written_here.take()
            && let Some(exit) = self.committed(written)
        {
            return Some(exit);
        }
        self.start_steps();
        None
    }

    fn committed(&mut self, written: Written) -> Option<Exit> {
        match written {
            Ok(WriteOutcome::Written) => {
                self.is_committing = false;
                self.forget_folded();
                self.go_on();
                None
            }
            Ok(
                WriteOutcome::Fenced { .. }
                | WriteOutcome::Exists
                | WriteOutcome::NotFound
                | WriteOutcome::Skipped,
            ) => Some(Exit::Ended(Ended::Fenced)),
            Ok(WriteOutcome::BlobMissing { blob }) => {
                let missing = self.shared.objects.missing(blob);
                Some(self.lost(Ended::Interrupted(missing)))
            }
            Err(error) => Some(self.lost(Ended::Interrupted(error))),
        }
    }

    fn take(&mut self, message: RunMessage) -> Option<Exit> {
        match message {
            RunMessage::Ended {
                step,
                execution,
                outcome,
            } => {
                if let Some(def) = self.steps.ended(step, execution) {
                    match outcome {
                        Outcome::Stopped => self.run.stopped(step),
                        Outcome::Storage(error) => {
                            return Some(self.lost(Ended::Interrupted(*error)));
                        }
                        outcome => {
                            let task = None;
                            let body = Happened::Body {
                                step,
                                def,
                                outcome,
                                task,
                            };
                            self.happened.push_back(body);
                        }
                    }
                }
            }
            RunMessage::EndedElsewhere {
                step,
                execution,
                outcome,
                task,
            } => return self.ended_elsewhere(step, execution, outcome, task),
            RunMessage::Child { step, look, found } => {
                if let Err(ended) = self.child_found(step, look, *found) {
                    return Some(self.lost(ended));
                }
            }
            RunMessage::ChildWasLost(step) => self.look_after_child(step),
            RunMessage::Mail => self.mailbox.arrived(),
            RunMessage::Committed(written) => return self.committed(*written),
            // A run whose end is written, or is being written, has ended.
            RunMessage::Cancel | RunMessage::Suspend if self.is_ending() => {}
            RunMessage::Cancel => {
                self.run.cancel();
                self.stop_steps();
            }
            RunMessage::Suspend => {
                self.run.suspend(SuspendReason::Requested);
                self.stop_steps();
            }
            RunMessage::Slot(slot) => self.take_slot(slot),
            RunMessage::Running(reply) => drop(reply.send(self.steps.running())),
            RunMessage::LeaseLost => return Some(Exit::Ended(Ended::LeaseLost)),
            RunMessage::ShutDown => {
                self.is_shutting_down = true;
                self.steps.forbid();
                self.steps.stop_all();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any moment is as good")]
    fn at() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |millis| start + Duration::from_millis(millis)
    }

    #[test]
    fn a_run_keeps_its_thread_for_no_longer_than_that_serves_it() {
        let at = at();
        let mut stretch = Stretch::new(at(0));
        assert!(!stretch.is_over_at(at(10)));
        assert!(stretch.is_over_at(at(11)));
        stretch.was_blocked(at(11), at(511));
        assert!(!stretch.is_over_at(at(510)));
        assert!(stretch.is_over_at(at(511)));
        stretch.was_blocked(at(511), at(10_511));
        assert!(!stretch.is_over_at(at(1_000)));
        assert!(
            stretch.is_over_at(at(1_001)),
            "a slow disk does not keep the runtime waiting"
        );
    }
}
