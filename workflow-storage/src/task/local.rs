//! A queue of tasks in memory: for a process that has its store to itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    FinishOutcome, Held, Limit, Offer, Offered, Removal, Task, TaskId, TaskQueue, TaskResult,
    Wanted,
};
use crate::{NodeId, Result, RunId};

/// Tasks in memory. Nothing of them outlives the process, nor has to: the run's owner is in it, and offers them again.
///
/// It knows no runs. So it refuses no offer, whoever lets go of a run has to remove what the run has here, and blobs are the
/// caller's to keep. Leases mean nothing, since whoever holds a task is in this process.
#[derive(Debug, Default)]
pub struct LocalTasks(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    last: u64,
    tasks: HashMap<TaskId, Entry>,
    /// Tasks by run, incarnation, step and attempt.
    known: HashMap<(RunId, u64, u64, u32), TaskId>,
    pools: BTreeMap<String, Pool>,
}

#[derive(Debug)]
struct Entry {
    offer: Offer,
    claim: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    Taken(NodeId),
    Done { by: NodeId, result: Bytes },
}

/// The order in which tasks are taken.
type Rank = (Reverse<i32>, TaskId);

#[derive(Debug, Default)]
struct Pool {
    at_once: Option<u32>,
    at_once_per_key: Option<u32>,
    n_taken: u32,
    lanes: HashMap<Option<String>, Lane>,
    /// The first of each lane that has room.
    heads: BTreeSet<(Rank, Option<String>)>,
}

/// The tasks of one key.
#[derive(Debug, Default)]
struct Lane {
    waiting: BTreeSet<Rank>,
    n_taken: u32,
    /// Its entry among the heads.
    head: Option<Rank>,
}

impl Entry {
    fn rank(&self, task: TaskId) -> Rank {
        (Reverse(self.offer.priority), task)
    }

    fn holds(&self, node: NodeId, claim: u64) -> bool {
        self.claim == claim && matches!(self.state, State::Taken(by) if by == node)
    }
}

impl Pool {
    fn has_room(&self) -> bool {
        self.at_once.is_none_or(|limit| self.n_taken < limit)
    }

    /// Brings the entry of a lane among the heads up to date.
    fn show(&mut self, key: &Option<String>) {
        let limit = self.at_once_per_key.filter(|_| key.is_some());
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let has_room = limit.is_none_or(|limit| lane.n_taken < limit);
        let head = lane.waiting.first().copied().filter(|_| has_room);
        if head != lane.head {
            if let Some(old) = std::mem::replace(&mut lane.head, head) {
                self.heads.remove(&(old, key.clone()));
            }
            if let Some(new) = head {
                self.heads.insert((new, key.clone()));
            }
        }
        if lane.waiting.is_empty() && lane.n_taken == 0 {
            self.lanes.remove(key);
        }
    }

    fn show_all(&mut self) {
        let keys: Vec<_> = self.lanes.keys().cloned().collect();
        keys.iter().for_each(|key| self.show(key));
    }

    fn add(&mut self, key: &Option<String>, rank: Rank) {
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.waiting.insert(rank);
        self.show(key);
    }

    fn remove(&mut self, key: &Option<String>, rank: Rank) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.waiting.remove(&rank);
        }
        self.show(key);
    }

    fn count(&mut self, key: &Option<String>, is_taken: bool) {
        let change = |n: &mut u32| match is_taken {
            true => *n += 1,
            false => *n = n.saturating_sub(1),
        };
        change(&mut self.n_taken);
        change(&mut self.lanes.entry(key.clone()).or_default().n_taken);
        self.show(key);
    }
}

impl Queue {
    /// The first task that may be taken, and that is one of these steps.
    fn first(&self, wanted: &Wanted<'_>) -> Option<(Rank, String, Option<String>)> {
        let is_wanted = |pool: &String| {
            wanted
                .pools
                .is_none_or(|pools| pools.iter().any(|own| own == pool))
        };
        let pools = self.pools.iter();
        let open = pools.filter(|(name, pool)| is_wanted(name) && pool.has_room());
        let firsts = open.filter_map(|(name, pool)| {
            let heads = pool.heads.iter().map(|(head, key)| (*head, key));
            let of_lane = |(head, key): (Rank, &Option<String>)| {
                let known = |rank: &&Rank| self.is_one_of(rank.1, wanted.steps);
                let first = match known(&&head) {
                    true => Some(head),
                    // A lane whose first is not for this worker may have others that are.
                    false => pool.lanes.get(key)?.waiting.iter().find(known).copied(),
                };
                Some((first?, name.clone(), key.clone()))
            };
            let mut first: Option<(Rank, String, Option<String>)> = None;
            for head in heads {
                // No lane that begins later has anything earlier.
                if first.as_ref().is_some_and(|(rank, ..)| *rank < head.0) {
                    break;
                }
                first = [first, of_lane(head)].into_iter().flatten().min();
            }
            first
        });
        firsts.min()
    }

    fn is_one_of(&self, task: TaskId, steps: &[(String, u32)]) -> bool {
        self.tasks.get(&task).is_some_and(|entry| {
            let mut steps = steps.iter();
            steps.any(|(name, version)| {
                *version == entry.offer.step_version && *name == entry.offer.step_name
            })
        })
    }

    fn pool(&mut self, name: &str) -> &mut Pool {
        self.pools.entry(name.to_owned()).or_default()
    }

    fn offered(&self, task: TaskId) -> Option<Offered> {
        let result = match &self.tasks.get(&task)?.state {
            State::Done { result, .. } => Some(result.clone()),
            _ => None,
        };
        Some(Offered { task, result })
    }

    fn remove(&mut self, task: TaskId, also_done: bool) {
        let Some(entry) = self.tasks.get(&task) else {
            return;
        };
        if matches!(entry.state, State::Done { .. }) && !also_done {
            return;
        }
        let Some(entry) = self.tasks.remove(&task) else {
            return;
        };
        let rank = entry.rank(task);
        let Offer { pool, key, .. } = &entry.offer;
        match entry.state {
            State::Waiting => self.pool(pool).remove(key, rank),
            State::Taken(_) => self.pool(pool).count(key, false),
            State::Done { .. } => {}
        }
        let offer = entry.offer;
        self.known
            .remove(&(offer.run, offer.incarnation, offer.step, offer.attempt));
    }
}

impl LocalTasks {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TaskQueue for LocalTasks {
    async fn offer(&self, offers: &[Offer]) -> Result<Vec<Option<Offered>>> {
        let mut queue = self.queue();
        let mut offered = Vec::with_capacity(offers.len());
        for offer in offers {
            let key = (
                offer.run.clone(),
                offer.incarnation,
                offer.step,
                offer.attempt,
            );
            if let Some(known) = queue.known.get(&key).copied() {
                offered.push(queue.offered(known));
                continue;
            }
            queue.last += 1;
            let task = TaskId(queue.last);
            let entry = Entry {
                offer: offer.clone(),
                claim: 0,
                state: State::Waiting,
            };
            queue.pool(&offer.pool).add(&offer.key, entry.rank(task));
            queue.tasks.insert(task, entry);
            queue.known.insert(key, task);
            offered.push(Some(Offered { task, result: None }));
        }
        Ok(offered)
    }

    async fn take(&self, wanted: &Wanted<'_>) -> Result<Vec<Task>> {
        let mut queue = self.queue();
        let mut taken = Vec::new();
        while taken.len() < wanted.limit
            && let Some((rank, name, key)) = queue.first(wanted)
        {
            let pool = queue.pool(&name);
            pool.remove(&key, rank);
            pool.count(&key, true);
            let task = rank.1;
            let Some(entry) = queue.tasks.get_mut(&task) else {
                continue;
            };
            entry.claim += 1;
            entry.state = State::Taken(wanted.node);
            taken.push(Task {
                held: Held {
                    task,
                    claim: entry.claim,
                },
                run: entry.offer.run.clone(),
                incarnation: entry.offer.incarnation,
                step: entry.offer.step,
                attempt: entry.offer.attempt,
                payload: entry.offer.payload.clone(),
                n_lost: 0,
            });
        }
        Ok(taken)
    }

    async fn finish(&self, node: NodeId, results: &[TaskResult]) -> Result<Vec<FinishOutcome>> {
        let mut queue = self.queue();
        let mut outcomes = Vec::with_capacity(results.len());
        for TaskResult { held, bytes, .. } in results {
            let mut outcome = FinishOutcome::Stale;
            if let Some(entry) = queue.tasks.get_mut(&held.task) {
                if entry.holds(node, held.claim) {
                    let result = bytes.clone();
                    entry.state = State::Done { by: node, result };
                    let (pool, key) = (entry.offer.pool.clone(), entry.offer.key.clone());
                    queue.pool(&pool).count(&key, false);
                    outcome = FinishOutcome::Accepted;
                } else if entry.claim == held.claim
                    && matches!(entry.state, State::Done { by, .. } if by == node)
                {
                    outcome = FinishOutcome::Accepted;
                }
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    async fn give_back(&self, node: NodeId, held: &[Held]) -> Result<()> {
        let mut queue = self.queue();
        for Held { task, claim } in held {
            let Some(entry) = queue.tasks.get_mut(task) else {
                continue;
            };
            if !entry.holds(node, *claim) {
                continue;
            }
            entry.state = State::Waiting;
            let rank = entry.rank(*task);
            let (pool, key) = (entry.offer.pool.clone(), entry.offer.key.clone());
            let pool = queue.pool(&pool);
            pool.count(&key, false);
            pool.add(&key, rank);
        }
        Ok(())
    }

    async fn held(&self, node: NodeId) -> Result<Vec<Held>> {
        let queue = self.queue();
        let held = |(task, entry): (&TaskId, &Entry)| {
            let held = Held {
                task: *task,
                claim: entry.claim,
            };
            entry.holds(node, entry.claim).then_some(held)
        };
        let mut held: Vec<_> = queue.tasks.iter().filter_map(held).collect();
        held.sort_unstable();
        Ok(held)
    }

    async fn look(&self, tasks: &[TaskId]) -> Result<Vec<Offered>> {
        let queue = self.queue();
        let looked = tasks.iter().filter_map(|task| queue.offered(*task));
        Ok(looked.collect())
    }

    async fn remove(&self, removals: &[Removal]) -> Result<()> {
        let mut queue = self.queue();
        for removal in removals {
            queue.remove(removal.task, removal.also_done);
        }
        Ok(())
    }

    async fn set_limit(&self, pool: &str, limit: Limit, at_once: Option<u32>) -> Result<()> {
        let mut queue = self.queue();
        let pool = queue.pool(pool);
        match limit {
            Limit::AtOnce => pool.at_once = at_once,
            Limit::AtOncePerKey => pool.at_once_per_key = at_once,
        }
        pool.show_all();
        Ok(())
    }

    async fn unserved(&self, pools: &[String]) -> Result<Vec<String>> {
        let queue = self.queue();
        let is_unserved = |name: &&String| {
            let pool = queue.pools.get(*name);
            pool.is_some_and(|pool| {
                let mut lanes = pool.lanes.values();
                pool.n_taken == 0 && lanes.any(|lane| !lane.waiting.is_empty())
            })
        };
        Ok(pools.iter().filter(is_unserved).cloned().collect())
    }

    async fn limit(&self, pool: &str, limit: Limit) -> Result<Option<u32>> {
        let queue = self.queue();
        Ok(queue.pools.get(pool).and_then(|pool| match limit {
            Limit::AtOnce => pool.at_once,
            Limit::AtOncePerKey => pool.at_once_per_key,
        }))
    }
}
