//! Every call of the queue of remote steps, at the owner of a run and at a worker, goes wrong once.

use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{Storage, StorageError, TaskId};
use tokio::task::JoinSet;

use crate::remote::{far, sum};
use crate::{Cluster, soon};

/// Some at once, and one that is offered when they are done.
fn workflow() -> Workflow<i64> {
    let first = sum((0..3)
        .map(|n| far(format!("first-{n}")))
        .collect::<Vec<_>>());
    let last = far("last".to_owned()).after(&first);
    sum(vec![first, last])
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Owner,
    Worker,
}

impl Cluster {
    /// A run in which the n-th call of the queue at one of the engines goes wrong; whether there was one.
    async fn goes_wrong(&self, at: At, effect: Effect, error: &StorageError, nth: u64) -> bool {
        let inner = keepstep::storage::open(&self.url).await.unwrap();
        let faulty = Arc::new(Faulty::new(inner));
        faulty.inject(Fault::at(Call::Tasks, nth, effect).with_error(error.clone()));
        let store =
            |side| -> Option<Arc<dyn Storage>> { (side == at).then(|| faulty.clone() as _) };
        let none: [&str; 0] = [];
        let mut owner = self.called("owner").pools(none);
        let mut worker = self.called("worker");
        if let Some(store) = store(At::Owner) {
            owner = owner.storage(store);
        }
        if let Some(store) = store(At::Worker) {
            worker = worker.storage(store);
        }
        let (owner, worker) = (owner.build().await.unwrap(), worker.build().await.unwrap());

        let mut run = owner.start("run", workflow()).await.unwrap().into_future();
        let output = tokio::select! {
            output = soon(&mut run) => output,
            () = faulty.until_held(1) => {
                faulty.release_held();
                soon(run).await
            }
        };
        let output = match output {
            // The owner gave it up.
            Err(Error::Interrupted { .. }) => soon(owner.run("run", workflow())).await,
            output => output,
        };
        assert_eq!(output.unwrap(), 4, "{at:?}, call {nth}");
        let calls = faulty.calls(Call::Tasks);
        let mut log = self.world.sorted_log();
        log.retain(|what| what.contains(" at "));
        if !error.is_retryable() {
            // Of a worker whose store takes no result, another computes it again.
            log.dedup();
        }
        let all = ["first-0", "first-1", "first-2", "last"];
        assert_eq!(
            log,
            all.map(|who| format!("{who} at worker")),
            "{at:?}, call {nth}"
        );

        // What is done leaves the queue.
        let store = keepstep::storage::open(&self.url).await.unwrap();
        let tasks: Vec<_> = (1..=20).map(TaskId).collect();
        soon(async {
            while !store
                .tasks()
                .unwrap()
                .look(&tasks)
                .await
                .unwrap()
                .is_empty()
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        owner.shutdown().await.unwrap();
        worker.shutdown().await.unwrap();
        calls >= nth
    }
}

/// One call of a run after the other goes wrong, at least three on each side.
async fn sweep(effect: Effect, error: StorageError) {
    let mut sides = JoinSet::new();
    for at in [At::Owner, At::Worker] {
        let (effect, error) = (effect.clone(), error.clone());
        sides.spawn(async move {
            let mut nth = 1;
            while Cluster::new()
                .goes_wrong(at, effect.clone(), &error, nth)
                .await
            {
                nth += 1;
            }
            (at, nth - 1)
        });
    }
    while let Some(side) = sides.join_next().await {
        let (at, calls) = side.unwrap();
        assert!(calls >= 3, "{calls} calls at {at:?}");
    }
}

/// The server was away for longer than its store was patient.
fn passing() -> StorageError {
    let source: Box<dyn std::error::Error + Send + Sync> = "it went away".into();
    StorageError::Unavailable {
        backend: "faulty",
        location: "a faulty store".to_owned(),
        operation: "tasks",
        source: source.into(),
    }
}

fn lasting() -> StorageError {
    StorageError::Corrupt {
        location: "a faulty store".to_owned(),
        what: "for the test".to_owned(),
    }
}

#[tokio::test]
async fn a_call_that_fails_loses_and_doubles_no_step() {
    sweep(Effect::Fail, passing()).await;
}

#[tokio::test]
async fn a_call_that_is_done_and_fails_loses_and_doubles_no_step() {
    sweep(Effect::FailAfter, passing()).await;
}

#[tokio::test]
async fn a_call_that_fails_for_good_loses_no_step() {
    sweep(Effect::Fail, lasting()).await;
}

#[tokio::test]
async fn a_call_that_is_late_loses_and_doubles_no_step() {
    sweep(Effect::Delay, passing()).await;
}

#[tokio::test]
async fn a_call_whose_answer_is_late_loses_and_doubles_no_step() {
    sweep(Effect::DelayAfter, passing()).await;
}
