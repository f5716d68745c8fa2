//! When a failed step runs again.

use std::time::Duration;

use crate::step::Backoff;

/// The pause after the `attempt`-th failed execution (1 for the first), or `None` when the retries are used up.
///
/// Exponential backoff with "equal jitter": half of the pause is fixed, the other half random, so that steps that failed
/// together do not come back together, and none comes back at once.
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. `random` is from 0 up to 1.
pub(crate) fn pause(attempt: u32, retries: u32, backoff: Backoff, random: f64) -> Option<Duration> {
    if attempt > retries {
        return None;
    }
    let doubled = backoff.min.saturating_mul(
        1u32.checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    let whole = doubled.min(backoff.max);
    Some(whole / 2 + (whole / 2).mul_f64(random.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
    };

    #[test]
    fn n_retries_make_n_plus_1_executions() {
        for retries in [0, 1, 3] {
            let executions = (1..)
                .take_while(|attempt| pause(*attempt, retries, BACKOFF, 0.5).is_some())
                .count()
                + 1;
            assert_eq!(executions as u32, retries + 1);
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = |random| {
            (1..=11).map(move |n| pause(n, u32::MAX, BACKOFF, random).unwrap().as_millis())
        };
        assert!(pauses(1.0).eq([
            100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000
        ]));
        assert!(pauses(0.0).eq([
            50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000
        ]));
        assert_eq!(
            pause(u32::MAX - 1, u32::MAX, BACKOFF, 1.0),
            Some(BACKOFF.max)
        );
    }
}
