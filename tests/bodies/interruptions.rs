//! Steps that end their process, and steps that only were there when it died.

use std::process::Command;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{BoxError, Filter, SuspendReason, event_listener};
use serde::{Deserialize, Serialize};

use crate::common::{Do, Lab, World, join, leaf};

/// Where a process of its own finds its store.
const STORE: &str = "KEEPSTEP_TEST_BODIES_STORE";
const INNOCENT: usize = 6;

#[step(retries = 0)]
async fn poison() -> u64 {
    std::process::abort()
}

#[step(retries = 0)]
async fn innocent(n: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(300)).await;
    n
}

/// What a service does at each start.
#[ignore = "it is a process of another test"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service() {
    let url = std::env::var(STORE).unwrap();
    let builder = Engine::builder().resume_on_open(true).max_interruptions(3);
    let engine = builder.open(&url).await.unwrap();
    let is_new = engine.list(Filter::all()).await.unwrap().runs.is_empty();
    if is_new {
        for n in 0..INNOCENT {
            let run = engine.start(format!("innocent/{n}"), innocent(n as u64));
            drop(run.await.unwrap());
        }
        drop(engine.start("poison", poison()).await.unwrap());
    }
    loop {
        let page = engine.list(Filter::all()).await.unwrap();
        let is_at_rest = |run: &keepstep::RunSummary| {
            matches!(run.status, Status::Successful | Status::Suspended)
        };
        if page.runs.len() == INNOCENT + 1 && page.runs.iter().all(is_at_rest) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.shutdown().await.unwrap();
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn a_step_that_ends_its_process_is_found_among_others() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sled:{}", dir.path().join("data").display());
    let mut n_deaths = 0;
    loop {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process
            .args(["--ignored", "--exact", "interruptions::service"])
            .env(STORE, &url);
        let ended = process.output().unwrap();
        if ended.status.success() {
            break;
        }
        n_deaths += 1;
        assert!(n_deaths < 30, "{ended:?}");
    }
    let engine = Engine::open(&url).await.unwrap();
    for n in 0..INNOCENT {
        let status = engine.status(format!("innocent/{n}")).await.unwrap();
        assert_eq!(status, Status::Successful, "{n} after {n_deaths} deaths");
    }
    let suspended = engine.metadata("poison").await.unwrap().suspended.unwrap();
    let SuspendReason::Interrupted { step, times } = &suspended else {
        panic!("{suspended:?}");
    };
    assert!(step.ends_with("poison"), "{step}");
    assert_eq!(*times, 3);
    engine.shutdown().await.unwrap();
}

async fn opened(lab: &Lab) -> Engine {
    opened_with(lab, 3).await
}

async fn opened_with(lab: &Lab, max_interruptions: u32) -> Engine {
    let builder = lab.builder().resume_on_open(true);
    let builder = builder.max_interruptions(max_interruptions);
    builder.build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_is_suspended_when_its_step_was_cut_short_as_often_as_is_allowed()
-> keepstep::Result<()> {
    for max_interruptions in 1..=4 {
        let lab = Lab::new();
        lab.world.tell("held", Do::Hold);
        let mut engine = opened_with(&lab, max_interruptions).await;
        drop(engine.start("run", leaf("held").build()).await?);
        for _ in 0..max_interruptions {
            // It begins as often as that, and not once more.
            lab.world.until("held").await;
            lab.crash(engine).await;
            lab.world.log();
            engine = opened_with(&lab, max_interruptions).await;
        }
        let error = engine.output::<i64>("run").await.unwrap_err();
        let Error::Suspended { reason, .. } = error else {
            panic!("{error}");
        };
        let expected = SuspendReason::Interrupted {
            step: "act".to_owned(),
            times: max_interruptions,
        };
        assert_eq!(reason, expected);
        assert!(lab.world.log().is_empty());
        // It counts anew when a person resumes it.
        drop(engine.resume::<i64>("run").await?);
        for _ in 1..max_interruptions {
            lab.world.until("held").await;
            lab.crash(engine).await;
            lab.world.log();
            engine = opened_with(&lab, max_interruptions).await;
        }
        lab.world.until("held").await;
        lab.world.tell("held", Do::Succeed);
        assert_eq!(engine.output::<i64>("run").await?, 1);
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_step_that_takes_hours_is_not_taken_for_those_that_end_its_process()
-> keepstep::Result<()> {
    let lab = Lab::new();
    let open = async || lab.builder().resume_on_open(true).build().await.unwrap();
    lab.world.tell("hours", Do::Hold);
    let mut engine = open().await;
    drop(engine.start("hours", leaf("hours").build()).await?);
    for poison in ["poison/1", "poison/2"] {
        lab.world.until("hours").await;
        lab.world.tell(poison, Do::Hold);
        drop(engine.start(poison, leaf(poison).build()).await?);
        // The process dies whenever that step begins.
        let hour = Duration::from_secs(3600);
        while tokio::time::timeout(hour, lab.world.until(poison))
            .await
            .is_ok()
        {
            lab.crash(engine).await;
            lab.world.log();
            engine = open().await;
        }
        let suspended = engine.metadata(poison).await?.suspended;
        let is_found = matches!(suspended, Some(SuspendReason::Interrupted { .. }));
        assert!(is_found, "{suspended:?}");
        assert_eq!(engine.status("hours").await?, Status::Running, "{poison}");
    }
    lab.world.tell("hours", Do::Succeed);
    assert_eq!(engine.output::<i64>("hours").await?, 1);
    engine.shutdown().await
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn a_shutdown_is_no_interruption() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sled:{}", dir.path().join("data").display());
    let world = World::default();
    let open = async || {
        let builder = Engine::builder().resume_on_open(true).max_interruptions(2);
        builder.resource(world.clone()).open(&url).await
    };
    world.tell("held", Do::Hold);
    let engine = open().await?;
    drop(engine.start("run", leaf("held").build()).await?);
    world.until("held").await;
    engine.shutdown().await?;
    for _ in 0..6 {
        world.log();
        let engine = open().await?;
        world.until("held").await;
        engine.shutdown().await?;
    }
    world.tell("held", Do::Succeed);
    let engine = open().await?;
    assert_eq!(engine.output::<i64>("run").await?, 1);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_step_ends_the_count() -> keepstep::Result<()> {
    let lab = Lab::new();
    let steps = ["a", "b", "c"];
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    let mut engine = opened(&lab).await;
    steps.iter().for_each(|step| lab.world.tell(step, Do::Hold));
    drop(engine.start("run", workflow).await?);
    for step in steps {
        for _ in 0..2 {
            lab.world.until(step).await;
            lab.crash(engine).await;
            lab.world.log();
            engine = opened(&lab).await;
        }
        lab.world.until(step).await;
        lab.world.tell(step, Do::Succeed);
    }
    assert_eq!(engine.output::<i64>("run").await?, 3);
    engine.shutdown().await
}

#[derive(Debug, Serialize, Deserialize)]
struct Silence;

#[event_listener]
impl EventListener for Silence {
    type Event = u64;

    async fn poll(&mut self) -> Result<u64, BoxError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_waits_is_not_cut_short() -> keepstep::Result<()> {
    let lab = Lab::new();
    let mut engine = opened(&lab).await;
    drop(engine.start("listener", wait_for(Silence)).await?);
    drop(engine.start("event", event::<u64>("never")).await?);
    drop(
        engine
            .start("sleep", sleep(Duration::from_secs(1_000_000)))
            .await?,
    );
    for _ in 0..10 {
        lab.crash(engine).await;
        engine = opened(&lab).await;
    }
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    for id in ["listener", "event", "sleep"] {
        assert_eq!(engine.status(id).await?, Status::Running, "{id}");
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_of_an_id_that_was_used_before_begins_at_nothing() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let mut engine = opened(&lab).await;
    drop(engine.start("run", leaf("held").build()).await?);
    lab.world.until("held").await;
    lab.crash(engine).await;
    lab.world.log();
    engine = opened(&lab).await;
    lab.world.until("held").await;
    lab.crash(engine).await;
    // It is claimed, and not driven.
    engine = lab.engine().await;
    engine.cancel("run").await?;
    engine.delete("run").await?;
    lab.world.log();
    drop(engine.start("run", leaf("held").build()).await?);
    for _ in 0..2 {
        lab.world.until("held").await;
        lab.crash(engine).await;
        lab.world.log();
        engine = opened(&lab).await;
    }
    lab.world.until("held").await;
    lab.world.tell("held", Do::Succeed);
    assert_eq!(engine.output::<i64>("run").await?, 1);
    engine.shutdown().await
}
