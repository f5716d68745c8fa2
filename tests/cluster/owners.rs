//! Who owns a run: leases, what happens when they end, and handing over.

use std::time::{Duration, Instant};

use keepstep::prelude::*;

use crate::common::{Do, join, leaf};
use crate::{Cluster, soon};

#[tokio::test]
async fn a_crashed_engines_runs_go_on_elsewhere_and_repeat_no_step() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("b", Do::Hold);
    let doomed = cluster.short_lived().await;
    let other = cluster.worker().await;
    drop(doomed.start("run", join("b", [leaf("a")]).build()).await?);
    let waiting = other.start("run", join("b", [leaf("a")]).build()).await?;
    soon(cluster.world.until("b")).await;
    drop(doomed);
    soon(cluster.world.until_times("b", 2)).await;
    cluster.world.tell("b", Do::Succeed);
    assert_eq!(soon(waiting).await?, 2);
    assert_eq!(cluster.world.sorted_log(), ["a", "b", "b", "b dropped"]);
    Ok(())
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_its_engine_lives() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let owner = cluster.short_lived().await;
    let handle = owner.start("run", leaf("a").build()).await?;
    soon(cluster.world.until("a")).await;
    let _other = cluster.worker().await;
    // Three leases long.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(handle).await?, 1);
    assert_eq!(cluster.world.log(), ["a"]);
    Ok(())
}

#[tokio::test]
async fn a_shutdown_hands_runs_over_at_once() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let (leaving, submitter) = (cluster.worker().await, cluster.submitter().await);
    // One that runs, and one that waits outside memory.
    let running = submitter.start("running", leaf("a").build()).await?;
    let waiting = submitter
        .start("waiting", keepstep::event::<u32>("go"))
        .await?;
    soon(cluster.world.until("a")).await;
    soon(async {
        while submitter.status("waiting").await.unwrap() != Status::Running {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let _staying = cluster.worker().await;
    let start = Instant::now();
    soon(leaving.shutdown()).await?;
    soon(cluster.world.until_times("a", 2)).await;
    // Much less than a lease.
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    cluster.world.tell("a", Do::Succeed);
    submitter.send_event("waiting", "go", &3_u32).await?;
    assert_eq!(soon(running).await?, 1);
    assert_eq!(soon(waiting).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_worker_without_a_free_slot_wakes_what_a_lost_worker_left() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("long", Do::Hold);
    let doomed = cluster.short_lived().await;
    let nap = keepstep::sleep(Duration::from_secs(3));
    drop(
        doomed
            .start("sleeper", leaf("slept").build().after(&nap))
            .await?,
    );
    let told = leaf("told").build().after(&keepstep::event::<()>("go"));
    drop(doomed.start("told", told).await?);
    soon(async {
        while doomed.metadata("told").await.unwrap().started_at.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(doomed);

    let full = cluster.builder().max_running_runs(1).build().await?;
    let long = full.start("long", leaf("long").build()).await?;
    soon(cluster.world.until("long")).await;
    soon(cluster.world.until("slept")).await;
    // Nobody owns it, and so nobody else could hear of its event.
    full.send_event("told", "go", &()).await?;
    soon(cluster.world.until("told")).await;
    assert_eq!(full.status("long").await?, Status::Running);
    cluster.world.tell("long", Do::Succeed);
    assert_eq!(soon(long).await?, 1);
    Ok(())
}

/// An engine in a thread of its own, which stands still as a process does that was stopped.
#[tokio::test]
async fn an_engine_that_stood_still_for_too_long_does_nothing_twice() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("b", Do::Hold);
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    let (thaw, frozen) = std::sync::mpsc::channel::<()>();
    let (freeze, freezing) = tokio::sync::oneshot::channel::<()>();
    // By this clock it renews its leases where its steps run, and not on a thread of its own.
    let clock = keepstep::Clock::tokio();
    let builder = cluster.builder().lease(Duration::from_secs(1)).clock(clock);
    let started = workflow.clone();
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async move {
            let engine = builder.build().await.unwrap();
            let handle = engine.start("run", started).await.unwrap();
            freezing.await.unwrap();
            // Nothing else happens in this thread meanwhile.
            frozen.recv().unwrap();
            let output = soon(handle).await;
            drop(engine);
            output
        })
    });
    soon(cluster.world.until("b")).await;
    freeze.send(()).unwrap();

    let other = cluster.worker().await;
    let second = other.start("run", &workflow).await?;
    soon(cluster.world.until_times("b", 2)).await;
    cluster.world.tell("c", Do::Hold);
    cluster.world.tell("b", Do::Succeed);
    soon(cluster.world.until("c")).await;
    thaw.send(()).unwrap();
    cluster.world.tell("c", Do::Succeed);
    assert_eq!(soon(second).await?, 3);
    // Who waits where it stood still is told what came of the run elsewhere.
    let output = tokio::task::spawn_blocking(|| stopped.join().unwrap());
    assert_eq!(soon(output).await.unwrap()?, 3);
    let mut log = cluster.world.sorted_log();
    log.retain(|what| !what.ends_with("dropped"));
    assert_eq!(log, ["a", "b", "b", "c"]);
    Ok(())
}
