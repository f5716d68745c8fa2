//! Limits: of runs in execution, of runs that wait for that, and of bodies.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use keepstep::prelude::*;

use crate::common::{Do, Lab, World, leaf};

#[tokio::test(start_paused = true)]
async fn two_run_two_wait_and_the_fifth_is_refused() -> keepstep::Result<()> {
    let lab = Lab::new();
    let names = ["r1", "r2", "r3", "r4", "r5"];
    names.iter().for_each(|name| lab.world.tell(name, Do::Hold));
    let engine = lab
        .builder()
        .max_running_runs(2)
        .max_pending_runs(2)
        .build();
    let engine = engine.await?;
    let mut handles = Vec::new();
    for name in &names[..4] {
        handles.push(engine.start(name, leaf(name).build()).await?);
    }
    match engine.start("r5", leaf("r5").build()).await {
        Err(Error::QueueFull { limit }) => assert_eq!(limit, 2),
        other => panic!("{other:?}"),
    }
    let error = engine.status("r5").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    // Pending means that nothing of it has run.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.world.log(), ["r1", "r2"]);
    for (name, status) in [
        ("r1", Status::Running),
        ("r2", Status::Running),
        ("r3", Status::Pending),
        ("r4", Status::Pending),
    ] {
        assert_eq!(engine.status(name).await?, status);
    }
    assert!(engine.metadata("r3").await?.started_at.is_none());

    // First come, first served; and there is room for the fifth.
    lab.world.tell("r2", Do::Succeed);
    lab.world.until("r3").await;
    let mut fifth = engine.start("r5", leaf("r5").build()).await;
    while matches!(fifth, Err(Error::QueueFull { .. })) {
        tokio::task::yield_now().await;
        fifth = engine.start("r5", leaf("r5").build()).await;
    }
    handles.push(fifth?);
    assert_eq!(engine.status("r3").await?, Status::Running);
    assert_eq!(engine.status("r4").await?, Status::Pending);
    for name in ["r3", "r4", "r5"] {
        lab.world.tell(name, Do::Succeed);
    }
    lab.world.until("r5").await;
    lab.world.tell("r1", Do::Succeed);
    for handle in handles {
        assert_eq!(handle.await?, 1);
    }
    assert_eq!(lab.world.log(), ["r3", "r4", "r5"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn every_way_for_a_run_to_end_frees_its_place() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.builder().max_running_runs(1).build().await?;
    for round in 0..5 {
        lab.world.tell("first", Do::Hold);
        let id = format!("first {round}");
        let handle = engine.start(&id, leaf("first").build()).await?;
        lab.world.until("first").await;
        let next = engine.start(format!("next {round}"), leaf("next").build());
        let next = next.await?;
        assert_eq!(next.status().await?, Status::Pending);
        match round {
            0 => lab.world.tell("first", Do::Succeed),
            1 => lab.world.tell("first", Do::Fail),
            2 => lab.world.tell("first", Do::Panic),
            3 => engine.cancel(&id).await?,
            _ => engine.suspend(&id).await?,
        }
        assert_eq!(next.await?, 1);
        drop(handle);
        lab.world.log();
    }
    engine.shutdown().await
}

#[step(retries = 1, backoff = "1h")]
async fn patient(#[resource] world: &World) -> Result<i64, String> {
    world.act("patient").await.map(|()| 1)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_a_time_takes_no_place() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("patient", Do::FailTimes(1));
    let engine = lab.builder().max_running_runs(1).build().await?;
    let waiting = engine.start("waiting", patient()).await?;
    assert_eq!(engine.run("next", leaf("next").build()).await?, 1);
    assert_eq!(waiting.status().await?, Status::Running);
    lab.world.tell("held", Do::Hold);
    let held = engine.start("held", leaf("held").build()).await?;
    // When its time comes it does not queue behind others.
    assert_eq!(waiting.await?, 1);
    assert_eq!(engine.status("held").await?, Status::Running);
    lab.world.tell("held", Do::Succeed);
    assert_eq!(held.await?, 1);
    engine.shutdown().await
}

/// Counts how many bodies execute at once.
#[derive(Debug, Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Crowd {
    fn enter(&self) -> impl Drop + use<'_> {
        struct Inside<'a>(&'a Crowd);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.now.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Inside(self)
    }
}

#[step]
async fn crowds(_n: usize, #[resource] crowd: &Arc<Crowd>) -> Workflow<usize> {
    let _inside = crowd.enter();
    tokio::time::sleep(Duration::from_millis(1)).await;
    crowds_blocking()
}

#[step]
fn crowds_blocking(#[resource] crowd: &Arc<Crowd>) -> usize {
    let _inside = crowd.enter();
    std::thread::yield_now();
    1
}

#[step]
async fn sum(numbers: Vec<usize>, #[resource] crowd: &Arc<Crowd>) -> usize {
    let _inside = crowd.enter();
    numbers.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_bodies_execute_at_once_than_are_allowed() -> keepstep::Result<()> {
    for limit in [1, 3] {
        let crowd = Arc::new(Crowd::default());
        let builder = Engine::builder().resource(crowd.clone());
        let engine = builder.max_concurrent_steps(limit).build().await?;
        let mut handles = Vec::new();
        for run in 0..3 {
            let all = sum((0..20).map(crowds).collect::<Vec<_>>());
            handles.push(engine.start(format!("run {run}"), all).await?);
        }
        for handle in handles {
            assert_eq!(handle.await?, 20);
        }
        assert_eq!(crowd.most.load(Ordering::SeqCst), limit);
        engine.shutdown().await?;
    }
    Ok(())
}

/// Where pairs of bodies wait for each other, each of which blocks its thread meanwhile.
struct Meetings {
    n_there: Vec<Mutex<usize>>,
    came: Vec<Condvar>,
    /// One waited in vain: the others need not.
    failed: AtomicBool,
}

#[step]
async fn meets(body: usize, #[resource] meetings: &Arc<Meetings>) -> usize {
    let mut n = meetings.n_there[body / 2].lock().unwrap();
    *n += 1;
    meetings.came[body / 2].notify_all();
    if *n < 2 && !meetings.failed.load(Ordering::SeqCst) {
        let patience = Duration::from_secs(20);
        let waited = meetings.came[body / 2].wait_timeout_while(n, patience, |n| *n < 2);
        let (_n, waited) = waited.unwrap();
        meetings
            .failed
            .fetch_or(waited.timed_out(), Ordering::SeqCst);
    }
    usize::from(!meetings.failed.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_blocks_its_thread_holds_up_none_that_began_with_it() -> keepstep::Result<()> {
    const BODIES: usize = 64;
    let meetings = Meetings {
        n_there: (0..BODIES / 2).map(|_| Mutex::default()).collect(),
        came: (0..BODIES / 2).map(|_| Condvar::new()).collect(),
        failed: AtomicBool::new(false),
    };
    let builder = Engine::builder().resource(Arc::new(meetings));
    let engine = builder.build().await?;
    let all = sum_all((0..BODIES).map(meets).collect::<Vec<_>>());
    assert_eq!(engine.run("run", all).await?, BODIES);
    engine.shutdown().await
}

#[step]
async fn sum_all(numbers: Vec<usize>) -> usize {
    numbers.iter().sum()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_stopped_gives_its_place_to_another() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.builder().max_concurrent_steps(1).build().await?;
    drop(engine.start("first", leaf("held").build()).await?);
    lab.world.until("held").await;
    let next = engine.start("next", leaf("next").build()).await?;
    assert_eq!(next.status().await?, Status::Running);
    engine.cancel("first").await?;
    assert_eq!(next.await?, 1);
    engine.shutdown().await
}
