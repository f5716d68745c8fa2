//! Retries: how many, when, and that a crash forgets neither.

use std::time::{Duration, SystemTime};

use keepstep::prelude::*;

use crate::common::{Do, Lab, World};

#[step(retries = 2, backoff = "1h..1h")]
async fn hourly(#[resource] world: &World) -> Result<u32, String> {
    let attempt = context().attempt();
    world.act("hourly").await.map(|()| attempt)
}

#[step(retries = 2, backoff = "100ms")]
async fn soon(#[resource] world: &World) -> Result<u32, String> {
    let attempt = context().attempt();
    world.act("soon").await.map(|()| attempt)
}

/// When a run is woken next, once that is durable.
async fn wake_at(engine: &Engine, id: &str, not: Option<SystemTime>) -> SystemTime {
    loop {
        match engine.metadata(id).await.unwrap().wake_at {
            Some(at) if Some(at) != not => return at,
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_forgets_no_attempt_and_no_time() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("hourly", Do::Fail);
    let mut due_at = None;
    let engine = lab.engine().await;
    drop(engine.start("run", hourly()).await?);
    due_at = Some(wake_at(&engine, "run", due_at).await);
    lab.crash(engine).await;
    assert_eq!(lab.world.log(), ["hourly"]);

    // The second attempt is at its time, not before, in another engine.
    let engine = lab.engine().await;
    drop(engine.resume::<u32>("run").await?);
    lab.world.until("hourly").await;
    let late = lab.clock.now().duration_since(due_at.unwrap()).unwrap();
    assert!(late < Duration::from_secs(1), "{late:?}");
    let due_again = wake_at(&engine, "run", due_at).await;
    lab.crash(engine).await;
    assert_eq!(lab.world.log(), ["hourly"]);

    // A time that passed while nobody was there is now.
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert!(lab.clock.now() > due_again);
    let engine = lab.engine().await;
    let before = lab.clock.now();
    match engine.resume::<u32>("run").await?.await {
        Err(Error::Failed { error, .. }) => assert_eq!(error.attempts, 3),
        other => panic!("{other:?}"),
    }
    let took = lab.clock.now().duration_since(before).unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(lab.world.log(), ["hourly"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_is_woken_without_anybody_waiting_for_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("hourly", Do::FailTimes(2));
    let engine = lab.engine().await;
    for n in 0..20 {
        drop(engine.start(format!("run {n}"), hourly()).await?);
    }
    lab.world.until_times("hourly", 22).await;
    for n in 0..20 {
        engine.output::<u32>(format!("run {n}")).await?;
    }
    assert_eq!(lab.world.log().len(), 22);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_may_succeed() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for fails in 0..=2 {
        lab.world.tell("soon", Do::FailTimes(fails));
        let attempt = engine.run(format!("{fails}"), soon()).await?;
        assert_eq!(attempt, fails + 1);
        assert_eq!(lab.world.log().len() as u32, fails + 1);
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_a_crash_cut_short_is_no_attempt() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("soon", Do::Hold);
    for _ in 0..5 {
        let engine = lab.engine().await;
        drop(engine.start("run", soon()).await?);
        lab.world.until("soon").await;
        lab.crash(engine).await;
        assert_eq!(lab.world.log(), ["soon", "soon dropped"]);
    }
    lab.world.tell("soon", Do::FailTimes(2));
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", soon()).await?, 3);
    assert_eq!(lab.world.log(), ["soon"; 3]);
    engine.shutdown().await
}
