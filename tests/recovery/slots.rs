//! A slot of `max_running_runs` is for executing: what only waits needs none, and what exists is never refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::memory;
use keepstep::{Filter, event, race, sleep};

use crate::common::{Do, Lab, Tampered, World, leaf};

#[step(retries = 0)]
async fn note(name: String, #[resource] world: &World) -> Result<i64, String> {
    world.act(&name).await.map(|()| 1)
}

fn after_sleep(name: &str, seconds: u64) -> Workflow<i64> {
    note(name).after(&sleep(Duration::from_secs(seconds)))
}

fn after_event(name: &str) -> Workflow<i64> {
    note(name).after(&event::<()>("go"))
}

async fn statuses<const N: usize>(engine: &Engine, ids: [&str; N]) -> [Status; N] {
    let mut statuses = [Status::Canceled; N];
    for (id, status) in ids.iter().zip(&mut statuses) {
        *status = engine.status(id).await.unwrap();
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_what_waits_does_not_queue_behind_what_executes() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("long", Do::Hold);
    let engine = lab.engine().await;
    for n in 0..3 {
        drop(engine.start(format!("long {n}"), note("long")).await?);
    }
    drop(engine.start("sleeper", after_sleep("slept", 60)).await?);
    drop(engine.start("told", after_event("told")).await?);
    drop(engine.start("waits", after_event("waited")).await?);
    lab.world.until_times("long", 3).await;
    lab.crash(engine).await;

    // The event comes while nothing goes on with its run.
    let engine = lab.engine().await;
    engine.send_event("told", "go", &()).await?;
    lab.crash(engine).await;

    lab.world.log();
    let builder = lab.builder().max_running_runs(1).resume_on_open(true);
    let engine = builder.build().await?;
    let began = lab.clock.now();
    assert_eq!(engine.output::<i64>("told").await?, 1);
    assert!(lab.clock.now().duration_since(began).unwrap() < Duration::from_secs(5));
    assert_eq!(
        statuses(&engine, ["long 0", "long 2", "sleeper", "waits"]).await,
        [Status::Running; 4]
    );
    assert_eq!(engine.output::<i64>("sleeper").await?, 1);
    let slept = lab.clock.now().duration_since(began).unwrap();
    assert!(slept < Duration::from_secs(65), "{slept:?}");
    engine.send_event("waits", "go", &()).await?;
    assert_eq!(engine.output::<i64>("waits").await?, 1);
    // Of those that execute, there is still only one.
    assert_eq!(lab.world.log(), ["long", "told", "slept", "waited"]);
    lab.world.tell("long", Do::Succeed);
    for n in 0..3 {
        assert_eq!(engine.output::<i64>(format!("long {n}")).await?, 1);
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_what_a_run_waits_for_beside_a_step_does_not_wait_for_a_slot()
-> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("long", Do::Hold);
    lab.world.tell("charge", Do::Hold);
    let engine = lab.engine().await;
    drop(engine.start("first", note("long")).await?);
    lab.world.until("long").await;
    let minute = sleep(Duration::from_secs(60));
    drop(engine.start("timed", race(note("charge"), minute)).await?);
    for id in ["told before", "told", "heard of nothing"] {
        let stopped = race(note("charge"), event::<()>("stop"));
        drop(engine.start(id, stopped).await?);
    }
    lab.world.until_times("charge", 4).await;
    lab.crash(engine).await;
    // The event comes while nothing goes on with its run.
    let engine = lab.engine().await;
    engine.send_event("told before", "stop", &()).await?;
    lab.crash(engine).await;
    lab.world.log();

    let builder = lab.builder().max_running_runs(1).resume_on_open(true);
    let engine = builder.build().await?;
    let began = lab.clock.now();
    let since = || lab.clock.now().duration_since(began).unwrap();
    type Raced = Either<i64, ()>;
    let soon = Duration::from_secs(5);
    let told = engine.output::<Raced>("told before").await?;
    assert!(told.is_right() && since() < soon, "{:?}", since());
    engine.send_event("told", "stop", &()).await?;
    let told = engine.output::<Raced>("told").await?;
    assert!(told.is_right() && since() < soon, "{:?}", since());
    let timed = engine.output::<Raced>("timed").await?;
    assert!(timed.is_right(), "{timed:?}");
    assert!(since() < Duration::from_secs(65), "{:?}", since());
    // Of those that execute, there is still only one.
    assert_eq!(lab.world.log(), ["long"]);
    lab.world.tell("long", Do::Succeed);
    lab.world.tell("charge", Do::Succeed);
    let charged = engine.output::<Raced>("heard of nothing").await?;
    assert!(charged.is_left(), "{charged:?}");
    assert_eq!(lab.world.log(), ["charge"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_not_refused_after_a_restart() -> keepstep::Result<()> {
    const RUNS: usize = 20;
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab.builder().max_running_runs(7).build().await?;
    for n in 0..RUNS {
        drop(engine.start(format!("{n:02}"), leaf("a").build()).await?);
    }
    lab.crash(engine).await;

    let builder = lab.builder().max_running_runs(2).max_pending_runs(5);
    let engine = builder.resume_on_open(true).build().await?;
    for run in engine.list(Filter::all().limit(100)).await?.runs {
        assert_ne!(run.status, Status::Resumable, "{}", run.id);
    }
    let refused = engine.start("new", leaf("a").build()).await.unwrap_err();
    assert!(
        matches!(refused, Error::QueueFull { limit: 5 }),
        "{refused:?}"
    );
    lab.world.tell("a", Do::Succeed);
    for n in 0..RUNS {
        assert_eq!(engine.output::<i64>(format!("{n:02}")).await?, 1);
    }
    assert_eq!(engine.run("new", leaf("a").build()).await?, 1);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_suspended_run_that_only_waits_is_resumed_without_a_slot() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("long", Do::Hold);
    let engine = lab.builder().max_running_runs(1).max_pending_runs(0);
    let engine = engine.build().await?;
    for id in ["sleeper", "executes"] {
        let workflow = match id {
            "sleeper" => after_sleep("slept", 60),
            _ => note("long"),
        };
        drop(engine.start(id, workflow).await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.suspend(id).await?;
    }
    let long = engine.start("long", note("long")).await?;
    let sleeper = engine.resume::<i64>("sleeper").await?;
    let executes = engine.resume::<i64>("executes").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        statuses(&engine, ["long", "sleeper", "executes"]).await,
        [Status::Running, Status::Running, Status::Pending]
    );
    assert_eq!(sleeper.await?, 1);
    assert_eq!(long.status().await?, Status::Running);
    lab.world.tell("long", Do::Succeed);
    assert_eq!((long.await?, executes.await?), (1, 1));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_goes_on_comes_before_those_that_have_not_begun() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("p1", Do::Hold);
    let engine = lab.builder().max_running_runs(1).build().await?;
    let nap = sleep(Duration::from_secs(2)).after(&note("first"));
    let woken = engine.start("woken", note("woken").after(&nap)).await?;
    let mut pending = Vec::new();
    for id in ["p1", "p2", "p3"] {
        pending.push(engine.start(id, note(id)).await?);
    }
    // The sleeper has given its slot to the first that was pending.
    lab.world.until("p1").await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(woken.status().await?, Status::Running);
    assert_eq!(lab.world.log(), ["first", "p1"]);
    lab.world.tell("p1", Do::Succeed);
    assert_eq!(woken.await?, 1);
    for run in pending {
        assert_eq!(run.await?, 1);
    }
    assert_eq!(lab.world.log(), ["woken", "p2", "p3"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_a_slot_can_be_stopped_and_leaves_none_behind() -> keepstep::Result<()>
{
    let lab = Lab::new();
    let engine = lab.builder().max_running_runs(1).build().await?;
    for (round, stop) in ["cancel", "suspend", "shutdown"].into_iter().enumerate() {
        lab.world.tell("long", Do::Hold);
        let woken = format!("woken {round}");
        drop(engine.start(&woken, after_sleep("never", 2)).await?);
        let long = engine.start(format!("long {round}"), note("long")).await?;
        lab.world.until("long").await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(engine.status(&woken).await?, Status::Running);
        match stop {
            "cancel" => engine.cancel(&woken).await?,
            "suspend" => engine.suspend(&woken).await?,
            _ => return engine.shutdown().await,
        }
        assert_eq!(lab.world.log(), ["long"]);
        lab.world.tell("long", Do::Succeed);
        assert_eq!(long.await?, 1);
        // The slot is free, and there is only one.
        lab.world.tell("next", Do::Hold);
        let next = engine.start(format!("next {round}"), note("next")).await?;
        let last = engine.start(format!("last {round}"), note("last")).await?;
        lab.world.until("next").await;
        assert_eq!(last.status().await?, Status::Pending);
        lab.world.tell("next", Do::Succeed);
        assert_eq!((next.await?, last.await?), (1, 1));
        assert_eq!(lab.world.log(), ["next", "last"]);
    }
    Ok(())
}

/// A step that is ready is executed also if the run waits for an event beside it.
#[tokio::test(start_paused = true)]
async fn a_run_with_a_step_that_waits_for_a_permit_stays_in_memory() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("long", Do::Hold);
    let engine = lab.builder().max_concurrent_steps(1).build().await?;
    let long = engine.start("long", note("long")).await?;
    lab.world.until("long").await;
    let charge = engine
        .start("charge", race(note("charge"), event::<()>("stop")))
        .await?;
    // Longer than a run that only waits for others stays in memory.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(lab.world.log(), ["long"]);
    lab.world.tell("long", Do::Succeed);
    assert_eq!(long.await?, 1);
    let charged = tokio::time::timeout(Duration::from_secs(60), charge.into_future());
    assert_eq!(charged.await.expect("nobody executes it")?, Either::Left(1));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_with_a_step_that_waits_for_a_slot_stays_in_memory() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("long", Do::Hold);
    let engine = lab.builder().max_running_runs(1).build().await?;
    let both = both_events();
    let approved = engine.start("approved", both).await?;
    // It has given its slot back.
    let long = engine.start("long", note("long")).await?;
    lab.world.until("long").await;
    let queued = engine.start("queued", note("queued")).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(lab.world.log(), ["long"]);
    engine.send_event("approved", "asked", &()).await?;
    let asks = tokio::time::timeout(Duration::from_secs(60), lab.world.until("asks"));
    asks.await.expect("nobody executes it");
    engine.send_event("approved", "answered", &7).await?;
    assert_eq!(approved.await?, vec![1, 7]);
    assert_eq!(long.status().await?, Status::Running);
    lab.world.tell("long", Do::Succeed);
    assert_eq!((long.await?, queued.await?), (1, 1));
    engine.shutdown().await
}

/// A step once an event has come, beside another event.
fn both_events() -> Workflow<Vec<i64>> {
    all([
        note("asks").after(&event::<()>("asked")),
        event::<i64>("answered"),
    ])
}

/// Counts how many bodies execute at once.
#[derive(Debug, Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[step]
async fn crowds(_n: u64, #[resource] crowd: &Arc<Crowd>) -> u64 {
    let now = crowd.now.fetch_add(1, Ordering::SeqCst) + 1;
    crowd.most.fetch_max(now, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(10)).await;
    crowd.now.fetch_sub(1, Ordering::SeqCst);
    1
}

#[tokio::test(start_paused = true)]
async fn runs_that_wait_in_between_never_execute_in_greater_number_than_there_are_slots()
-> keepstep::Result<()> {
    let lab = Lab::new();
    let crowd = Arc::new(Crowd::default());
    let builder = lab.builder().resource(Arc::clone(&crowd));
    let engine = builder.max_running_runs(3).build().await?;
    let mut handles = Vec::new();
    for n in 0..40 {
        let nap = sleep(Duration::from_millis(50)).after(&crowds(n));
        let child = keepstep::child(format!("child of {n}"), crowds(n).after(&nap));
        handles.push(engine.start(format!("run {n}"), crowds(child)).await?);
    }
    for handle in handles {
        assert_eq!(handle.await?, 1);
    }
    assert_eq!(crowd.most.load(Ordering::SeqCst), 3);
    engine.shutdown().await
}

/// It is read back from the store, and not gone on with from memory.
#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_long_leaves_memory() -> keepstep::Result<()> {
    for is_timed in [true, false] {
        let store = Arc::new(Tampered::new(memory()));
        let lab = Lab::on(store.clone());
        let engine = lab.engine().await;
        let workflow = || match is_timed {
            true => after_sleep("woken", 60),
            false => after_event("woken"),
        };
        let run = engine.start("run", workflow()).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(run.status().await?, Status::Running);
        store.with(|_, _| None);
        engine.send_event("run", "go", &()).await?;
        let error = run.await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        store.heal();
        assert_eq!(engine.run("run", workflow()).await?, 1);
        assert_eq!(lab.world.log(), ["woken"]);
        engine.shutdown().await?;
    }
    Ok(())
}
