//! On a store that others share: what the store says is an engine's, and nothing there goes on with, is handed back.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{RunId, memory};
use tokio::time::timeout;

use crate::common::{Do, Lab, Tampered, leaf};

/// A lab on a store that is shared, and whose calls can be made to fail.
fn shared() -> (Lab, Arc<Tampered>, Arc<Faulty>) {
    let faulty = Arc::new(Faulty::new(memory()));
    let tampered = Arc::new(Tampered::shared(faulty.clone()));
    (Lab::on(tampered.clone()), tampered, faulty)
}

/// Waits until nobody owns a run, which is still to go on.
async fn until_free(store: &Faulty, id: &str) {
    let run = RunId::new(id).unwrap();
    let freed = async {
        loop {
            let record = store.inner().record(&run).await.unwrap().unwrap();
            if record.owner.is_none() {
                assert!(record.status.is_active(), "{:?}", record.status);
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let freed = timeout(Duration::from_secs(60), freed).await;
    assert!(freed.is_ok(), "{id} is kept, and nobody drives it");
}

/// Suspends a run of one step at a worker.
async fn suspended(lab: &Lab, id: &str) -> Engine {
    let worker = lab.engine().await;
    lab.world.tell("a", Do::Hold);
    drop(worker.start(id, leaf("a").build()).await.unwrap());
    lab.world.until("a").await;
    worker.suspend(id).await.unwrap();
    worker
}

#[tokio::test(start_paused = true)]
async fn a_resumed_run_that_cannot_be_released_at_once_is_released_later() -> keepstep::Result<()> {
    let (lab, _, store) = shared();
    let _worker = suspended(&lab, "run").await;
    let submitter = lab.builder().worker(false).build().await?;
    store.inject(Fault::next(Call::Release, Effect::Fail));
    let _run = submitter.resume::<i64>("run").await?;
    until_free(&store, "run").await;
    assert_eq!(submitter.status("run").await?, Status::Resumable);
    submitter.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_for_a_resume_does_not_stop_it() -> keepstep::Result<()> {
    let (lab, _, store) = shared();
    let _worker = suspended(&lab, "run").await;
    let submitter = lab.builder().worker(false).build().await?;
    store.inject(Fault::next(Call::Commit, Effect::DelayAfter));
    {
        let mut resuming = Box::pin(submitter.resume::<i64>("run"));
        tokio::select! {
            _ = &mut resuming => panic!("it is held"),
            () = store.until_held(1) => {}
        }
    }
    store.release_held();
    until_free(&store, "run").await;
    submitter.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_could_not_be_canceled_goes_on() -> keepstep::Result<()> {
    let (lab, _, store) = shared();
    let submitter = lab.builder().worker(false).build().await?;
    drop(submitter.start("run", leaf("a").build()).await?);
    store.inject(Fault::next(Call::Commit, Effect::Fail));
    let error = submitter.cancel("run").await.unwrap_err();
    assert!(matches!(error, Error::Storage(_)), "{error:?}");
    assert_eq!(store.calls(Call::Claim), 1);
    until_free(&store, "run").await;
    submitter.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_cannot_be_read_is_not_kept() -> keepstep::Result<()> {
    let (lab, tampered, store) = shared();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    let parent = keepstep::child("child", leaf("a").build());
    drop(engine.start("parent", parent).await?);
    lab.world.until("a").await;
    // Its end cannot be written, and then it cannot be read.
    tampered.with(|run, entry| (run.as_str() != "child").then_some(entry));
    store.inject(Fault::next(Call::Commit, Effect::Fail));
    lab.world.tell("a", Do::Succeed);
    until_free(&store, "child").await;
    let tried = timeout(Duration::from_secs(60), async {
        while store.calls(Call::Claim) == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    tried.await.expect("the parent does not look after it");
    until_free(&store, "child").await;
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_being_left_to_others_is_nobodys_here() -> keepstep::Result<()> {
    let (lab, _, store) = shared();
    let old = lab.builder().without_step("act").build().await?;
    store.inject(Fault::next(Call::Release, Effect::Delay));
    drop(old.start("run", leaf("a").build()).await?);
    store.until_held(1).await;
    // Who waits for it now is told when it ends elsewhere.
    assert_eq!(old.status("run").await?, Status::Resumable);
    store.release_held();
    until_free(&store, "run").await;
    assert_eq!(lab.world.log(), [""; 0]);
    old.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_until_a_run_can_be_given_up() -> keepstep::Result<()> {
    let (lab, _, store) = shared();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    let run = engine.start("run", leaf("a").build()).await?;
    lab.world.until("a").await;
    store.inject(Fault::next(Call::Commit, Effect::Fail));
    for nth in 1..=100 {
        store.inject(Fault::at(Call::Release, nth, Effect::Fail));
    }
    lab.world.tell("a", Do::Succeed);
    let error = run.await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    tokio::time::sleep(Duration::from_secs(70)).await;
    let tries = store.calls(Call::Release);
    assert!(tries > 4, "{tries}");
    drop(engine.shutdown().await);
    assert_eq!(store.calls(Call::Release), tries, "it waited for another");
    Ok(())
}
