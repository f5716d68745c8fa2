//! Runs are started, waited for, told of events and stopped anywhere.

use std::time::{Duration, Instant};

use keepstep::prelude::*;

use crate::common::{Do, join, leaf};
use crate::{Cluster, soon};

#[tokio::test]
async fn a_run_of_one_engine_is_waited_for_and_asked_for_at_another() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("b", Do::Hold);
    let (owner, other) = (cluster.worker().await, cluster.worker().await);
    let workflow = join("b", [leaf("a")]).build();
    let mine = owner.start("run", &workflow).await?;
    soon(cluster.world.until("b")).await;
    let theirs = other.start("run", &workflow).await?;
    assert_eq!(other.status("run").await?, Status::Running);
    let conflict = other.start("run", leaf("x").build()).await.unwrap_err();
    assert!(matches!(conflict, Error::IdConflict { .. }), "{conflict:?}");

    cluster.world.tell("b", Do::Succeed);
    assert_eq!(soon(theirs).await?, 2);
    assert_eq!(soon(mine).await?, 2);
    assert_eq!(other.output::<i64>("run").await?, 2);
    assert_eq!(cluster.world.log(), ["a", "b"]);
    Ok(())
}

#[tokio::test]
async fn what_one_engine_submits_another_executes() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let submitter = cluster.submitter().await;
    let waiting = submitter.start("early", leaf("a").build()).await?;
    assert_eq!(submitter.status("early").await?, Status::Resumable);
    assert!(cluster.world.log().is_empty());

    let _worker = cluster.worker().await;
    assert_eq!(soon(waiting).await?, 1);
    let start = Instant::now();
    assert_eq!(
        soon(submitter.run("late", join("c", [leaf("b")]).build())).await?,
        2
    );
    // It was told, and did not look by chance.
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(cluster.world.log(), ["a", "b", "c"]);
    let listed = submitter.list(keepstep::Filter::all()).await?;
    assert!(
        listed
            .runs
            .iter()
            .all(|run| run.status == Status::Successful)
    );
    Ok(())
}

#[tokio::test]
async fn failures_and_suspensions_reach_whoever_waits_elsewhere() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("bad", Do::Fail);
    cluster.world.tell("held", Do::Hold);
    let (worker, submitter) = (cluster.worker().await, cluster.submitter().await);
    let error = soon(submitter.run("bad", leaf("bad").build()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");

    let held = submitter.start("held", leaf("held").build()).await?;
    soon(cluster.world.until("held")).await;
    soon(worker.suspend("held")).await?;
    let error = soon(held).await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    // Whoever resumes it without executing it leaves it to the others.
    cluster.world.tell("held", Do::Succeed);
    assert_eq!(soon(submitter.resume::<i64>("held").await?).await?, 1);
    Ok(())
}

#[tokio::test]
async fn runs_are_stopped_from_anywhere() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let (owner, other) = (cluster.worker().await, cluster.submitter().await);
    for (id, to) in [
        ("canceled", Status::Canceled),
        ("suspended", Status::Suspended),
    ] {
        let handle = owner.start(id, leaf("a").build()).await?;
        soon(cluster.world.until("a")).await;
        match to {
            Status::Canceled => soon(other.cancel(id)).await?,
            _ => soon(other.suspend(id)).await?,
        }
        assert_eq!(other.status(id).await?, to);
        assert_eq!(owner.status(id).await?, to);
        assert!(soon(handle).await.is_err());
        assert_eq!(cluster.world.log(), ["a", "a dropped"]);
    }
    // Twice is as good as once, and what has ended stays so.
    soon(other.cancel("canceled")).await?;
    let error = soon(other.suspend("canceled")).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyEnded { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn an_event_reaches_its_run_wherever_it_is() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (owner, other) = (cluster.worker().await, cluster.submitter().await);
    let waiting = owner.start("run", keepstep::event::<u32>("paid")).await?;
    let start = Instant::now();
    other.send_event("run", "paid", &7_u32).await?;
    assert_eq!(soon(waiting).await?, 7);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn what_has_no_place_at_one_worker_goes_to_another() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    cluster.world.tell("b", Do::Hold);
    let full = cluster.builder().max_running_runs(1).build().await?;
    let first = full.start("a", leaf("a").build()).await?;
    let second = full.start("b", leaf("b").build()).await?;
    soon(cluster.world.until("a")).await;
    let _other = cluster.worker().await;
    soon(cluster.world.until("b")).await;
    cluster.world.tell("a", Do::Succeed);
    cluster.world.tell("b", Do::Succeed);
    assert_eq!((soon(first).await?, soon(second).await?), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_child_that_has_no_slot_where_its_parent_is_goes_to_another_worker()
-> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("long", Do::Hold);
    let full = cluster.builder().max_running_runs(1).build().await?;
    let small = keepstep::child("child", leaf("small").build());
    let parent = keepstep::all([leaf("long").build(), small]);
    let run = full.start("parent", parent).await?;
    soon(cluster.world.until("long")).await;
    let _other = cluster.worker().await;
    soon(cluster.world.until("small")).await;
    assert_eq!(soon(full.output::<i64>("child")).await?, 1);
    cluster.world.tell("long", Do::Succeed);
    assert_eq!(soon(run).await?, [1, 1]);
    Ok(())
}

#[tokio::test]
async fn many_workers_share_many_runs_and_run_each_step_once() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let submitter = cluster.submitter().await;
    let mut handles = Vec::new();
    for n in 0..60 {
        let workflow = join(
            &format!("{n}c"),
            [leaf(&format!("{n}a")), leaf(&format!("{n}b"))],
        );
        handles.push(submitter.start(format!("run{n}"), workflow.build()).await?);
    }
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(cluster.builder().max_running_runs(7).build().await?);
    }
    for handle in handles {
        assert_eq!(soon(handle).await?, 3);
    }
    let log = cluster.world.sorted_log();
    let mut once = log.clone();
    once.dedup();
    assert_eq!(log, once);
    assert_eq!(log.len(), 180);
    Ok(())
}

#[tokio::test]
async fn a_step_that_one_program_lacks_runs_where_another_has_it() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let old = cluster
        .builder()
        .without_step("or_minus_one")
        .build()
        .await?;
    let new = cluster.builder().build().await?;
    // Whichever takes it up first, the first two steps run once, and the third where it is known.
    let mut handles = Vec::new();
    for n in 0..10 {
        let first = crate::common::grow(&format!("{n}b"), leaf(&format!("{n}a")));
        let workflow = crate::common::caught(&format!("{n}c"), first).build();
        handles.push(old.start(format!("run{n}"), workflow).await?);
    }
    for handle in handles {
        assert_eq!(soon(handle).await?, 1);
    }
    let log = cluster.world.sorted_log();
    assert_eq!(log.len(), 30, "{log:?}");
    new.shutdown().await?;
    let waiting = old
        .start("none", crate::common::caught("x", leaf("y")).build())
        .await?;
    soon(cluster.world.until("y")).await;
    soon(async {
        while old.status("none").await.unwrap() != Status::Resumable {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // It waits for a program that has all of its steps.
    let _newer = cluster.worker().await;
    assert_eq!(soon(waiting).await?, 1);
    assert_eq!(cluster.world.sorted_log(), ["x", "y"]);
    Ok(())
}
