//! Pauses before something is tried again that failed. They grow with each failure in a row, for each id by itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepstep_storage::RunId;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::Shared;
use crate::clock::later;
use crate::executor::Wake;

/// How pauses grow: see [`Pauses::failed`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    /// The pause after the first failure.
    pub(crate) first: Duration,
    /// No pause is longer.
    pub(crate) longest: Duration,
}

impl Growth {
    /// Of attempts that only read: nothing happens but that they are late.
    pub(crate) const OF_READS: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(30),
    };
    /// Of children that a parent begins again.
    pub(crate) const OF_CHILDREN: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(300),
    };
    /// Of schedules that start their runs.
    #[cfg(feature = "schedules")]
    pub(crate) const OF_SCHEDULES: Self = Self {
        first: Duration::from_secs(10),
        longest: Duration::from_secs(120),
    };
    /// Of attempts that execute bodies again.
    pub(crate) const OF_BODIES: Self = Self {
        first: Duration::from_secs(10),
        longest: Duration::from_secs(300),
    };
}

/// Beyond this number of ids, those whose pause is over are forgotten: their next pause is a first one.
const MANY: usize = 100_000;

/// The pauses of an engine.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    by_id: Mutex<FxHashMap<RunId, Pause>>,
    /// How many there are. While there are none, nobody takes the lock.
    n: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    /// How long it would be without chance.
    length: Duration,
    /// `None`: nobody knows.
    until: Option<Instant>,
}

impl Pause {
    fn lasts(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl Pauses {
    fn by_id(&self) -> MutexGuard<'_, FxHashMap<RunId, Pause>> {
        // Nothing that holds the lock can panic half-way through a change.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failure, and says until when the next attempt waits: after the first failure for about `growth.first`, then about
    /// twice as long each time, at most `growth.longest`. `random` is from 0 up to 1: what failed together is not tried again
    /// together.
    ///
    /// A failure that comes while a pause lasts changes nothing: somebody else made that attempt.
    pub(crate) fn failed(&self, id: &RunId, growth: Growth, now: Instant, random: f64) -> Instant {
        let mut by_id = self.by_id();
        let last = by_id.get(id).copied();
        if let Some(last) = last.filter(|last| last.lasts(now)) {
            return last.until.unwrap_or_else(|| later(now, Duration::MAX));
        }
        let length = last.map_or(growth.first, |last| last.length * 2);
        let length = length.min(growth.longest);
        let until = later(now, length.mul_f64(1.0 - random / 4.0));
        if by_id.len() >= MANY {
            by_id.retain(|_, pause| pause.lasts(now));
        }
        let pause = Pause {
            length,
            until: Some(until),
        };
        by_id.insert(id.clone(), pause);
        self.n.store(by_id.len(), Ordering::SeqCst);
        until
    }

    /// Holds something back until it has succeeded: nothing but an attempt that somebody makes can.
    pub(crate) fn hold(&self, id: &RunId) {
        let pause = Pause {
            length: Duration::ZERO,
            until: None,
        };
        let mut by_id = self.by_id();
        by_id.insert(id.clone(), pause);
        self.n.store(by_id.len(), Ordering::SeqCst);
    }

    /// What failed is tried again now, by whoever: nothing holds it back any more. Its next pause is longer all the same.
    pub(crate) fn is_over(&self, id: &RunId, now: Instant) {
        if self.n.load(Ordering::SeqCst) > 0
            && let Some(pause) = self.by_id().get_mut(id)
        {
            pause.until = pause.until.map(|until| until.min(now));
        }
    }

    /// What failed has succeeded, or is not there any more: its next pause is a first one.
    pub(crate) fn succeeded(&self, id: &RunId) {
        if self.n.load(Ordering::SeqCst) > 0 {
            let mut by_id = self.by_id();
            by_id.remove(id);
            self.n.store(by_id.len(), Ordering::SeqCst);
        }
    }

    /// Whether something is not to be tried again yet.
    pub(crate) fn holds(&self, id: &RunId, now: Instant) -> bool {
        self.n.load(Ordering::SeqCst) > 0
            && self.by_id().get(id).is_some_and(|pause| pause.lasts(now))
    }
}

impl Shared {
    /// Has a run, an actor or a schedule woken again that failed, after a pause: see [`Pauses::failed`]. Until then, nothing that
    /// is due wakes it. How long the pause is.
    ///
    /// Whoever calls this calls [`Pauses::succeeded`] when it succeeds.
    pub(crate) fn wake_again(&self, id: &RunId, growth: Growth) -> Duration {
        let now = self.clock.instant();
        let until = self.pauses.failed(id, growth, now, self.random());
        drop(self.timers.send(Wake::Again(until, id.clone())));
        until.duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Growth::OF_BODIES.first;

    fn id(id: &str) -> RunId {
        RunId::new(id).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "any moment is as good")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn pauses_double_with_each_failure_and_begin_anew_after_a_success() {
        let pauses = Pauses::default();
        let mut now = start();
        let mut lengths = Vec::new();
        for _ in 0..8 {
            let until = pauses.failed(&id("a"), Growth::OF_BODIES, now, 0.0);
            lengths.push((until - now).as_secs());
            assert!(pauses.holds(&id("a"), now));
            assert!(!pauses.holds(&id("a"), until));
            now = until;
        }
        assert_eq!(lengths, [10, 20, 40, 80, 160, 300, 300, 300]);
        // Of another id, it is the first.
        let until = pauses.failed(&id("b"), Growth::OF_BODIES, now, 0.0);
        assert_eq!(until - now, FIRST);
        pauses.succeeded(&id("a"));
        assert!(!pauses.holds(&id("a"), now));
        let until = pauses.failed(&id("a"), Growth::OF_BODIES, now, 0.0);
        assert_eq!(until - now, FIRST);
    }

    #[test]
    fn a_failure_within_a_pause_neither_lengthens_it_nor_the_next() {
        let pauses = Pauses::default();
        let start = start();
        let until = pauses.failed(&id("a"), Growth::OF_BODIES, start, 0.0);
        for at in 1..10 {
            let now = start + Duration::from_secs(at);
            assert_eq!(pauses.failed(&id("a"), Growth::OF_BODIES, now, 0.0), until);
        }
        let next = pauses.failed(&id("a"), Growth::OF_BODIES, until, 0.0);
        assert_eq!(next - start, FIRST * 3);
    }

    #[test]
    fn what_is_tried_within_a_pause_is_not_held_back_and_its_next_pause_is_longer() {
        let pauses = Pauses::default();
        let start = start();
        pauses.failed(&id("a"), Growth::OF_BODIES, start, 0.0);
        pauses.is_over(&id("a"), start);
        assert!(!pauses.holds(&id("a"), start));
        let until = pauses.failed(&id("a"), Growth::OF_BODIES, start, 0.0);
        assert_eq!(until - start, FIRST * 2);
        pauses.hold(&id("b"));
        pauses.is_over(&id("b"), start);
        assert!(pauses.holds(&id("b"), start), "nobody has tried it");
    }

    #[test]
    fn chance_makes_a_pause_shorter_by_a_quarter_at_most() {
        let pauses = Pauses::default();
        let start = start();
        let until = pauses.failed(&id("a"), Growth::OF_BODIES, start, 1.0);
        assert_eq!(until - start, FIRST * 3 / 4);
    }

    #[test]
    fn what_is_held_stays_so_until_it_succeeds() {
        let pauses = Pauses::default();
        pauses.hold(&id("a"));
        let late = later(start(), Duration::MAX);
        assert!(pauses.holds(&id("a"), late));
        pauses.succeeded(&id("a"));
        assert!(!pauses.holds(&id("a"), late));
    }
}
