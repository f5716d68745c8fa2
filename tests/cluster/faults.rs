//! Answers of the store that are late, and writes that fail at one engine only.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{Storage, StorageError};

use crate::common::{act, join, leaf};
use crate::{Cluster, soon};

impl Cluster {
    /// A worker whose store can be told to fail, once it has looked for runs and found none.
    async fn faulty_worker(&self) -> (Engine, Arc<Faulty>) {
        let inner = keepstep::storage::open(&self.url).await.unwrap();
        let store = Arc::new(Faulty::new(inner));
        let builder = self
            .builder()
            .storage(Arc::clone(&store) as Arc<dyn Storage>);
        let engine = builder.build().await.unwrap();
        soon(async {
            while store.calls(Call::Claim) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        (engine, store)
    }
}

#[tokio::test]
async fn a_run_that_has_mail_before_its_claim_is_answered_is_driven_once() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (_worker, store) = cluster.faulty_worker().await;
    let submitter = cluster.submitter().await;
    store.inject(Fault::next(Call::Claim, Effect::DelayAfter));
    let go = keepstep::event::<()>("go").after(&leaf("a").build());
    let workflow = act("b", Vec::<i64>::new()).name("b").after(&go);
    let first = submitter.start("run", workflow).await?;
    soon(store.until_held(1)).await;
    // The store says that the worker has it, so its mail is the worker's.
    submitter.send_event("run", "go", &()).await?;
    assert_eq!(soon(first).await?, 1);

    store.release_held();
    // Runs that are claimed later are taken up later.
    let second = submitter
        .start("second", join("d", [leaf("c")]).build())
        .await?;
    assert_eq!(soon(second).await?, 2);
    assert_eq!(cluster.world.log(), ["a", "b", "c", "d"]);
    assert_eq!(submitter.status("run").await?, Status::Successful);
    Ok(())
}

#[tokio::test]
async fn a_run_whose_write_fails_for_good_goes_on_at_another_worker() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (worker, store) = cluster.faulty_worker().await;
    let error = StorageError::Corrupt {
        location: "here".to_owned(),
        what: "for the test".to_owned(),
    };
    assert!(!error.is_retryable());
    store.inject(Fault::at(Call::Commit, 2, Effect::Fail).with_error(error));
    let first = worker.start("run", leaf("a").build()).await?;
    let error = soon(first).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    let submitter = cluster.submitter().await;
    soon(async {
        while submitter.status("run").await.unwrap() != Status::Resumable {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(worker.status("run").await?, Status::Resumable);

    let waiting = submitter.start("run", leaf("a").build()).await?;
    let _other = cluster.worker().await;
    assert_eq!(soon(waiting).await?, 1);
    assert_eq!(cluster.world.log(), ["a", "a"]);
    Ok(())
}
