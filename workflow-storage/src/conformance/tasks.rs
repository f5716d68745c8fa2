//! Tasks are offered, taken, finished and removed, within the limits of their pools.
//!
//! A store without a queue of its own stands for its process's: the cases then check [`LocalTasks`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::kit::*;
use crate::{
    FinishOutcome, Held, Limit, LocalTasks, NodeId, Offer, Offered, Removal, Storage, Task, TaskId,
    TaskQueue, TaskResult, Wanted,
};

/// The queue of a store, or of its process.
struct Tasks {
    store: Arc<dyn Storage>,
    local: LocalTasks,
    run: Owned,
}

impl Tasks {
    async fn open(stores: Stores<'_>) -> Self {
        let store = stores.open().await;
        let run = Owned::new("run").create(&*store).await;
        store.renew(NODE, LEASE).await.unwrap();
        Self {
            store,
            local: LocalTasks::default(),
            run,
        }
    }

    fn queue(&self) -> &dyn TaskQueue {
        self.store.tasks().unwrap_or(&self.local)
    }

    /// An execution of `step` that is called after its number.
    fn of(&self, step: u64) -> Offer {
        Offer {
            run: self.run.run.clone(),
            epoch: self.run.record.epoch,
            incarnation: self.run.record.incarnation,
            step,
            attempt: 1,
            step_name: "step".to_owned(),
            step_version: 1,
            pool: "pool".to_owned(),
            priority: 0,
            key: None,
            payload: format!("{step}").into(),
        }
    }

    async fn offer(&self, offers: &[Offer]) -> Vec<TaskId> {
        let offered = self.queue().offer(offers).await.unwrap();
        let offered = offered.into_iter().map(|offered| offered.unwrap().task);
        offered.collect()
    }

    async fn take(&self, node: NodeId, limit: usize) -> Vec<Task> {
        let pools = ["pool".to_owned()];
        self.take_of(node, Some(&pools), &[("step", 1)], limit)
            .await
    }

    async fn take_of(
        &self,
        node: NodeId,
        pools: Option<&[String]>,
        steps: &[(&str, u32)],
        limit: usize,
    ) -> Vec<Task> {
        let steps: Vec<_> = steps.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        let wanted = Wanted {
            node,
            lease: LEASE,
            pools,
            steps: &steps,
            limit,
        };
        self.queue().take(&wanted).await.unwrap()
    }

    async fn finish(&self, node: NodeId, held: Held, result: &str) -> FinishOutcome {
        let result = TaskResult {
            held,
            bytes: Bytes::copy_from_slice(result.as_bytes()),
            stands: true,
            declines: false,
            blobs: vec![],
        };
        self.queue().finish(node, &[result]).await.unwrap()[0]
    }

    fn removal(&self, task: TaskId, also_done: bool) -> Removal {
        Removal {
            task,
            epoch: self.run.record.epoch,
            also_done,
        }
    }
}

const LEASE: Duration = Duration::from_secs(60);

fn steps(tasks: &[Task]) -> Vec<u64> {
    tasks.iter().map(|task| task.step).collect()
}

/// A worker gets what was offered, whole, and nobody gets it again.
pub async fn tasks_are_taken_once_as_they_were_offered(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    assert_eq!(tasks.take(NODE, ALL).await, []);
    let offers: Vec<_> = SIZES
        .into_iter()
        .zip(0..)
        .map(|(size, step)| Offer {
            payload: noise(size, step),
            attempt: 3,
            ..tasks.of(step)
        })
        .collect();
    let numbers = tasks.offer(&offers).await;
    assert!(numbers.is_sorted());
    let (mut first, rest) = (tasks.take(NODE, 2).await, tasks.take(OTHER_NODE, ALL).await);
    assert_eq!((first.len(), rest.len()), (2, SIZES.len() - 2));
    first.extend(rest);
    for ((task, offer), number) in first.iter().zip(&offers).zip(numbers) {
        assert_eq!(task.held.task, number);
        assert_eq!((&task.run, task.attempt), (&offer.run, 3));
        assert_eq!(
            (task.step, task.incarnation),
            (offer.step, offer.incarnation)
        );
        assert!(
            task.payload == offer.payload,
            "{} bytes",
            offer.payload.len()
        );
    }
    assert_eq!(tasks.take(NODE, ALL).await, []);
}

/// Higher priorities come first, over all steps and pools, and elders among equals.
pub async fn tasks_come_by_priority_then_by_age(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let priorities = [0, 5, -1, 5, i32::MAX, 0, i32::MIN];
    let offers: Vec<_> = priorities
        .into_iter()
        .zip(0..)
        .map(|(priority, step)| Offer {
            priority,
            step_name: format!("step{}", step % 2),
            pool: format!("pool{}", step % 3),
            ..tasks.of(step)
        })
        .collect();
    tasks.offer(&offers).await;
    let known = [("step0", 1), ("step1", 1)];
    let mut taken = tasks.take_of(NODE, None, &known, 3).await;
    assert_eq!(steps(&taken), [4, 1, 3]);
    taken = tasks.take_of(NODE, None, &known, ALL).await;
    assert_eq!(steps(&taken), [0, 5, 2, 6]);
}

/// A worker is given only what it has asked for: its pools, and the steps that it has in their versions.
pub async fn workers_take_only_what_is_theirs(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let other_pool = Offer {
        pool: "other".to_owned(),
        ..tasks.of(1)
    };
    let other_version = Offer {
        step_version: 2,
        ..tasks.of(2)
    };
    let long = "x".repeat(5_000);
    let other_step = Offer {
        step_name: long.clone(),
        ..tasks.of(3)
    };
    let offers = [tasks.of(0), other_pool, other_version, other_step];
    tasks.offer(&offers).await;
    assert_eq!(steps(&tasks.take(NODE, ALL).await), [0]);
    let pools = ["pool".to_owned(), "unknown".to_owned()];
    let of = async |pools, known: &[_]| steps(&tasks.take_of(NODE, pools, known, ALL).await);
    assert_eq!(of(Some(&pools), &[("step", 2)]).await, [2]);
    assert_eq!(of(Some(&[]), &[("step", 1), (&*long, 1)]).await, []);
    assert_eq!(of(None, &[("step", 3), ("ste", 1)]).await, []);
    assert_eq!(of(None, &[("step", 1), (&*long, 1)]).await, [1, 3]);
}

/// A new owner of a run finds what was offered before, and its result.
pub async fn a_task_that_is_offered_again_is_found(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let offers = [tasks.of(0), tasks.of(1), tasks.of(2)];
    let numbers = tasks.offer(&offers).await;
    let taken = tasks.take(NODE, 2).await;
    assert_eq!(
        tasks.finish(NODE, taken[0].held, "result").await,
        FinishOutcome::Accepted
    );
    let later = Offer {
        attempt: 2,
        ..tasks.of(0)
    };
    let again: Vec<_> = [offers[2].clone(), offers[0].clone(), later].into();
    let again = tasks.queue().offer(&again).await.unwrap();
    let offered = |task, result: Option<&'static str>| Offered {
        task,
        result: result.map(Bytes::from),
    };
    assert_eq!(again[0], Some(offered(numbers[2], None)));
    assert_eq!(again[1], Some(offered(numbers[0], Some("result"))));
    let later = again[2].clone().unwrap();
    assert!(later.task > numbers[2] && later.result.is_none());
    // Nobody takes what is done or taken.
    assert_eq!(steps(&tasks.take(OTHER_NODE, ALL).await), [2, 0]);
    let mut looked = tasks.queue().look(&numbers).await.unwrap();
    looked.sort_by_key(|offered| offered.task);
    let expected = [(0, Some("result")), (1, None), (2, None)];
    assert_eq!(
        looked,
        expected.map(|(n, result)| offered(numbers[n], result))
    );
}

/// Only who holds a task finishes it, under the claim under which it is held.
pub async fn a_result_of_one_who_lost_the_task_is_refused(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    tasks.offer(&[tasks.of(0)]).await;
    let first = tasks.take(NODE, 1).await[0].held;
    let stale = FinishOutcome::Stale;
    assert_eq!(tasks.finish(OTHER_NODE, first, "theirs").await, stale);
    tasks.queue().give_back(OTHER_NODE, &[first]).await.unwrap();
    assert_eq!(tasks.queue().held(NODE).await.unwrap(), [first]);

    tasks.queue().give_back(NODE, &[first]).await.unwrap();
    assert_eq!(tasks.queue().held(NODE).await.unwrap(), []);
    assert_eq!(tasks.finish(NODE, first, "late").await, stale);
    let second = tasks.take(NODE, 1).await[0].held;
    assert_eq!(second.task, first.task);
    assert!(second.claim > first.claim);
    assert_eq!(tasks.finish(NODE, first, "late").await, stale);
    tasks.queue().give_back(NODE, &[first]).await.unwrap();
    assert_eq!(tasks.queue().held(NODE).await.unwrap(), [second]);

    // An answer may be lost: the same again is accepted, and another does not replace it.
    for result in ["result", "result"] {
        let outcome = tasks.finish(NODE, second, result).await;
        assert_eq!(outcome, FinishOutcome::Accepted);
    }
    let looked = tasks.queue().look(&[second.task]).await.unwrap();
    assert_eq!(looked[0].result.as_deref(), Some(&b"result"[..]));
    let unknown = Held {
        task: TaskId(1 << 40),
        claim: 1,
    };
    assert_eq!(tasks.finish(NODE, unknown, "x").await, stale);
}

/// What is removed is gone, with its result only if that is wanted, and the same attempt may be offered anew.
pub async fn removed_tasks_are_gone(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let offers: Vec<_> = (0..3).map(|step| tasks.of(step)).collect();
    let numbers = tasks.offer(&offers).await;
    let taken = tasks.take(NODE, 2).await;
    let outcome = tasks.finish(NODE, taken[0].held, "result").await;
    assert_eq!(outcome, FinishOutcome::Accepted);
    let removals: Vec<_> = numbers
        .iter()
        .map(|task| tasks.removal(*task, false))
        .collect();
    tasks.queue().remove(&removals).await.unwrap();
    let left = tasks.queue().look(&numbers).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].task, numbers[0]);
    assert_eq!(tasks.queue().held(NODE).await.unwrap(), []);
    let outcome = tasks.finish(NODE, taken[1].held, "late").await;
    assert_eq!(outcome, FinishOutcome::Stale);

    let removals = [tasks.removal(numbers[0], true)];
    tasks.queue().remove(&removals).await.unwrap();
    assert_eq!(tasks.queue().look(&numbers).await.unwrap(), []);
    assert_eq!(tasks.take(NODE, ALL).await, []);
    let anew = tasks.offer(&offers).await;
    assert!(anew[0] > numbers[2]);
    assert_eq!(steps(&tasks.take(NODE, ALL).await), [0, 1, 2]);
}

/// Whether somebody serves a pool is told by whether somebody holds one of its tasks.
pub async fn a_pool_is_unserved_while_tasks_wait_and_none_is_held(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let pools = ["nothing", "pool"].map(str::to_owned);
    let unserved = async || tasks.queue().unserved(&pools).await.unwrap();
    assert!(unserved().await.is_empty());
    tasks.offer(&[tasks.of(1), tasks.of(2)]).await;
    assert_eq!(unserved().await, ["pool"]);
    let taken = tasks.take(NODE, 1).await;
    assert!(unserved().await.is_empty());
    let outcome = tasks.finish(NODE, taken[0].held, "result").await;
    assert_eq!(outcome, FinishOutcome::Accepted);
    assert_eq!(unserved().await, ["pool"]);
    let taken = tasks.take(NODE, 1).await;
    assert!(unserved().await.is_empty());
    let given = tasks.queue().give_back(NODE, &[taken[0].held]).await;
    given.unwrap();
    assert_eq!(unserved().await, ["pool"]);
}

/// No more of a pool are in hand than its limit allows; what is over makes room.
pub async fn a_pool_is_limited(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let limit = async |n| {
        let set = tasks.queue().set_limit("pool", Limit::AtOnce, n);
        set.await.unwrap();
        let limit = tasks.queue().limit("pool", Limit::AtOnce);
        assert_eq!(limit.await.unwrap(), n);
    };
    limit(Some(3)).await;
    let other = Offer {
        pool: "other".to_owned(),
        priority: -1,
        ..tasks.of(100)
    };
    let mut offers: Vec<_> = (0..10).map(|step| tasks.of(step)).collect();
    offers.push(other);
    tasks.offer(&offers).await;
    let taken = tasks.take_of(NODE, None, &[("step", 1)], ALL).await;
    assert_eq!(steps(&taken), [0, 1, 2, 100]);
    assert_eq!(tasks.take(OTHER_NODE, ALL).await, []);
    let outcome = tasks.finish(NODE, taken[0].held, "").await;
    assert_eq!(outcome, FinishOutcome::Accepted);
    tasks
        .queue()
        .give_back(NODE, &[taken[1].held])
        .await
        .unwrap();
    assert_eq!(steps(&tasks.take(OTHER_NODE, 1).await), [1]);
    assert_eq!(steps(&tasks.take(OTHER_NODE, ALL).await), [3]);
    tasks
        .queue()
        .remove(&[tasks.removal(taken[2].held.task, true)])
        .await
        .unwrap();
    assert_eq!(steps(&tasks.take(NODE, ALL).await), [4]);
    limit(Some(4)).await;
    assert_eq!(steps(&tasks.take(NODE, ALL).await), [5]);
    limit(Some(0)).await;
    assert_eq!(tasks.take(NODE, ALL).await, []);
    limit(None).await;
    assert_eq!(steps(&tasks.take(NODE, ALL).await), [6, 7, 8, 9]);
}

/// No more of one key are in hand than the pool's limit for each allows; other keys, and tasks without one, go past those that wait.
pub async fn each_key_of_a_pool_is_limited(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let limit = async |which, n| {
        let set = tasks.queue().set_limit("pool", which, n);
        set.await.unwrap();
        assert_eq!(tasks.queue().limit("pool", which).await.unwrap(), n);
    };
    limit(Limit::AtOncePerKey, Some(2)).await;
    let of = |step, key: Option<&str>| Offer {
        key: key.map(ToOwned::to_owned),
        ..tasks.of(step)
    };
    // More than a look in order goes past.
    let mut offers: Vec<_> = (0..1_500).map(|step| of(step, Some("a"))).collect();
    offers.extend([
        of(2_000, Some("b")),
        of(2_001, None),
        of(2_002, None),
        Offer {
            priority: 1,
            ..of(2_003, Some("b"))
        },
        of(2_004, Some("b")),
    ]);
    tasks.offer(&offers).await;
    let taken = tasks.take(NODE, ALL).await;
    assert_eq!(steps(&taken), [2_003, 0, 1, 2_000, 2_001, 2_002]);
    assert_eq!(tasks.take(OTHER_NODE, ALL).await, []);
    let finish = async |n: usize| {
        let outcome = tasks.finish(NODE, taken[n].held, "").await;
        assert_eq!(outcome, FinishOutcome::Accepted);
    };
    finish(1).await;
    assert_eq!(steps(&tasks.take(OTHER_NODE, ALL).await), [2]);
    finish(0).await;
    assert_eq!(steps(&tasks.take(OTHER_NODE, ALL).await), [2_004]);
    // Both limits hold together.
    limit(Limit::AtOnce, Some(5)).await;
    limit(Limit::AtOncePerKey, Some(100)).await;
    assert_eq!(tasks.take(NODE, ALL).await, []);
    limit(Limit::AtOnce, Some(8)).await;
    assert_eq!(steps(&tasks.take(NODE, ALL).await), [3, 4]);
}

/// However many take at once, each task goes to one of them, and none is left.
pub async fn many_takers_share_the_tasks(stores: Stores<'_>) {
    let tasks = Tasks::open(stores).await;
    let offers: Vec<_> = (0..300)
        .map(|step| Offer {
            step_name: format!("step{}", step % 3),
            ..tasks.of(step)
        })
        .collect();
    tasks.offer(&offers).await;
    let known = [("step0", 1), ("step1", 1), ("step2", 1)];
    let tasks = Arc::new(tasks);
    let mut takers = tokio::task::JoinSet::new();
    for n in 0..6 {
        let tasks = Arc::clone(&tasks);
        takers.spawn(async move {
            let mut all = Vec::new();
            loop {
                let taken = tasks.take_of(NodeId(100 + n), None, &known, 7).await;
                if taken.is_empty() {
                    return all;
                }
                all.extend(steps(&taken));
            }
        });
    }
    let mut all = takers.join_all().await.concat();
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
}
