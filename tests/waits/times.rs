//! Sleeps and time limits: when they end, across crashes, and at what cost.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keepstep::StepErrorKind;
use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;

use crate::common::{Do, Lab, World};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[step]
async fn note(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

#[tokio::test(start_paused = true)]
async fn a_year_of_days_passes_at_once() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let mut year = sleep(DAY);
    for _ in 1..365 {
        year = sleep(DAY).after(&year);
    }
    let before = lab.clock.now();
    engine.run("year", year).await?;
    let took = lab.clock.now().duration_since(before).unwrap();
    assert!(took >= 365 * DAY && took < 366 * DAY, "{took:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_sleep_goes_on_through_crashes_and_is_due_at_once_when_it_is_past() -> keepstep::Result<()>
{
    let lab = Lab::new();
    let nap = || note("woken").after(&sleep(DAY));
    let engine = lab.engine().await;
    let run = engine.start("run", nap()).await?;
    let began = lab.clock.now();
    let wake_at = wake_at(&engine, "run").await;
    let left = wake_at.duration_since(began).unwrap();
    assert!(
        left <= DAY && left > DAY - Duration::from_secs(1),
        "{left:?}"
    );
    drop(run);
    lab.crash(engine).await;

    // Half of it passes, and another engine waits for the other half only.
    tokio::time::sleep(DAY / 2).await;
    let engine = lab.engine().await;
    assert_eq!(engine.status("run").await?, Status::Resumable);
    drop(engine.resume::<String>("run").await?);
    assert_eq!(engine.metadata("run").await?.wake_at, Some(wake_at));
    lab.crash(engine).await;
    assert!(lab.world.log().is_empty());

    tokio::time::sleep(DAY).await;
    let engine = lab.engine().await;
    let before = lab.clock.now();
    assert_eq!(engine.resume::<String>("run").await?.await?, "woken");
    assert!(lab.clock.now().duration_since(before).unwrap() < Duration::from_secs(1));
    assert_eq!(lab.world.log(), ["woken"]);
    engine.shutdown().await
}

/// When a run is woken next, once it waits.
async fn wake_at(engine: &Engine, id: &str) -> SystemTime {
    loop {
        if let Some(at) = engine.metadata(id).await.unwrap().wake_at {
            return at;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn sleeping_runs_are_not_in_memory_and_each_wakes_at_its_time() -> keepstep::Result<()> {
    let lab = Lab::new();
    // What only waits takes no slot.
    let engine = lab.builder().max_running_runs(1).build().await?;
    for n in 0..200 {
        let nap = sleep(DAY + Duration::from_secs(60) * n);
        let workflow = note(format!("{n:03}")).after(&nap);
        drop(engine.start(format!("run {n}"), workflow).await?);
    }
    for n in 0..200 {
        wake_at(&engine, &format!("run {n}")).await;
    }
    for n in 0..200 {
        engine.output::<String>(format!("run {n}")).await?;
    }
    let log = lab.world.log();
    assert_eq!(log.len(), 200);
    assert!(log.is_sorted(), "{log:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_from_its_beginning_is_written_once_until_then() -> keepstep::Result<()> {
    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    let lab = Lab::on(recorded.clone());
    // What only waits takes no slot.
    let engine = lab.builder().max_running_runs(1).build().await?;
    let never = || event::<()>("never");
    let waits = [
        race(sleep(DAY), never()),
        race(never().timeout(DAY), never()),
    ];
    for (n, wait) in (1..).zip(waits) {
        let id = format!("run {n}");
        drop(
            engine
                .start(&*id, note(id.clone()).after(&wait.catch()))
                .await?,
        );
        let metadata = engine.metadata(&*id).await?;
        assert_eq!(metadata.wake_at, Some(metadata.created_at + DAY));
        tokio::time::sleep(DAY / 4).await;
        assert_eq!(recorded.log().len(), n, "no second commit");
    }
    for n in 1..=2 {
        assert_eq!(
            engine.output::<String>(format!("run {n}")).await?,
            format!("run {n}")
        );
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_in_the_queue_counts_its_sleep_from_when_it_begins() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("first", Do::Hold);
    let engine = lab.builder().max_running_runs(1).build().await?;
    let first = engine.start("first", note("first")).await?;
    lab.world.until("first").await;
    let second = engine.start("second", sleep(DAY)).await?;
    assert_eq!(second.status().await?, Status::Pending);
    assert_eq!(engine.metadata("second").await?.wake_at, None);
    tokio::time::sleep(DAY / 2).await;
    let began = lab.clock.now();
    lab.world.tell("first", Do::Succeed);
    first.await?;
    second.await?;
    let slept = lab.clock.now().duration_since(began).unwrap();
    assert!(
        slept >= DAY && slept < DAY + Duration::from_secs(1),
        "{slept:?}"
    );
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn more_sleepers_than_are_kept_in_mind_wake_at_their_times() -> keepstep::Result<()> {
    // More than an engine keeps the times of, all due within the two minutes that it looks ahead.
    const N: u64 = 9_000;
    let lab = Lab::new();
    let engine = lab.engine().await;
    let first = lab.clock.now() + Duration::from_secs(30);
    for n in (0..N).rev() {
        let nap = sleep_until(first + Duration::from_millis(n));
        drop(engine.start(format!("run {n:04}"), nap).await?);
    }
    for n in 0..N {
        engine.output::<()>(format!("run {n:04}")).await?;
    }
    let woken = lab.clock.now().duration_since(first).unwrap();
    let last = Duration::from_millis(N);
    assert!(woken < last + Duration::from_secs(1), "{woken:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_sleep_until_a_time_ends_then() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let noon = lab.clock.now() + DAY;
    engine.run("future", sleep_until(noon)).await?;
    let late = lab.clock.now().duration_since(noon).unwrap();
    assert!(late < Duration::from_secs(1), "{late:?}");
    engine.run("past", sleep_until(noon - DAY)).await?;
    let late = lab.clock.now().duration_since(noon).unwrap();
    assert!(late < Duration::from_secs(1), "{late:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_a_whole_stops_what_it_is_made_of() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("slow", crate::common::Do::Hold);
    let engine = lab.engine().await;
    let whole = all([note("quick"), note("slow")]).timeout(Duration::from_secs(60));
    let before = lab.clock.now();
    let error = engine.run("run", whole.catch()).await?.unwrap_err();
    assert_eq!(error.kind, StepErrorKind::Timeout);
    assert_eq!(error.message, "it took longer than 60s");
    let took = lab.clock.now().duration_since(before).unwrap();
    assert!(
        took >= Duration::from_secs(60) && took < Duration::from_secs(61),
        "{took:?}"
    );
    assert_eq!(engine.status("run").await?, Status::Successful);
    engine.shutdown().await
}

/// It is about to leave memory when its time comes too near for that. A loop that goes round for ever keeps the clock from going on.
#[tokio::test(start_paused = true)]
async fn a_run_whose_time_comes_near_while_it_lingers_waits_for_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let first = race(event::<u32>("never"), sleep(Duration::from_millis(5_500)));
    assert_eq!(engine.run("run", first).await?, Either::Right(()));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_limit_passes_also_while_nobody_is_there() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    drop(
        engine
            .start("run", event::<u32>("never").timeout(DAY))
            .await?,
    );
    wake_at(&engine, "run").await;
    lab.crash(engine).await;
    tokio::time::sleep(DAY).await;
    let engine = lab.engine().await;
    match engine.resume::<u32>("run").await?.await {
        Err(Error::Failed { error, .. }) => assert_eq!(error.kind, StepErrorKind::Timeout),
        other => panic!("{other:?}"),
    }
    // Tried again, it has its whole time, and an event may come.
    let again = engine.resume::<u32>("run").await?;
    engine.send_event("run", "never", &7u32).await?;
    assert_eq!(again.await?, 7);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_run_can_be_suspended_and_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for id in ["suspended", "canceled"] {
        drop(engine.start(id, sleep(DAY)).await?);
        wake_at(&engine, id).await;
    }
    engine.suspend("suspended").await?;
    engine.cancel("canceled").await?;
    assert_eq!(engine.metadata("suspended").await?.wake_at, None);
    tokio::time::sleep(2 * DAY).await;
    assert_eq!(engine.status("suspended").await?, Status::Suspended);
    assert_eq!(engine.status("canceled").await?, Status::Canceled);
    // Its time has passed meanwhile.
    let before = lab.clock.now();
    engine.resume::<()>("suspended").await?.await?;
    assert!(lab.clock.now().duration_since(before).unwrap() < Duration::from_secs(1));
    engine.shutdown().await
}
