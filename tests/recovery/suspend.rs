//! Suspending, in every state; and going on.

use std::time::Duration;

use keepstep::SuspendReason;
use keepstep::prelude::*;

use crate::common::{Do, Lab, World, act, join, leaf};

#[step(retries = 1, backoff = "1h")]
async fn patient(#[resource] world: &World) -> Result<i64, String> {
    world.act("patient").await.map(|()| 1)
}

async fn assert_suspended(engine: &Engine, id: &str) {
    assert_eq!(engine.status(id).await.unwrap(), Status::Suspended);
    let metadata = engine.metadata(id).await.unwrap();
    assert_eq!(metadata.suspended, Some(SuspendReason::Requested));
    // Twice is once.
    engine.suspend(id).await.unwrap();
    match engine.output::<i64>(id).await {
        Err(Error::Suspended { reason, .. }) => assert_eq!(reason, SuspendReason::Requested),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_in_execution_is_suspended_and_goes_on() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    let handle = engine.start("run", &workflow).await?;
    lab.world.until("b").await;
    handle.status().await?;
    engine.suspend("run").await?;
    // Nothing of it executes when the call returns.
    assert_eq!(lab.world.log(), ["a", "b", "b dropped"]);
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    assert_suspended(&engine, "run").await;
    lab.crash(engine).await;

    // It stays so whoever comes, until somebody resumes it.
    let engine = lab.engine().await;
    assert_suspended(&engine, "run").await;
    assert!(engine.resume_all().await?.is_empty());
    lab.world.tell("b", Do::Succeed);
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    assert_eq!(lab.world.log(), ["b", "c"]);
    assert!(engine.metadata("run").await?.suspended.is_none());
    engine.shutdown().await
}

#[step(retries = 0)]
async fn ends_by_itself(#[resource] world: &World) -> i64 {
    let token = context().cancellation_token();
    world.note("begun");
    token.cancelled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.note("ended");
    1
}

#[tokio::test(start_paused = true)]
async fn a_result_that_comes_in_the_time_to_end_is_kept() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let workflow = act("root", vec![ends_by_itself()]);
    drop(engine.start("run", &workflow).await?);
    lab.world.until("begun").await;
    engine.suspend("run").await?;
    assert_suspended(&engine, "run").await;
    assert_eq!(engine.run("run", &workflow).await?, 2);
    assert_eq!(lab.world.log(), ["begun", "ended", "root"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_pending_run_is_suspended_and_leaves_the_queue() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab
        .builder()
        .max_running_runs(1)
        .max_pending_runs(1)
        .build();
    let engine = engine.await?;
    let first = engine.start("first", leaf("a").build()).await?;
    let second = engine.start("second", leaf("b").build()).await?;
    engine.suspend("second").await?;
    let error = second.await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    assert_suspended(&engine, "second").await;
    // Its place in the queue is free.
    let third = engine.start("third", leaf("c").build()).await?;
    let full = engine.start("fourth", leaf("d").build()).await.unwrap_err();
    assert!(matches!(full, Error::QueueFull { .. }), "{full:?}");
    // It was accepted once, and needs no place in the queue again.
    let second = engine.resume::<i64>("second").await?;
    assert_eq!(second.status().await?, Status::Pending);
    lab.world.tell("a", Do::Succeed);
    assert_eq!((first.await?, third.await?, second.await?), (1, 1, 1));
    assert_eq!(lab.world.log(), ["a", "c", "b"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_its_next_attempt_is_suspended() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("patient", Do::FailTimes(1));
    let engine = lab.engine().await;
    let handle = engine.start("run", patient()).await?;
    while engine.metadata("run").await?.wake_at.is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    engine.suspend("run").await?;
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    assert_suspended(&engine, "run").await;
    // Its time comes and goes.
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    assert_eq!(lab.world.log(), ["patient"]);
    assert_suspended(&engine, "run").await;
    assert_eq!(engine.resume::<i64>("run").await?.await?, 1);
    assert_eq!(lab.world.log(), ["patient"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_resumable_run_is_suspended() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    drop(engine.start("run", leaf("a").build()).await?);
    lab.world.until("a").await;
    lab.crash(engine).await;
    lab.world.log();

    let engine = lab.engine().await;
    engine.suspend("run").await?;
    assert_suspended(&engine, "run").await;
    assert!(engine.resume_all().await?.is_empty());
    lab.world.tell("a", Do::Succeed);
    assert_eq!(engine.run("run", leaf("a").build()).await?, 1);
    assert_eq!(lab.world.log(), ["a"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_ended_cannot_be_suspended() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    engine.run("good", leaf("a").build()).await?;
    engine.run("bad", leaf("bad").build()).await.unwrap_err();
    drop(engine.start("canceled", leaf("held").build()).await?);
    engine.cancel("canceled").await?;
    for (id, is) in [
        ("good", Status::Successful),
        ("bad", Status::Failed),
        ("canceled", Status::Canceled),
    ] {
        match engine.suspend(id).await {
            Err(Error::AlreadyEnded { status, .. }) => assert_eq!(status, is),
            other => panic!("{other:?}"),
        }
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_is_suspended_and_resumed_over_and_over() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("b", [leaf("a")]).build();
    for round in 0..10 {
        drop(engine.start("run", &workflow).await?);
        lab.world.until("b").await;
        engine.suspend("run").await?;
        let expected = ["a", "b", "b dropped"];
        let first = usize::from(round > 0);
        assert_eq!(lab.world.log(), expected[first..]);
    }
    lab.world.tell("b", Do::Succeed);
    assert_eq!(engine.run("run", &workflow).await?, 2);
    assert_eq!(lab.world.log(), ["b"]);
    engine.shutdown().await
}
