//! The queue of tasks among several processes: leases, ends of runs, blobs, notices.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    Batch, Epoch, Expect, FinishOutcome, Limit, NodeId, Notice, Offer, Removal, RunWrite, Storage,
    StoredStatus, Task, TaskId, TaskResult, Wanted, WriteOutcome,
};

use crate::kit::{creation, delete, id, open};
use crate::server;
use crate::wire::Wire;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
const OWNER: NodeId = NodeId(u64::MAX - 1);
const WORKER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);

/// Two processes on a store, the first of which owns runs.
async fn two(runs: &[&str]) -> (Arc<dyn Storage>, Arc<dyn Storage>) {
    let url = server::url();
    let (a, b) = (open(&url).await, open(&url).await);
    owning(&*a, runs).await;
    (a, b)
}

/// Creates runs that [`OWNER`] owns.
async fn owning(a: &dyn Storage, runs: &[&str]) {
    a.renew(OWNER, LONG).await.unwrap();
    let writes = runs.iter().map(|run| {
        let mut write = creation(run);
        write.record.owner = Some(OWNER);
        write
    });
    let batch = Batch {
        writes: writes.collect(),
        ..Batch::default()
    };
    a.commit(batch).await.unwrap();
}

fn offer(run: &str, step: u64) -> Offer {
    Offer {
        run: id(run),
        epoch: Epoch::FIRST,
        incarnation: 1,
        step,
        attempt: 1,
        step_name: "step".to_owned(),
        step_version: 1,
        pool: "default".to_owned(),
        priority: 0,
        key: None,
        payload: "payload".into(),
    }
}

async fn offered(store: &dyn Storage, offers: &[Offer]) -> Vec<TaskId> {
    let offered = store.tasks().unwrap().offer(offers).await.unwrap();
    offered.into_iter().map(|o| o.unwrap().task).collect()
}

async fn take(store: &dyn Storage, node: NodeId, lease: Duration) -> Vec<Task> {
    let wanted = Wanted {
        node,
        lease,
        pools: None,
        steps: &[("step".to_owned(), 1)],
        limit: 100,
    };
    store.tasks().unwrap().take(&wanted).await.unwrap()
}

fn result(task: &Task) -> TaskResult {
    TaskResult {
        held: task.held,
        bytes: "result".into(),
        stands: true,
        declines: false,
        blobs: vec![],
    }
}

async fn finish(store: &dyn Storage, node: NodeId, result: TaskResult) -> FinishOutcome {
    let finished = store.tasks().unwrap().finish(node, &[result]).await;
    finished.unwrap()[0]
}

async fn left(store: &dyn Storage, tasks: &[TaskId]) -> Vec<TaskId> {
    let looked = store.tasks().unwrap().look(tasks).await.unwrap();
    let mut left: Vec<_> = looked.into_iter().map(|offered| offered.task).collect();
    left.sort_unstable();
    left
}

/// The write that gives a run another status.
fn write(run: &str, status: StoredStatus) -> RunWrite {
    let mut write = creation(run);
    write.expect = Expect::Epoch(Epoch::FIRST);
    write.record.owner = Some(OWNER);
    write.record.status = status;
    write
}

async fn written(store: &dyn Storage, write: RunWrite) {
    let batch = Batch {
        writes: vec![write],
        ..Batch::default()
    };
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Written]);
}

/// Waits for a notice, past others.
async fn told(store: &dyn Storage, is_it: impl Fn(&Notice) -> bool) {
    let waiting = async { while !store.notices().await.iter().any(&is_it) {} };
    tokio::time::timeout(LONG, waiting).await.unwrap();
}

#[tokio::test]
async fn only_the_owner_of_a_run_that_goes_on_offers() {
    let (a, _) = two(&["run", "ended", "stopped"]).await;
    written(&*a, write("ended", StoredStatus::Successful)).await;
    written(&*a, write("stopped", StoredStatus::Suspended)).await;
    let stale = Offer {
        epoch: Epoch::FIRST.next(),
        ..offer("run", 0)
    };
    let another = Offer {
        incarnation: 2,
        ..offer("run", 0)
    };
    let offers = [
        stale,
        another,
        offer("ended", 0),
        offer("stopped", 0),
        offer("unknown", 0),
        offer("run", 0),
    ];
    let offered = a.tasks().unwrap().offer(&offers).await.unwrap();
    let there: Vec<_> = offered.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, false, false, false, false, true]);
    assert_eq!(take(&*a, WORKER, LONG).await.len(), 1);
}

#[tokio::test]
async fn a_worker_whose_lease_ended_loses_its_tasks() {
    let (a, b) = two(&["run"]).await;
    offered(&*a, &[offer("run", 0), offer("run", 1)]).await;
    let lost = take(&*b, WORKER, SHORT).await;
    assert_eq!(lost.len(), 2);
    // It is in time with the first.
    assert_eq!(
        finish(&*b, WORKER, result(&lost[0])).await,
        FinishOutcome::Accepted
    );
    let taken = loop {
        let taken = take(&*a, OTHER, LONG).await;
        if !taken.is_empty() {
            break taken;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].step, taken[0].attempt), (1, 1));
    assert_eq!(
        finish(&*b, WORKER, result(&lost[1])).await,
        FinishOutcome::Stale
    );
    assert_eq!(
        finish(&*a, OTHER, result(&taken[0])).await,
        FinishOutcome::Accepted
    );
}

#[tokio::test]
async fn tasks_go_with_their_run() {
    let (a, b) = two(&["ended", "stopped", "deleted", "other"]).await;
    let mut all = Vec::new();
    for run in ["ended", "stopped", "deleted", "other"] {
        let offers: Vec<_> = (0..4).map(|step| offer(run, step)).collect();
        let numbers = offered(&*a, &offers[..3]).await;
        let taken = take(&*b, WORKER, LONG).await;
        assert_eq!(taken.len(), 3);
        // One is done, one cannot be executed, one is in hand, one waits.
        let refused = TaskResult {
            stands: false,
            ..result(&taken[1])
        };
        for result in [result(&taken[0]), refused] {
            assert_eq!(finish(&*b, WORKER, result).await, FinishOutcome::Accepted);
        }
        all.push([numbers, offered(&*a, &offers[3..]).await].concat());
        assert_eq!(left(&*b, all.last().unwrap()).await.len(), 4);
        // The next run's are all that is there to take.
        let waiting = take(&*b, OTHER, LONG).await;
        let held: Vec<_> = waiting.iter().map(|task| task.held).collect();
        if run != "other" {
            continue;
        }
        b.tasks().unwrap().give_back(OTHER, &held).await.unwrap();
    }
    written(&*a, write("ended", StoredStatus::Failed)).await;
    written(&*a, write("stopped", StoredStatus::Suspended)).await;
    delete(&*a, "deleted", Epoch::FIRST, OWNER).await;
    assert_eq!(left(&*a, &all[0]).await, []);
    // A result that stands is not computed again.
    assert_eq!(left(&*a, &all[1]).await, all[1][..1]);
    assert_eq!(left(&*a, &all[2]).await, []);
    assert_eq!(left(&*a, &all[3]).await, all[3]);
}

#[tokio::test]
async fn a_removal_of_a_former_owner_is_none() {
    let (a, _) = two(&["run"]).await;
    let tasks = offered(&*a, &[offer("run", 0)]).await;
    let mut removal = Removal {
        task: tasks[0],
        epoch: Epoch::FIRST.next(),
        also_done: true,
    };
    a.tasks().unwrap().remove(&[removal]).await.unwrap();
    assert_eq!(left(&*a, &tasks).await, tasks);
    removal.epoch = Epoch::FIRST;
    a.tasks().unwrap().remove(&[removal]).await.unwrap();
    assert_eq!(left(&*a, &tasks).await, []);
}

#[tokio::test]
async fn the_blobs_of_a_result_belong_to_its_run() {
    let (a, b) = two(&["run"]).await;
    offered(&*a, &[offer("run", 0), offer("run", 1)]).await;
    let taken = take(&*b, WORKER, LONG).await;
    let blob = b.put_blob("large".into()).await.unwrap();
    let gone = b.put_blob("gone".into()).await.unwrap();
    b.unpin_blob(&gone);
    // Pins are written with the next renewal.
    b.renew(WORKER, LONG).await.unwrap();
    a.maintain().await.unwrap();
    assert_eq!(a.blob_len(&gone).await.unwrap(), None);
    let with = |task: &Task, blobs: &[_]| TaskResult {
        blobs: blobs.to_vec(),
        ..result(task)
    };
    assert_eq!(
        finish(&*b, WORKER, with(&taken[0], &[blob, gone])).await,
        FinishOutcome::BlobMissing { blob: gone }
    );
    // It is not finished, and may be.
    assert_eq!(
        finish(&*b, WORKER, with(&taken[0], &[blob])).await,
        FinishOutcome::Accepted
    );
    b.unpin_blob(&blob);
    b.renew(WORKER, LONG).await.unwrap();
    a.maintain().await.unwrap();
    assert_eq!(a.blob(&blob).await.unwrap(), "large");
    delete(&*a, "run", Epoch::FIRST, OWNER).await;
    a.maintain().await.unwrap();
    assert_eq!(a.blob_len(&blob).await.unwrap(), None);
}

#[tokio::test]
async fn whoever_is_concerned_is_told() {
    let (a, b) = two(&["run"]).await;
    b.renew(WORKER, LONG).await.unwrap();
    told(&*a, |notice| *notice == Notice::Missed).await;
    told(&*b, |notice| *notice == Notice::Missed).await;
    let tasks = offered(&*a, &[offer("run", 0), offer("run", 1), offer("run", 2)]).await;
    told(&*b, |notice| *notice == Notice::Tasks("default".to_owned())).await;
    let taken = take(&*b, WORKER, LONG).await;
    assert_eq!(
        finish(&*b, WORKER, result(&taken[1])).await,
        FinishOutcome::Accepted
    );
    told(&*a, |notice| *notice == Notice::Done(vec![tasks[1]])).await;
    let removal = Removal {
        task: tasks[0],
        epoch: Epoch::FIRST,
        also_done: false,
    };
    a.tasks().unwrap().remove(&[removal]).await.unwrap();
    told(&*b, |notice| *notice == Notice::Withdrawn(vec![tasks[0]])).await;
    written(&*a, write("run", StoredStatus::Canceled)).await;
    told(&*b, |notice| *notice == Notice::Withdrawn(vec![tasks[2]])).await;
    assert_eq!(left(&*a, &tasks).await, []);
}

#[tokio::test]
async fn calls_whose_answers_were_lost_are_done_once() {
    let wire = Wire::to_the_server().await;
    let store = open(&wire.url).await;
    owning(&*store, &["run"]).await;
    let queue = store.tasks().unwrap();
    // In the second round everything is prepared, and one answer comes with one execution.
    for (round, cuts) in [(0, 0), (1, 1), (2, 3)] {
        let offers: Vec<_> = (0..3).map(|n| offer("run", 10 * round + n)).collect();
        let cut = |times| {
            assert_eq!(wire.left(), 0, "nothing was cut");
            wire.cut(times);
        };
        cut(cuts);
        let numbers = offered(&*store, &offers).await;
        cut(cuts);
        let taken = take(&*store, WORKER, LONG).await;
        let of_taken: Vec<_> = taken.iter().map(|task| task.held.task).collect();
        assert_eq!(of_taken, numbers);
        let all_held: Vec<_> = taken.iter().map(|task| task.held).collect();
        assert_eq!(queue.held(WORKER).await.unwrap(), all_held);

        cut(cuts);
        assert_eq!(
            finish(&*store, WORKER, result(&taken[0])).await,
            FinishOutcome::Accepted
        );
        let mut other = result(&taken[0]);
        other.held.claim += 1;
        cut(cuts);
        assert_eq!(finish(&*store, WORKER, other).await, FinishOutcome::Stale);
        cut(cuts);
        queue.give_back(WORKER, &all_held[1..2]).await.unwrap();
        // Taken by another, it is not given back by an attempt that comes late.
        wire.delay();
        queue.give_back(WORKER, &all_held[2..]).await.unwrap();
        let again = take(&*store, OTHER, LONG).await;
        wire.arrive().await;
        let held: Vec<_> = again.iter().map(|task| task.held).collect();
        assert_eq!(queue.held(OTHER).await.unwrap(), held);
        assert_eq!(held.len(), 2);
        assert!(again.iter().all(|task| task.held.claim > all_held[1].claim));

        // One that takes late takes for nobody.
        let waiting = offered(&*store, &[offer("run", 10 * round + 5)]).await;
        wire.delay();
        let last = take(&*store, WORKER, LONG).await;
        assert_eq!(last[0].held.task, waiting[0]);
        queue.give_back(WORKER, &[last[0].held]).await.unwrap();
        take(&*store, OTHER, LONG).await;
        wire.arrive().await;
        assert_eq!(queue.held(WORKER).await.unwrap(), []);

        let all = [numbers, waiting].concat();
        let removal = |task: &TaskId| Removal {
            task: *task,
            epoch: Epoch::FIRST,
            also_done: true,
        };
        let removals: Vec<_> = all.iter().map(removal).collect();
        cut(cuts);
        queue.remove(&removals).await.unwrap();
        assert_eq!(left(&*store, &all).await, []);
    }
}

/// Takes tasks as soon as there are some: leases may have to end before.
async fn taken(store: &dyn Storage, node: NodeId, lease: Duration) -> Vec<Task> {
    let taking = async {
        loop {
            let taken = take(store, node, lease).await;
            if !taken.is_empty() {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, taking).await.unwrap()
}

#[tokio::test]
async fn workers_that_were_lost_with_a_task_are_counted_once_it_has_begun() {
    let (a, b) = two(&["run"]).await;
    offered(&*a, &[offer("run", 1)]).await;
    let queue = b.tasks().unwrap();
    for (node, n_lost) in [(WORKER, 0), (OTHER, 1), (WORKER, 2)] {
        let task = taken(&*b, node, SHORT).await.remove(0);
        assert_eq!(task.n_lost, n_lost);
    }
    // From the third on, who holds it only may be lost.
    let task = taken(&*b, OTHER, SHORT).await.remove(0);
    assert_eq!(task.n_lost, 2);
    queue.begin(OTHER, task.held).await.unwrap();
    let task = taken(&*b, WORKER, LONG).await.remove(0);
    assert_eq!(task.n_lost, 3);
    // Neither what is given back counts, nor what a worker had that ended its leases itself.
    queue.begin(WORKER, task.held).await.unwrap();
    queue.give_back(WORKER, &[task.held]).await.unwrap();
    let task = taken(&*b, WORKER, LONG).await.remove(0);
    queue.begin(WORKER, task.held).await.unwrap();
    b.renew(WORKER, Duration::ZERO).await.unwrap();
    assert_eq!(taken(&*b, OTHER, LONG).await[0].n_lost, 3);
}

#[tokio::test]
async fn a_task_is_declined_as_long_as_another_worker_may_take_it() {
    let (a, b) = two(&["run"]).await;
    // It listens.
    told(&*b, |notice| *notice == Notice::Missed).await;
    let queue = a.tasks().unwrap();
    // Somebody who takes other steps, and somebody of another pool, are no workers for it.
    for (node, pool, step) in [(11, "default", "other"), (12, "elsewhere", "step")] {
        let node = NodeId(node);
        a.renew(node, LONG).await.unwrap();
        let wanted = Wanted {
            node,
            lease: LONG,
            pools: Some(&[pool.to_owned()]),
            steps: &[(step.to_owned(), 1)],
            limit: 1,
        };
        assert!(queue.take(&wanted).await.unwrap().is_empty());
    }
    for node in [WORKER, OTHER] {
        a.renew(node, LONG).await.unwrap();
        assert!(take(&*a, node, LONG).await.is_empty());
    }
    let tasks = offered(&*a, &[offer("run", 1), offer("run", 2)]).await;
    let declined = |task: &Task| TaskResult {
        stands: false,
        declines: true,
        ..result(task)
    };
    let both = take(&*a, WORKER, LONG).await;
    for task in &both {
        let outcome = finish(&*a, WORKER, declined(task)).await;
        assert_eq!(outcome, FinishOutcome::Declined);
        let again = finish(&*a, WORKER, declined(task)).await;
        assert_eq!(again, FinishOutcome::Stale);
    }
    assert!(take(&*a, WORKER, LONG).await.is_empty());
    told(&*b, |notice| matches!(notice, Notice::Tasks(_))).await;
    // The other one executes the one, and declines the other one as the last.
    let both = take(&*b, OTHER, LONG).await;
    assert_eq!(both.len(), 2);
    let outcome = finish(&*b, OTHER, result(&both[0])).await;
    assert_eq!(outcome, FinishOutcome::Accepted);
    let outcome = finish(&*b, OTHER, declined(&both[1])).await;
    assert_eq!(outcome, FinishOutcome::Accepted);
    let looked = queue.look(&tasks).await.unwrap();
    assert!(looked.iter().all(|offered| offered.result.is_some()));

    // If the other one is gone, who has declined it says what is wrong.
    let tasks = offered(&*a, &[offer("run", 3)]).await;
    let task = take(&*a, WORKER, LONG).await.remove(0);
    let outcome = finish(&*a, WORKER, declined(&task)).await;
    assert_eq!(outcome, FinishOutcome::Declined);
    b.renew(OTHER, Duration::ZERO).await.unwrap();
    let task = take(&*a, WORKER, LONG).await.remove(0);
    let outcome = finish(&*a, WORKER, declined(&task)).await;
    assert_eq!(outcome, FinishOutcome::Accepted);
    let looked = queue.look(&tasks).await.unwrap();
    assert!(looked[0].result.is_some());
}

#[tokio::test]
async fn limits_hold_for_tasks_that_were_declined() {
    let (a, _b) = two(&["run"]).await;
    let queue = a.tasks().unwrap();
    for limit in [Limit::AtOnce, Limit::AtOncePerKey] {
        queue.set_limit("default", limit, Some(2)).await.unwrap();
    }
    for node in [WORKER, OTHER] {
        a.renew(node, LONG).await.unwrap();
        assert!(take(&*a, node, LONG).await.is_empty());
    }
    let offers: Vec<_> = (0..6)
        .map(|step| Offer {
            key: Some(format!("key{}", step % 2)),
            ..offer("run", step)
        })
        .collect();
    offered(&*a, &offers).await;
    let first = take(&*a, WORKER, LONG).await;
    assert_eq!(first.len(), 2);
    for task in &first {
        let declined = TaskResult {
            stands: false,
            declines: true,
            ..result(task)
        };
        let outcome = finish(&*a, WORKER, declined).await;
        assert_eq!(outcome, FinishOutcome::Declined);
    }
    let mut steps = Vec::new();
    for node in [WORKER, OTHER, OTHER] {
        let taken = take(&*a, node, LONG).await;
        steps.push(taken.iter().map(|task| task.step).collect::<Vec<_>>());
        for task in &taken {
            let outcome = finish(&*a, node, result(task)).await;
            assert_eq!(outcome, FinishOutcome::Accepted);
        }
    }
    assert_eq!(steps, [[2, 3], [0, 1], [4, 5]]);
}
