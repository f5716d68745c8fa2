//! Pools whose tasks nobody takes: whoever offered them is told in the log, once, and then rarely.

use std::time::Duration;

use keepstep_storage::TaskQueue;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::clock::later;

/// How long tasks of a pool wait, and none ends, before it is asked whether anybody serves it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a warning there is another one.
const AGAIN: Duration = Duration::from_secs(3600);

/// The pools in which this engine has offered tasks.
#[derive(Debug, Default)]
pub(super) struct Unserved(FxHashMap<String, Pool>);

#[derive(Debug)]
struct Pool {
    /// How many tasks of this engine are there that have not ended.
    n_offered: usize,
    /// Since when none has ended.
    since: Instant,
    warned_at: Option<Instant>,
}

impl Unserved {
    /// A task was offered.
    pub(super) fn offered(&mut self, pool: &str, now: Instant) {
        if let Some(pool) = self.0.get_mut(pool) {
            pool.n_offered += 1;
            return;
        }
        let new = Pool {
            n_offered: 1,
            since: now,
            warned_at: None,
        };
        self.0.insert(pool.to_owned(), new);
    }

    /// A task has ended: somebody serves the pool.
    pub(super) fn ended(&mut self, pool: &str, now: Instant) {
        if let Some(pool) = self.0.get_mut(pool) {
            pool.since = now;
            pool.warned_at = None;
        }
        self.gone(pool);
    }

    /// A task is nobody's here any more.
    pub(super) fn gone(&mut self, name: &str) {
        if let Some(pool) = self.0.get_mut(name) {
            pool.n_offered = pool.n_offered.saturating_sub(1);
            if pool.n_offered == 0 {
                self.0.remove(name);
            }
        }
    }

    /// Pools of which it is to be asked whether somebody serves them.
    fn doubtful(&self, now: Instant) -> Vec<String> {
        let is_doubtful = |pool: &Pool| {
            now >= later(pool.since, PATIENCE)
                && pool.warned_at.is_none_or(|at| now >= later(at, AGAIN))
        };
        let doubtful = self.0.iter().filter(|(_, pool)| is_doubtful(pool));
        let mut doubtful: Vec<_> = doubtful.map(|(name, _)| name.clone()).collect();
        // In one order, whatever the map's is.
        doubtful.sort_unstable();
        doubtful
    }

    /// Warns of the pools that nobody serves.
    pub(super) async fn look(&mut self, queue: &dyn TaskQueue, now: Instant) {
        let doubtful = self.doubtful(now);
        if doubtful.is_empty() {
            return;
        }
        let unserved = match queue.unserved(&doubtful).await {
            Ok(unserved) => unserved,
            Err(error) => {
                tracing::debug!(%error, "could not look whether pools are served");
                return;
            }
        };
        for name in doubtful {
            let is_unserved = unserved.contains(&name);
            let Some(pool) = self.0.get_mut(&name) else {
                continue;
            };
            if !is_unserved {
                pool.since = now;
                continue;
            }
            let waiting_for = now.duration_since(pool.since);
            pool.warned_at = Some(now);
            tracing::warn!(
                pool = name,
                tasks = pool.n_offered,
                ?waiting_for,
                "remote steps wait, and no worker takes them: start one that serves this pool (`EngineBuilder::pools`) and has \
                 these steps, or raise the pool's limit"
            );
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs a moment, and has no engine"
)]
mod tests {
    use keepstep_storage::{Epoch, LocalTasks, NodeId, Offer, RunId, Wanted};

    use super::*;

    #[test]
    fn a_pool_is_doubtful_when_nothing_of_it_has_ended_for_a_while() {
        let mut pools = Unserved::default();
        let start = Instant::now();
        let at = |seconds| later(start, Duration::from_secs(seconds));
        pools.offered("gpu", at(0));
        pools.offered("cpu", at(20));
        assert!(pools.doubtful(at(29)).is_empty());
        assert_eq!(pools.doubtful(at(30)), ["gpu"]);
        pools.offered("gpu", at(31));
        assert_eq!(pools.doubtful(at(50)), ["cpu", "gpu"]);
        pools.ended("cpu", at(51));
        pools.ended("gpu", at(51));
        // Of the one, nothing is left.
        assert!(pools.doubtful(at(80)).is_empty());
        assert_eq!(pools.doubtful(at(81)), ["gpu"]);
        pools.gone("gpu");
        assert!(pools.doubtful(at(100)).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_warning_is_not_said_again_soon_and_a_pool_with_a_worker_needs_none() {
        let queue = LocalTasks::default();
        let offer = Offer {
            run: RunId::new("run").unwrap(),
            epoch: Epoch(1),
            incarnation: 1,
            step: 1,
            attempt: 1,
            step_name: "step".to_owned(),
            step_version: 1,
            pool: "gpu".to_owned(),
            priority: 0,
            key: None,
            payload: bytes::Bytes::new(),
        };
        queue.offer(&[offer]).await.unwrap();
        let mut pools = Unserved::default();
        let start = Instant::now();
        let at = |seconds| later(start, Duration::from_secs(seconds));
        pools.offered("gpu", at(0));
        pools.look(&queue, at(30)).await;
        assert!(pools.0["gpu"].warned_at.is_some());
        assert!(pools.doubtful(at(3_000)).is_empty());
        assert_eq!(pools.doubtful(at(3_630)), ["gpu"]);
        pools.0.get_mut("gpu").unwrap().warned_at = None;
        let wanted = Wanted {
            node: NodeId(1),
            lease: Duration::from_secs(30),
            pools: None,
            steps: &[("step".to_owned(), 1)],
            limit: 1,
        };
        assert_eq!(queue.take(&wanted).await.unwrap().len(), 1);
        pools.look(&queue, at(40)).await;
        assert!(pools.0["gpu"].warned_at.is_none());
        assert!(pools.doubtful(at(69)).is_empty());
    }
}
