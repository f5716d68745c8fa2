//! What time it is for a run in memory.
//!
//! When something is due that is to last for a while is stored as a time of the wall clock, so that it survives the process. But as
//! long as the process lives, it lasts no longer because somebody sets that clock back: the time of such a run goes on by monotonic
//! time. Dates are the wall clock's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepstep_storage::{RunId, Timestamp};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::RunTask;
use crate::clock::Clock;

/// A clock that was set back by more than this was quite wrong before: what is stored from then on is to be right instead.
const MOST: Duration = Duration::from_secs(25 * 3600);
/// How many runs are known of that are due although the clock does not say so.
const MOST_OVERDUE: usize = 16_384;

/// What time it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// By the wall clock: what dates are compared with.
    pub(crate) shown: Timestamp,
    /// As it has passed since the run has something to wait for: what the ends of pauses, sleeps and limits are compared with.
    pub(crate) passed: Timestamp,
    pub(crate) moment: Instant,
}

impl Times {
    /// What the time is that was `passed` at an earlier moment, if the clock has not been set back.
    fn since(clock: &Clock, before: Option<(Timestamp, Instant)>) -> Self {
        // In this order: what comes between the two makes nothing come early.
        let shown = clock.timestamp();
        let moment = clock.instant();
        let passed = before.map_or(shown, |(at, since)| {
            let passed = at.after(moment.duration_since(since));
            match shown.until(passed) <= MOST {
                true => passed.max(shown),
                false => shown,
            }
        });
        Self {
            shown,
            passed,
            moment,
        }
    }

    /// What the wall clock shows at the end of a pause, if nobody sets it.
    pub(crate) fn shown_at(&self, pause_ends_at: Timestamp) -> Timestamp {
        self.shown.after(self.passed.until(pause_ends_at))
    }
}

impl RunTask {
    /// What time it is for the run.
    pub(super) fn times(&mut self) -> Times {
        let before = self.passed.filter(|_| self.run.next_pause().is_some());
        let times = Times::since(&self.shared.clock, before);
        self.passed = Some((times.passed, times.moment));
        times
    }

    /// When the next thing is due, on the wall clock as it goes now.
    pub(super) fn next_due(&self, times: &Times) -> Option<Timestamp> {
        let pause = self.run.next_pause().map(|ends_at| times.shown_at(ends_at));
        pause.into_iter().chain(self.run.next_date()).min()
    }
}

/// Runs outside memory whose pause has ended, although the wall clock does not say so.
#[derive(Debug, Default)]
pub(crate) struct Overdue {
    by_run: Mutex<FxHashMap<RunId, (Timestamp, Instant)>>,
    n: AtomicUsize,
}

impl Overdue {
    fn by_run(&self) -> MutexGuard<'_, FxHashMap<RunId, (Timestamp, Instant)>> {
        // Nothing that holds the lock can panic half-way through a change.
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is stored to end at `due_at` has ended at this moment.
    pub(super) fn insert(&self, run: &RunId, due_at: Timestamp, moment: Instant) {
        let mut by_run = self.by_run();
        if by_run.len() < MOST_OVERDUE {
            by_run.insert(run.clone(), (due_at, moment));
        }
        self.n.store(by_run.len(), Ordering::SeqCst);
    }

    pub(super) fn take(&self, run: &RunId) -> Option<(Timestamp, Instant)> {
        if self.n.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut by_run = self.by_run();
        let taken = by_run.remove(run);
        self.n.store(by_run.len(), Ordering::SeqCst);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn time_passes_while_the_clock_is_set_back_and_jumps_while_it_is_set_forward() {
        let clock = Clock::tokio();
        let start = Times::since(&clock, None);
        assert_eq!(start.shown, start.passed);
        let before = Some((start.passed, start.moment));
        clock.set(clock.now() - HOUR);
        tokio::time::advance(HOUR / 4).await;
        let later = Times::since(&clock, before);
        assert_eq!(later.passed, start.passed.after(HOUR / 4));
        assert_eq!(
            later.shown_at(later.passed.after(HOUR)),
            later.shown.after(HOUR)
        );
        clock.set(clock.now() + 2 * HOUR);
        let forward = Times::since(&clock, before);
        assert_eq!(forward.passed, forward.shown);
        assert!(forward.passed > start.passed.after(HOUR));
        // One that was quite wrong before says what time it is.
        clock.set(clock.now() - 48 * HOUR);
        let right = Times::since(&clock, before);
        assert_eq!(right.passed, right.shown);
    }
}
