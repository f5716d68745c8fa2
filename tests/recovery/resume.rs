//! Resuming: only what is not done runs.

use keepstep::prelude::*;
use keepstep::{Filter, StepErrorKind};

use crate::common::{Do, Lab, World, grow, join, leaf};

#[tokio::test(start_paused = true)]
async fn a_failed_run_tries_again_only_what_failed() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let inner = join("inner", [leaf("b"), leaf("bad")]);
    let workflow = join("root", [leaf("a"), grow("grown", inner)]).build();
    engine.run("run", &workflow).await.unwrap_err();
    assert_eq!(lab.world.log(), ["a", "grown", "b", "bad"]);

    let error = engine.resume::<i64>("run").await?.await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert_eq!(lab.world.log(), ["bad"]);

    lab.world.tell("bad", Do::Succeed);
    let handle = engine.resume::<i64>("run").await?;
    assert_eq!(handle.await?, 5);
    assert_eq!(lab.world.log(), ["bad", "inner", "root"]);
    assert_eq!(engine.status("run").await?, Status::Successful);
    let metadata = engine.metadata("run").await?;
    assert!(metadata.error.is_none());
    assert_eq!((metadata.progress.done, metadata.progress.failed), (6, 0));
    assert_eq!(engine.resume::<i64>("run").await?.await?, 5);
    assert_eq!(lab.world.log(), [""; 0]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_can_be_resumed_by_another_engine() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Panic);
    let engine = lab.engine().await;
    let workflow = join("root", [leaf("a"), leaf("bad")]).build();
    engine.run("run", &workflow).await.unwrap_err();
    lab.crash(engine).await;
    lab.world.log();

    let engine = lab.engine().await;
    match engine.output::<i64>("run").await {
        Err(Error::Failed { error, .. }) => assert_eq!(error.kind, StepErrorKind::Panic),
        other => panic!("{other:?}"),
    }
    assert!(
        engine.resume_all().await?.is_empty(),
        "a failed run has ended"
    );
    lab.world.tell("bad", Do::Succeed);
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    assert_eq!(lab.world.log(), ["bad", "root"]);
    engine.shutdown().await
}

#[step(retries = 2)]
async fn stubborn(#[resource] world: &World) -> Result<i64, String> {
    world.act("stubborn").await.map(|()| 1)
}

#[tokio::test(start_paused = true)]
async fn a_resumed_failure_has_all_its_retries_again() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("stubborn", Do::Fail);
    let engine = lab.engine().await;
    engine.run("run", stubborn()).await.unwrap_err();
    assert_eq!(lab.world.log().len(), 3);
    engine.resume::<i64>("run").await?.await.unwrap_err();
    assert_eq!(lab.world.log().len(), 3);
    lab.world.tell("stubborn", Do::FailTimes(2));
    assert_eq!(engine.resume::<i64>("run").await?.await?, 1);
    assert_eq!(lab.world.log().len(), 3);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_beside_a_failure_runs_again() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    lab.world.tell("bad", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("root", [leaf("held"), leaf("bad")]).build();
    let handle = engine.start("run", &workflow).await?;
    lab.world.until("held").await;
    lab.world.until("bad").await;
    lab.world.tell("bad", Do::Fail);
    handle.await.unwrap_err();
    lab.world.log();
    lab.world.tell("bad", Do::Succeed);
    lab.world.tell("held", Do::Succeed);
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    assert_eq!(lab.world.sorted_log(), ["bad", "held", "root"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_resumed_run_is_running_in_every_reading() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    engine.run("run", leaf("bad").build()).await.unwrap_err();
    lab.world.tell("bad", Do::Hold);
    lab.world.log();
    let handle = engine.resume::<i64>("run").await?;
    lab.world.until("bad").await;
    assert_eq!(engine.status("run").await?, Status::Running);
    assert_eq!(handle.status().await?, Status::Running);
    let metadata = engine.metadata("run").await?;
    assert_eq!(metadata.status, Status::Running);
    assert!(metadata.error.is_none() && metadata.ended_at.is_none());
    assert!(engine.list(Status::Failed).await?.runs.is_empty());
    assert_eq!(
        engine.list(Filter::from(Status::Running)).await?.runs.len(),
        1
    );
    lab.world.tell("bad", Do::Succeed);
    assert_eq!(handle.await?, 1);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_is_resumed_after_every_one_of_many_crashes() -> keepstep::Result<()> {
    let lab = Lab::new();
    let names: Vec<String> = (0..20).map(|n| format!("step {n}")).collect();
    let tree = names[1..]
        .iter()
        .fold(leaf(&names[0]), |inner, name| join(name, [inner]));
    for name in &names {
        lab.world.tell(name, Do::Hold);
        let engine = lab.engine().await;
        drop(engine.start("run", tree.build()).await?);
        lab.world.until(name).await;
        lab.crash(engine).await;
        // Each engine went on exactly where the last one was.
        let dropped = format!("{name} dropped");
        let log = lab.world.log();
        assert_eq!(log[log.len() - 2..], [name.clone(), dropped]);
        assert!(log.len() <= 3, "{log:?}");
        lab.world.tell(name, Do::Succeed);
    }
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", tree.build()).await?, 20);
    assert_eq!(lab.world.log(), ["step 19"]);
    engine.shutdown().await
}
