//! Engines come and go: shutting down, resuming everything, opening the same store again.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::StorageError;

use crate::common::{Do, Lab, World, join, leaf};

async fn opened(dir: &tempfile::TempDir, world: &World) -> Engine {
    let path = dir.path().join("data");
    let builder = Engine::builder().resource(world.clone());
    builder.open(path.to_str().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_shutdown_leaves_every_run_resumable() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let world = World::default();
    world.tell("b", Do::Hold);
    let engine = opened(&dir, &world).await;
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    let handle = engine.start("run", &workflow).await?;
    world.until("b").await;
    engine.shutdown().await?;
    // Nothing executes any more, and who waits is told.
    assert_eq!(world.log(), ["a", "b", "b dropped"]);
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::ShutDown), "{error:?}");
    engine.shutdown().await?;
    for error in [
        engine.start("other", &workflow).await.err(),
        engine.resume::<i64>("run").await.err(),
    ] {
        let is_closed = matches!(
            error,
            Some(Error::ShutDown | Error::Storage(StorageError::Closed { .. }))
        );
        assert!(is_closed, "{error:?}");
    }

    // The store can be opened again, also while the old engine is still there.
    let second = opened(&dir, &world).await;
    assert_eq!(second.status("run").await?, Status::Resumable);
    let error = second.status("other").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    world.tell("b", Do::Succeed);
    assert_eq!(second.resume::<i64>("run").await?.await?, 3);
    assert_eq!(world.log(), ["b", "c"]);
    second.shutdown().await?;
    drop(engine);

    let third = opened(&dir, &world).await;
    assert_eq!(third.run("run", &workflow).await?, 3);
    assert_eq!(world.log(), [""; 0]);
    third.shutdown().await
}

#[step(retries = 1, backoff = "1h")]
async fn patient(#[resource] world: &World) -> Result<i64, String> {
    world.act("patient").await.map(|()| 1)
}

#[tokio::test]
async fn a_shutdown_gives_up_pending_and_waiting_runs_too() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let world = World::default();
    world.tell("held", Do::Hold);
    world.tell("patient", Do::FailTimes(1));
    let path = dir.path().join("data");
    let builder = Engine::builder()
        .resource(world.clone())
        .max_running_runs(1);
    let engine = builder.open(path.to_str().unwrap()).await?;
    let waiting = engine.start("waiting", patient()).await?;
    while engine.metadata("waiting").await?.wake_at.is_none() {
        tokio::task::yield_now().await;
    }
    let running = engine.start("running", leaf("held").build()).await?;
    let pending = engine.start("pending", leaf("a").build()).await?;
    world.until("held").await;
    engine.shutdown().await?;
    for handle in [waiting, running, pending] {
        let error = handle.await.unwrap_err();
        assert!(matches!(error, Error::ShutDown), "{error:?}");
    }

    let engine = opened(&dir, &world).await;
    for id in ["waiting", "running", "pending"] {
        assert_eq!(engine.status(id).await?, Status::Resumable, "{id}");
    }
    world.log();
    world.tell("held", Do::Succeed);
    let resumed = engine.resume_all().await?;
    assert_eq!(resumed.len(), 3);
    for id in ["running", "pending"] {
        assert_eq!(engine.output::<i64>(id).await?, 1);
    }
    // Its hour has not passed.
    assert_eq!(engine.status("waiting").await?, Status::Running);
    assert_eq!(world.sorted_log(), ["a", "held"]);
    engine.shutdown().await
}

#[step(retries = 0)]
async fn finishes(#[resource] world: &World) -> i64 {
    let token = context().cancellation_token();
    world.note("begun");
    token.cancelled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.note("finished");
    1
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_bodies_that_took_their_token() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    drop(engine.start("run", finishes()).await?);
    lab.world.until("begun").await;
    engine.shutdown().await?;
    assert_eq!(lab.world.log(), ["begun", "finished"]);
    Ok(())
}

/// Four runs, of which two run and two are pending, and one that is suspended; then a crash.
async fn crashed(lab: &Lab) {
    let engine = lab.builder().max_running_runs(2).build().await.unwrap();
    for name in ["suspended", "r1", "r2", "r3", "r4"] {
        lab.world.tell(name, Do::Hold);
        drop(engine.start(name, leaf(name).build()).await.unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        if name == "suspended" {
            engine.suspend(name).await.unwrap();
        }
    }
    lab.world.until("r2").await;
    lab.crash(engine).await;
    lab.world.log();
}

#[tokio::test(start_paused = true)]
async fn all_that_was_running_is_resumed_before_what_was_pending() -> keepstep::Result<()> {
    let lab = Lab::new();
    crashed(&lab).await;
    let engine = lab
        .builder()
        .max_running_runs(1)
        .max_pending_runs(2)
        .build();
    let engine = engine.await?;
    let resumed = engine.resume_all().await?;
    let ids: Vec<_> = resumed.iter().map(|(id, _)| &**id).collect();
    assert_eq!(ids, ["r1", "r2", "r3", "r4"]);
    // One runs, three wait: the limit of pending runs is for new ones.
    assert!(resumed.iter().all(|(_, handle)| handle.is_ok()));
    let refused = engine.start("r5", leaf("r5").build()).await;
    assert!(matches!(refused, Err(Error::QueueFull { limit: 2 })));
    for (id, status) in [
        ("suspended", Status::Suspended),
        ("r1", Status::Running),
        ("r3", Status::Pending),
        ("r4", Status::Pending),
    ] {
        assert_eq!(engine.status(id).await?, status, "{id}");
    }
    for name in ["r1", "r2", "r3", "r4"] {
        lab.world.tell(name, Do::Succeed);
    }
    for (_, handle) in resumed {
        assert_eq!(handle?.await?, 1);
    }
    assert_eq!(lab.world.log(), ["r1", "r2", "r3", "r4"]);
    assert!(engine.resume_all().await?.is_empty());
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn opening_resumes_what_was_interrupted_if_asked() -> keepstep::Result<()> {
    let lab = Lab::new();
    crashed(&lab).await;
    let engine = lab.engine().await;
    for name in ["r1", "r2", "r3", "r4"] {
        assert_eq!(engine.status(name).await?, Status::Resumable);
    }
    assert_eq!(lab.world.log(), [""; 0], "opening runs nothing");
    lab.crash(engine).await;

    let engine = lab.builder().resume_on_open(true).build().await?;
    for name in ["r1", "r2", "r3", "r4"] {
        lab.world.until(name).await;
        assert_eq!(engine.status(name).await?, Status::Running);
        lab.world.tell(name, Do::Succeed);
        assert_eq!(engine.output::<i64>(name).await?, 1);
    }
    assert_eq!(engine.status("suspended").await?, Status::Suspended);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_hundred_runs_are_found_again_in_every_status() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("odd", Do::Fail);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let who = |n: usize| ["even", "odd", "held"][n % 3];
    let mut handles = Vec::new();
    for n in 0..100 {
        let workflow = leaf(who(n)).build();
        handles.push((n, engine.start(format!("run {n:02}"), workflow).await?));
    }
    for (n, handle) in handles {
        match n % 3 {
            0 => assert_eq!(handle.await?, 1),
            1 => drop(handle.await.unwrap_err()),
            _ => drop(handle),
        }
    }
    lab.crash(engine).await;

    let engine = lab.engine().await;
    for (status, count) in [
        (Status::Successful, 34),
        (Status::Failed, 33),
        (Status::Resumable, 33),
        (Status::Running, 0),
    ] {
        assert_eq!(engine.list(status).await?.runs.len(), count, "{status}");
    }
    lab.world.tell("odd", Do::Succeed);
    lab.world.tell("held", Do::Succeed);
    let resumed = engine.resume_all().await?;
    assert_eq!(resumed.len(), 33);
    for (_, handle) in resumed {
        assert_eq!(handle?.await?, 1);
    }
    for run in engine.list(Status::Failed).await?.runs {
        assert_eq!(engine.resume::<i64>(&run.id).await?.await?, 1);
    }
    assert_eq!(engine.list(Status::Successful).await?.runs.len(), 100);
    engine.shutdown().await
}

#[tokio::test]
async fn a_store_that_is_in_use_is_not_opened_twice() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let world = World::default();
    world.tell("a", Do::Hold);
    let engine = opened(&dir, &world).await;
    let handle = engine.start("run", leaf("a").build()).await?;
    world.until("a").await;
    let path = dir.path().join("data");
    let error = Engine::open(path.to_str().unwrap()).await.unwrap_err();
    let is_in_use = matches!(error, Error::Storage(StorageError::InUse { .. }));
    assert!(is_in_use, "{error:?}");
    // The one that has it is not disturbed.
    world.tell("a", Do::Succeed);
    assert_eq!(handle.await?, 1);
    engine.shutdown().await
}
