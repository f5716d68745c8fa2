//! Where time comes from. Everything that asks for the time asks here.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place where time comes in"
)]

use std::time::{Duration, SystemTime};

use keepstep_storage::Timestamp;

/// The longest wait on one timer of the runtime: the system's clock may be set while it runs.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A source of time for an engine.
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
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Tokio {
        anchor: tokio::time::Instant,
        at: SystemTime,
    },
}

impl Clock {
    /// The system's clock: the default.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The time at this call, and from then on what tokio's clock says: stands still where that is paused, for tests.
    #[must_use]
    pub fn tokio() -> Self {
        Self(Source::Tokio {
            anchor: tokio::time::Instant::now(),
            at: SystemTime::now(),
        })
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::System => SystemTime::now(),
            Source::Tokio { anchor, at } => *at + anchor.elapsed(),
        }
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        self.now().into()
    }

    /// Waits until a time, or for a while if that is far: the caller looks at the clock again.
    pub(crate) async fn sleep_towards(&self, due_at: Timestamp) {
        let left = self.timestamp().until(due_at);
        let wait = match self.0 {
            Source::System => left.min(LONGEST_WAIT),
            Source::Tokio { .. } => left,
        };
        // A timer of the runtime may fire a little before the microsecond it was set for.
        tokio::time::sleep(wait + Duration::from_millis(1)).await;
    }
}
