//! Runs that this engine lost together with its leases, time and again: whoever executes one of them may always lose its leases by
//! that. Such a run rests before the engine gives it up, since others would take it at once.
//!
//! A store does the same with runs that it takes from an owner whose leases have ended. It cannot tell a run that was given up because
//! of that from one that was given up in order.

use std::time::Duration;

use keepstep_storage::RunId;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::clock::later;

/// So often in a row a run may be lost before it rests.
const BEFORE_A_REST: u32 = 3;
/// The longest rest, in leases.
const LONGEST: u32 = 20;
/// Of more runs than this, those that do not rest are forgotten.
const MANY: usize = 10_000;

/// Runs that were lost.
#[derive(Debug, Default)]
pub(super) struct Rests(FxHashMap<RunId, Rest>);

#[derive(Debug)]
struct Rest {
    /// How often the run was lost in a row.
    times: u32,
    /// How many of its steps had come to something.
    with: u64,
    ends_at: Instant,
}

impl Rests {
    /// A run is lost with the leases, so many of its steps done. How long it rests.
    pub(super) fn lost(
        &mut self,
        id: &RunId,
        with: u64,
        lease: Duration,
        now: Instant,
    ) -> Duration {
        if self.0.len() >= MANY {
            self.0.retain(|_, rest| rest.ends_at > now);
        }
        let before = self.0.get(id).filter(|rest| rest.with == with);
        let times = before.map_or(1, |rest| rest.times.saturating_add(1));
        let n_leases = match times.checked_sub(BEFORE_A_REST) {
            None => 0,
            Some(more) => 2_u32.saturating_pow(more + 1).min(LONGEST),
        };
        let length = lease * n_leases;
        let rest = Rest {
            times,
            with,
            ends_at: later(now, length),
        };
        self.0.insert(id.clone(), rest);
        length
    }

    pub(super) fn is_resting(&self, id: &RunId, now: Instant) -> bool {
        self.0.get(id).is_some_and(|rest| rest.ends_at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn a_run_that_is_lost_again_and_again_rests_for_longer_and_longer_until_it_gets_on() {
        let mut rests = Rests::default();
        let run = RunId::new("run").unwrap();
        #[expect(clippy::disallowed_methods, reason = "any moment is as good")]
        let mut now = Instant::now();
        let mut lost = |with, now| rests.lost(&run, with, LEASE, now).as_secs() / 30;
        let lengths: Vec<u64> = (0..9).map(|_| lost(0, now)).collect();
        assert_eq!(lengths, [0, 0, 2, 4, 8, 16, 20, 20, 20]);
        // A step was done.
        assert_eq!(lost(1, now), 0);
        assert_eq!(lost(1, now), 0);
        assert_eq!(lost(1, now), 2);
        assert!(rests.is_resting(&run, now));
        now += 2 * LEASE;
        assert!(!rests.is_resting(&run, now));
    }
}
