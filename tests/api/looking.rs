//! Looking at runs: outputs, listings, metadata, progress; and ids that nobody knows.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;
use keepstep::storage::memory;
use keepstep::{Cursor, Filter, Page, Progress, StepErrorKind, SuspendReason};

use crate::common::{Do, Lab, World, caught, grow, join, leaf};

#[step(retries = 1, backoff = "1h")]
async fn patient(#[resource] world: &World) -> Result<i64, String> {
    world.act("patient").await.map(|()| 1)
}

fn ids(page: &Page) -> Vec<&str> {
    page.runs.iter().map(|run| &*run.id).collect()
}

#[tokio::test]
async fn an_unknown_id_is_not_found_and_leaves_no_trace() -> keepstep::Result<()> {
    let store = Arc::new(Recorded::new(memory()));
    let engine = Engine::builder().storage(store.clone()).build().await?;
    let errors = [
        engine.status("x").await.err(),
        engine.output::<i64>("x").await.err(),
        engine.step_output::<i64>("x", "step").await.err(),
        engine.metadata("x").await.err(),
        engine.graph("x").await.err(),
        engine.resume::<i64>("x").await.err(),
        engine.suspend("x").await.err(),
        engine.cancel("x").await.err(),
        engine.delete("x").await.err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(Error::NotFound { .. })), "{error:?}");
    }
    assert!(engine.resume_all().await?.is_empty());
    assert!(engine.list(Filter::all()).await?.runs.is_empty());
    assert!(store.log().is_empty());
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_output_is_waited_for() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    drop(engine.start("run", leaf("a").build()).await?);
    lab.world.until("a").await;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.output::<i64>("run").await }
    });
    tokio::task::yield_now().await;
    lab.world.tell("a", Do::Succeed);
    assert_eq!(waiting.await.unwrap()?, 1);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_output_of_a_run_that_has_none_says_why() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    engine.run("failed", leaf("bad").build()).await.unwrap_err();
    for id in ["canceled", "suspended", "resumable"] {
        drop(engine.start(id, leaf("held").build()).await?);
    }
    lab.world.until_times("held", 3).await;
    engine.cancel("canceled").await?;
    engine.suspend("suspended").await?;
    lab.crash(engine).await;

    let engine = lab.engine().await;
    let error = engine.output::<i64>("failed").await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    let error = engine.output::<i64>("canceled").await.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    let error = engine.output::<i64>("suspended").await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    let error = engine.output::<i64>("resumable").await.unwrap_err();
    assert!(matches!(error, Error::Resumable { .. }), "{error:?}");
    // Asking has resumed nothing.
    assert_eq!(engine.status("resumable").await?, Status::Resumable);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_step_is_found_by_its_name() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("last", Do::Hold);
    let engine = lab.engine().await;
    let tree = join(
        "last",
        [grow("grown", join("inner", [leaf("a")])), leaf("b")],
    );
    let handle = engine.start("run", tree.build()).await?;
    lab.world.until("last").await;
    // While it runs: of steps that are done, also in expansions, and of one that grew into something.
    assert_eq!(engine.step_output::<i64>("run", "a").await?, 1);
    assert_eq!(engine.step_output::<i64>("run", "inner").await?, 2);
    assert_eq!(engine.step_output::<i64>("run", "grown").await?, 2);
    let error = engine.step_output::<i64>("run", "last").await.unwrap_err();
    assert!(matches!(error, Error::StepNotFound { .. }), "{error:?}");
    lab.world.tell("last", Do::Succeed);
    handle.await?;
    assert_eq!(engine.step_output::<i64>("run", "last").await?, 4);
    // By the name of the function, also with its path.
    assert_eq!(engine.step_output::<i64>("run", "act").await?, 4);

    lab.world.tell("patient", Do::FailTimes(1));
    engine.run("patient", patient()).await?;
    let path = concat!(module_path!(), "::patient");
    for name in ["patient", "looking::patient", path] {
        assert_eq!(engine.step_output::<i64>("patient", name).await?, 1);
    }
    let error = engine.step_output::<i64>("patient", "atient").await;
    assert!(
        matches!(error, Err(Error::StepNotFound { .. })),
        "{error:?}"
    );
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn of_several_steps_of_one_name_the_last_counts() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let tree = join("same", [join("same", [join("same", [])])]);
    engine.run("run", tree.build()).await?;
    assert_eq!(engine.step_output::<i64>("run", "same").await?, 3);
    engine.shutdown().await
}

/// Runs in every status but pending.
async fn zoo(lab: &Lab) -> Engine {
    lab.world.tell("bad", Do::Fail);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    drop(
        engine
            .start("resumable", leaf("held").build())
            .await
            .unwrap(),
    );
    lab.world.until("held").await;
    lab.crash(engine).await;
    let engine = lab.engine().await;
    let second = Duration::from_secs(1);
    for id in ["good/1", "good/2", "good/3"] {
        tokio::time::advance(second).await;
        engine.run(id, leaf("good").build()).await.unwrap();
    }
    tokio::time::advance(second).await;
    engine.run("failed", leaf("bad").build()).await.unwrap_err();
    for id in ["canceled", "suspended", "running"] {
        tokio::time::advance(second).await;
        drop(engine.start(id, leaf("held").build()).await.unwrap());
    }
    lab.world.until_times("held", 4).await;
    engine.cancel("canceled").await.unwrap();
    engine.suspend("suspended").await.unwrap();
    engine
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_what_was_asked_for() -> keepstep::Result<()> {
    let lab = Lab::new();
    let begin = lab.clock.now();
    let engine = zoo(&lab).await;
    let all = [
        "resumable",
        "good/1",
        "good/2",
        "good/3",
        "failed",
        "canceled",
        "suspended",
        "running",
    ];
    assert_eq!(ids(&engine.list(Filter::all()).await?), all);
    let mut reversed = all;
    reversed.reverse();
    let newest = engine.list(Filter::all().newest_first()).await?;
    assert_eq!(ids(&newest), reversed);
    for (status, expected) in [
        (Status::Pending, &[][..]),
        (Status::Running, &["running"]),
        (Status::Suspended, &["suspended"]),
        (Status::Resumable, &["resumable"]),
        (Status::Successful, &["good/1", "good/2", "good/3"]),
        (Status::Failed, &["failed"]),
        (Status::Canceled, &["canceled"]),
    ] {
        let page = engine.list(status).await?;
        assert_eq!(ids(&page), expected, "{status}");
        for run in &page.runs {
            assert_eq!(run.status, status);
            assert_eq!(engine.status(&run.id).await?, status);
        }
    }
    let active = Filter::from(Status::Running).status(Status::Resumable);
    assert_eq!(ids(&engine.list(active).await?), ["resumable", "running"]);
    let prefixed = engine.list(Filter::all().id_prefix("good/")).await?;
    assert_eq!(ids(&prefixed), ["good/1", "good/2", "good/3"]);
    assert_eq!(prefixed.runs[0].workflow, "good");
    assert!(prefixed.runs[0].ended_at.is_some());
    let done = prefixed.runs[0].progress;
    assert_eq!((done.total, done.done, done.waiting), (1, 1, 0));

    let created = |n: usize| begin + Duration::from_secs(n as u64);
    let between = Filter::all()
        .created_from(created(2))
        .created_before(created(4));
    let page = engine.list(between).await?;
    assert_eq!(ids(&page), ["good/2", "good/3"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_where_a_page_ended() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = zoo(&lab).await;
    let whole = engine.list(Filter::all()).await?;
    assert!(whole.next.is_none());
    for filter in [
        Filter::all(),
        Filter::all().newest_first(),
        Filter::from(Status::Successful).status(Status::Resumable),
        Filter::from(Status::Resumable).status(Status::Running),
    ] {
        let expected = engine.list(filter.clone()).await?;
        for limit in 1..10 {
            let mut found = Vec::new();
            let mut next = filter.clone().limit(limit);
            loop {
                let page = engine.list(next).await?;
                assert!(page.runs.len() <= limit);
                found.extend(page.runs.into_iter().map(|run| run.id));
                // A cursor may be kept anywhere.
                let Some(cursor) = page.next else { break };
                let json = serde_json::to_string(&cursor).unwrap();
                let cursor: Cursor = serde_json::from_str(&json).unwrap();
                next = filter.clone().limit(limit).after(cursor);
            }
            assert_eq!(found, ids(&expected));
        }
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn metadata_tells_how_a_run_stands() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = zoo(&lab).await;
    let good = engine.metadata("good/1").await?;
    assert_eq!((&*good.id, &*good.workflow), ("good/1", "good"));
    assert_eq!(good.status, Status::Successful);
    assert!(good.created_at <= good.started_at.unwrap());
    assert!(good.started_at <= good.ended_at);
    assert!(good.journal_bytes > 0);
    assert!(good.error.is_none() && good.suspended.is_none() && good.user.is_none());

    let failed = engine.metadata("failed").await?;
    let error = failed.error.unwrap();
    assert_eq!((&*error.step, error.kind), ("bad", StepErrorKind::Error));
    assert_eq!(failed.progress.failed, 1);
    assert!(failed.ended_at.is_some());

    let suspended = engine.metadata("suspended").await?;
    assert_eq!(suspended.suspended, Some(SuspendReason::Requested));
    assert!(suspended.ended_at.is_none());
    let canceled = engine.metadata("canceled").await?;
    assert!(canceled.ended_at.is_some() && canceled.error.is_none());
    let running = engine.metadata("running").await?;
    assert!(running.started_at.is_some() && running.ended_at.is_none());

    lab.world.tell("patient", Do::FailTimes(1));
    let handle = engine.start("patient", patient()).await?;
    lab.world.until("patient").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wake_at = engine.metadata("patient").await?.wake_at.unwrap();
    let left = wake_at.duration_since(lab.clock.now()).unwrap();
    assert!(left > Duration::from_secs(1700), "{left:?}");
    handle.await?;
    assert_eq!(engine.metadata("patient").await?.wake_at, None);
    engine.shutdown().await
}

fn assert_adds_up(progress: Progress) {
    let Progress {
        total,
        done,
        running,
        waiting,
        failed,
        ..
    } = progress;
    assert_eq!(total, done + running + waiting + failed, "{progress:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_adds_up_and_ends_with_the_run() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let grown = grow(
        "grow",
        join("inner", [leaf("a"), caught("caught", leaf("bad"))]),
    );
    let tree = join("last", [grown, leaf("held")]);
    let handle = engine.start("run", tree.build()).await?;
    let watched = tokio::spawn({
        let mut progress = handle.progress();
        async move {
            let mut seen = Vec::new();
            while let Some(progress) = progress.next().await {
                seen.push(progress);
            }
            seen
        }
    });
    lab.world.until("held").await;
    lab.world.until("inner").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let half = handle.progress().next().await.unwrap();
    assert_eq!((half.running, half.waiting, half.failed), (1, 1, 1));
    lab.world.tell("held", Do::Succeed);
    handle.clone().await?;

    let seen = watched.await.unwrap();
    seen.iter().copied().for_each(assert_adds_up);
    assert!(seen.windows(2).all(|two| two[0].total <= two[1].total));
    assert!(seen.windows(2).all(|two| two[0].done <= two[1].done));
    let last = *seen.last().unwrap();
    // last, grow, held; inner, a, bad, caught.
    assert_eq!((last.total, last.done, last.failed), (7, 6, 1));
    assert_eq!((last.running, last.waiting), (0, 0));
    // Of a run that has ended there is one.
    let mut progress = engine.resume::<i64>("run").await?.progress();
    assert_eq!(progress.next().await, Some(last));
    assert_eq!(progress.next().await, None);
    assert_eq!(engine.metadata("run").await?.progress, last);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_handle_knows_its_run() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    let handle = engine.start("run", leaf("a").build()).await?;
    assert_eq!(handle.id(), "run");
    assert_eq!(handle.status().await?, Status::Running);
    // Dropping a handle leaves the run alone.
    drop(handle.clone());
    lab.world.until("a").await;
    lab.world.tell("a", Do::Succeed);
    assert_eq!(handle.clone().await?, 1);
    assert_eq!(handle.status().await?, Status::Successful);
    engine.shutdown().await
}
