//! Where time comes from. Everything that asks for the time asks here.
//!
//! There are two times. The wall clock says what date it is: it is stored, compared with other processes, and may be set while the
//! process runs. Monotonic time only says how much time has passed in this process. What lasts for a while within the process is
//! measured by the second: a clock that is set must not make a lease, a pause or a look-up longer or shorter.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place where time comes in"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use keepstep_storage::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The longest wait for a time of the wall clock on one timer of the runtime: the clock may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A source of time for an engine.
///
/// The clock shows the wall time, by which deadlines, sleeps and schedules are stored. What an engine measures within its process, such
/// as leases, look-ups and retry pauses, is measured by monotonic time, which goes on evenly when the wall clock is [set](Self::set).
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use keepstep_core::Clock;
///
/// // In a test with paused time, a day passes at once.
/// let clock = Clock::tokio();
/// let before = clock.now();
/// tokio::time::sleep(Duration::from_secs(86_400)).await;
/// assert_eq!(before.duration_since_epoch() + Duration::from_secs(86_400), clock.now().duration_since_epoch());
/// # }
/// # trait Since { fn duration_since_epoch(&self) -> std::time::Duration; }
/// # impl Since for std::time::SystemTime {
/// #     fn duration_since_epoch(&self) -> std::time::Duration { self.duration_since(std::time::UNIX_EPOCH).unwrap() }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    wall: Arc<Wall>,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Tokio { anchor: Instant, at: SystemTime },
}

/// How the wall clock was set.
#[derive(Debug, Default)]
struct Wall {
    /// By how many microseconds it is ahead of its source.
    ahead: AtomicI64,
    was_set: Notify,
}

impl Clock {
    /// The system's clock: the default.
    #[must_use]
    pub fn system() -> Self {
        Self::of(Source::System)
    }

    /// The time at this call, and from then on what tokio's clock says: stands still where that is paused, for tests. It also
    /// stands still while plain functions execute, which then use tokio's threads for blocking calls.
    #[must_use]
    pub fn tokio() -> Self {
        // In whole microseconds, in which times are stored: what a clock shows after it was set is then the same each time.
        let now = Timestamp::from(SystemTime::now());
        Self::of(Source::Tokio {
            anchor: Instant::now(),
            at: now.into(),
        })
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            wall: Arc::default(),
        }
    }

    /// The wall time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let time = match &self.source {
            Source::System => SystemTime::now(),
            Source::Tokio { anchor, at } => *at + anchor.elapsed(),
        };
        let ahead = self.wall.ahead.load(Ordering::Relaxed);
        let by = Duration::from_micros(ahead.unsigned_abs());
        let set = match ahead {
            0 => return time,
            1.. => time.checked_add(by),
            _ => time.checked_sub(by),
        };
        set.unwrap_or(time)
    }

    /// Sets the wall clock, forward or back, for this clock and all its clones: for tests. It goes on from `time`.
    ///
    /// Monotonic time goes on as before, as it does when the clock of a machine is set: what is measured within a process takes
    /// no longer and no shorter. Who waits for a time of a [`tokio`](Self::tokio) clock looks at it at once, and who waits for one of
    /// the [system's](Self::system) within 30 seconds.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// use std::time::Duration;
    /// use keepstep_core::{Clock, Engine, sleep};
    ///
    /// let clock = Clock::tokio();
    /// let engine = Engine::builder().clock(clock.clone()).open("memory:").await?;
    /// let start = tokio::time::Instant::now();
    /// let run = engine.start("tea", sleep(Duration::from_secs(240))).await?;
    ///
    /// // Whoever keeps the machine's clock finds that it was an hour slow.
    /// clock.set(clock.now() + Duration::from_secs(3600));
    /// run.await?;
    /// assert!(start.elapsed() < Duration::from_secs(1));
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn set(&self, time: SystemTime) {
        let micros = |by: Duration| i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let by = match time.duration_since(self.now()) {
            Ok(forward) => micros(forward),
            Err(back) => -micros(back.duration()),
        };
        self.wall.ahead.fetch_add(by, Ordering::Relaxed);
        self.wall.was_set.notify_waiters();
    }

    /// Whether it may be paused.
    pub(crate) fn is_tokios(&self) -> bool {
        matches!(self.source, Source::Tokio { .. })
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        self.now().into()
    }

    /// Waits for as long as that takes by monotonic time.
    pub(crate) async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until a moment of monotonic time.
    pub(crate) async fn sleep_until(&self, moment: Instant) {
        tokio::time::sleep_until(moment).await;
    }

    /// The moment that is so far from now, by monotonic time.
    pub(crate) fn after(&self, duration: Duration) -> Instant {
        later(self.instant(), duration)
    }

    /// The monotonic time.
    pub(crate) fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Waits until a moment, or until the wall clock may have been set: the caller looks at it.
    #[cfg(feature = "schedules")]
    pub(crate) async fn until_set(&self, moment: Instant) {
        let was_set = self.wall.was_set.notified();
        match self.source {
            Source::System => {
                let look_at = self.after(LONGEST_WAIT);
                tokio::time::sleep_until(moment.min(look_at)).await;
            }
            Source::Tokio { .. } => tokio::select! {
                () = tokio::time::sleep_until(moment) => {}
                () = was_set => {}
            },
        }
    }

    /// Waits until the wall clock shows a time, or for a while if that is far: the caller looks at the clock again.
    pub(crate) async fn sleep_towards(&self, due_at: Timestamp) {
        let was_set = self.wall.was_set.notified();
        let left = self.timestamp().until(due_at);
        // A timer of the runtime may fire a little before the microsecond it was set for.
        let early = Duration::from_millis(1);
        match self.source {
            Source::System => tokio::time::sleep(left.min(LONGEST_WAIT) + early).await,
            Source::Tokio { .. } => tokio::select! {
                () = tokio::time::sleep(left + early) => {}
                () = was_set => {}
            },
        }
    }
}

/// A moment so much later; a far one where that does not fit.
pub(crate) fn later(moment: Instant, by: Duration) -> Instant {
    /// Thirty years, as in tokio: not every system has moments that are further away.
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    moment.checked_add(by.min(FAR)).unwrap_or(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_goes_on_and_monotonic_time_does_not_jump() {
        for clock in [Clock::tokio(), Clock::system()] {
            let (start, before) = (clock.instant(), clock.now());
            let other = clock.clone();
            let shows = |time: SystemTime| {
                let second = Duration::from_secs(1);
                (time - second..time + HOUR / 60).contains(&other.now())
            };
            clock.set(before + HOUR);
            assert!(shows(before + HOUR));
            clock.set(before - HOUR);
            assert!(shows(before - HOUR));
            assert_eq!(clock.instant(), start);
        }
        // Neither the beginning of time nor its end makes it fail.
        let clock = Clock::tokio();
        clock.set(SystemTime::UNIX_EPOCH);
        assert_eq!(clock.timestamp(), Timestamp(0));
        tokio::time::advance(HOUR).await;
        assert_eq!(clock.timestamp(), Timestamp(0).after(HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_shows_that_time_to_the_microsecond() {
        let time = SystemTime::UNIX_EPOCH + HOUR;
        for _ in 0..1_000 {
            let clock = Clock::tokio();
            clock.set(time);
            assert_eq!(clock.now(), time);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_time_hears_that_the_clock_was_set() {
        let clock = Clock::tokio();
        let start = clock.instant();
        let due_at = clock.timestamp().after(HOUR);
        let waits = clock.sleep_towards(due_at);
        let set = async { clock.set(clock.now() + HOUR) };
        tokio::join!(waits, set);
        assert!(clock.timestamp() >= due_at);
        assert_eq!(clock.instant(), start);
    }

    #[test]
    fn a_moment_that_does_not_fit_is_far_away() {
        let now = Instant::now();
        assert!(later(now, Duration::MAX) > now + HOUR * 24 * 365);
        assert_eq!(later(now, HOUR), now + HOUR);
    }
}
