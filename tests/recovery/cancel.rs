//! Canceling: in every state that is not final, reaching what executes, for good.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::memory;
use tokio::sync::Mutex;

use crate::common::{Do, Lab, World, grow, join, leaf};

/// What a step holds while it executes.
type Lock = Arc<Mutex<()>>;

#[step(retries = 0)]
async fn holds_lock(n: u32, #[resource] lock: &Lock, #[resource] world: &World) {
    let _guard = lock.lock().await;
    world.note(format!("locked {n}"));
    std::future::pending::<()>().await;
}

#[step(retries = 1, backoff = "1h")]
async fn patient(#[resource] world: &World) -> Result<i64, String> {
    world.act("patient").await.map(|()| 1)
}

#[step(retries = 0)]
async fn takes_token(seconds: u64, #[resource] world: &World) -> i64 {
    let token = context().cancellation_token();
    world.note("begun");
    token.cancelled().await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    world.note("ended by itself");
    1
}

#[step(retries = 0)]
async fn gather(done: Vec<()>) -> usize {
    done.len()
}

async fn assert_canceled(engine: &Engine, id: &str) {
    assert_eq!(engine.status(id).await.unwrap(), Status::Canceled);
    // Twice is once.
    engine.cancel(id).await.unwrap();
    for error in [
        engine.output::<i64>(id).await.err(),
        engine.resume::<i64>(id).await.err(),
    ] {
        assert!(matches!(error, Some(Error::Canceled { .. })), "{error:?}");
    }
    let metadata = engine.metadata(id).await.unwrap();
    assert!(metadata.ended_at.is_some());
    assert!(metadata.wake_at.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_frees_what_a_step_held() -> keepstep::Result<()> {
    let lab = Lab::new();
    let lock = Lock::default();
    let engine = lab.builder().resource(lock.clone()).build().await?;
    // One has it, and the others wait for it.
    let all = gather((0..10).map(holds_lock).collect::<Vec<_>>());
    let handle = engine.start("run", all).await?;
    lab.world.until("locked 0").await;
    let before = tokio::time::Instant::now();
    handle.cancel().await?;
    assert!(before.elapsed() < Duration::from_secs(1));
    assert!(lock.try_lock().is_ok());
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    assert_canceled(&engine, "run").await;
    assert_eq!(lab.world.log(), ["locked 0"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_into_expansions() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let deep = grow("g1", join("x", [grow("g2", join("y", [leaf("held")]))]));
    drop(engine.start("run", join("root", [deep]).build()).await?);
    lab.world.until("held").await;
    engine.cancel("run").await?;
    assert_eq!(lab.world.log(), ["g1", "g2", "held", "held dropped"]);
    assert_canceled(&engine, "run").await;
    lab.crash(engine).await;
    let engine = lab.engine().await;
    assert_canceled(&engine, "run").await;
    assert!(engine.resume_all().await?.is_empty());
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_body_that_took_its_token_has_time_to_end() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for (id, seconds, took, ends) in [("soon", 2, 2, true), ("late", 60, 5, false)] {
        drop(engine.start(id, takes_token(seconds)).await?);
        lab.world.until("begun").await;
        let before = tokio::time::Instant::now();
        engine.cancel(id).await?;
        assert_eq!(before.elapsed().as_secs(), took);
        let log = lab.world.log();
        assert_eq!(log.contains(&"ended by itself".to_owned()), ends);
        // What it ended with is no output.
        assert_canceled(&engine, id).await;
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_pending_run_is_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab
        .builder()
        .max_running_runs(1)
        .max_pending_runs(1)
        .build();
    let engine = engine.await?;
    let first = engine.start("first", leaf("a").build()).await?;
    let second = engine.start("second", leaf("b").build()).await?;
    second.cancel().await?;
    let error = second.await.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    let third = engine.start("third", leaf("c").build()).await?;
    lab.world.tell("a", Do::Succeed);
    assert_eq!((first.await?, third.await?), (1, 1));
    assert_canceled(&engine, "second").await;
    assert_eq!(lab.world.log(), ["a", "c"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_its_next_attempt_is_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("patient", Do::FailTimes(1));
    let engine = lab.engine().await;
    for id in ["with a handle", "without"] {
        let handle = engine.start(id, patient()).await?;
        while engine.metadata(id).await?.wake_at.is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let handle = (id == "with a handle").then_some(handle);
        engine.cancel(id).await?;
        if let Some(handle) = handle {
            let error = handle.await.unwrap_err();
            assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
        }
        assert_canceled(&engine, id).await;
        lab.world.tell("patient", Do::FailTimes(1));
    }
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    assert_eq!(lab.world.log(), ["patient"; 2]);
    assert_canceled(&engine, "without").await;
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_suspended_and_a_resumable_run_are_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    for id in ["suspended", "resumable"] {
        drop(engine.start(id, leaf("held").build()).await?);
    }
    lab.world.until_times("held", 2).await;
    engine.suspend("suspended").await?;
    lab.crash(engine).await;
    lab.world.log();
    let engine = lab.engine().await;
    assert_eq!(engine.status("resumable").await?, Status::Resumable);
    for id in ["suspended", "resumable"] {
        engine.cancel(id).await?;
        assert_canceled(&engine, id).await;
        let error = engine.run(id, leaf("held").build()).await.unwrap_err();
        assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    }
    assert_eq!(lab.world.log(), [""; 0]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_cannot_be_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    engine.run("good", leaf("a").build()).await?;
    engine.run("bad", leaf("bad").build()).await.unwrap_err();
    for (id, is) in [("good", Status::Successful), ("bad", Status::Failed)] {
        match engine.cancel(id).await {
            Err(Error::AlreadyEnded { status, .. }) => assert_eq!(status, is),
            other => panic!("{other:?}"),
        }
        assert_eq!(engine.status(id).await?, is);
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_comes_with_the_end_is_too_late() -> keepstep::Result<()> {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    let handle = engine.start("run", leaf("a").build()).await?;
    lab.world.until("a").await;
    store.inject(Fault::next(Call::Commit, Effect::Delay));
    lab.world.tell("a", Do::Succeed);
    store.until_held(1).await;
    // The end is being written; nobody can read it yet.
    assert_eq!(engine.status("run").await?, Status::Running);
    let cancel = tokio::spawn({
        let engine = engine.clone();
        async move { engine.cancel("run").await }
    });
    tokio::task::yield_now().await;
    store.release_held();
    match cancel.await.unwrap() {
        Err(Error::AlreadyEnded { status, .. }) => assert_eq!(status, Status::Successful),
        other => panic!("{other:?}"),
    }
    assert_eq!(handle.await?, 1);
    assert_eq!(engine.status("run").await?, Status::Successful);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_at_any_instant_around_the_end_does_not_undo_it() -> keepstep::Result<()> {
    for (what, end) in [
        (Do::Succeed, Status::Successful),
        (Do::Fail, Status::Failed),
    ] {
        // The tasks of this thread take turns: so many turns after the store had the end, the cancel comes. It comes while the
        // run's task has not heard that its end is durable, with that news, and when the task is gone.
        for turns in 0..40 {
            let store = Arc::new(Faulty::new(memory()));
            let lab = Lab::on(store.clone());
            lab.world.tell("a", Do::Hold);
            let engine = lab.engine().await;
            let handle = engine.start("run", leaf("a").build()).await?;
            lab.world.until("a").await;
            store.inject(Fault::next(Call::Commit, Effect::Delay));
            lab.world.tell("a", what);
            store.until_held(1).await;
            let cancel = tokio::spawn({
                let (engine, store) = (engine.clone(), store.clone());
                async move {
                    store.release_held();
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    engine.cancel("run").await
                }
            });
            // In a minute that passes at once.
            let canceled = tokio::time::timeout(Duration::from_secs(60), cancel);
            match canceled.await.unwrap().unwrap() {
                Err(Error::AlreadyEnded { status, .. }) => assert_eq!(status, end, "{turns}"),
                other => panic!("{other:?} after {turns} turns"),
            }
            assert_eq!(engine.status("run").await?, end, "{turns}");
            assert_eq!(handle.await.is_ok(), end == Status::Successful, "{turns}");
            engine.shutdown().await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_result_that_comes_with_a_cancel_changes_nothing() -> keepstep::Result<()> {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("a", Do::Hold);
    lab.world.tell("b", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("c", [leaf("a"), leaf("b")]).build();
    let handle = engine.start("run", workflow).await?;
    lab.world.until("a").await;
    lab.world.until("b").await;
    store.inject(Fault::next(Call::Commit, Effect::Delay));
    lab.world.tell("a", Do::Succeed);
    // The result of `a` is on its way to the store when the cancel comes.
    store.until_held(1).await;
    let cancel = tokio::spawn({
        let engine = engine.clone();
        async move { engine.cancel("run").await }
    });
    lab.world.until("b dropped").await;
    store.release_held();
    cancel.await.unwrap()?;
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    assert_canceled(&engine, "run").await;
    assert!(!lab.world.log().contains(&"c".to_owned()));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn every_waiting_handle_learns_of_a_cancel() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let handle = engine.start("run", leaf("held").build()).await?;
    let waiting: Vec<_> = (0..10)
        .map(|_| tokio::spawn(handle.clone().into_future()))
        .collect();
    lab.world.until("held").await;
    // Two cancels at once are one.
    let (first, second) = tokio::join!(engine.cancel("run"), engine.cancel("run"));
    first?;
    second?;
    for waiting in waiting {
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_its_caller_gives_up_is_told_all_the_same() -> keepstep::Result<()> {
    for effect in [Effect::Delay, Effect::DelayAfter] {
        let store = Arc::new(Faulty::new(memory()));
        let lab = Lab::on(store.clone());
        lab.world.tell("a", Do::Hold);
        let engine = lab.builder().max_running_runs(1).build().await?;
        let first = engine.start("first", leaf("a").build()).await?;
        let second = engine.start("second", leaf("b").build()).await?;
        store.inject(Fault::next(Call::Commit, effect));
        let cancel = tokio::spawn({
            let engine = engine.clone();
            async move { engine.cancel("second").await }
        });
        store.until_held(1).await;
        cancel.abort();
        assert!(cancel.await.unwrap_err().is_cancelled());
        store.release_held();
        lab.world.tell("a", Do::Succeed);
        assert_eq!(first.await?, 1);
        let error = second.await.unwrap_err();
        assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
        assert_canceled(&engine, "second").await;
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn engines_that_cancel_a_run_that_nobody_drives_at_once_all_succeed() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for n in 0..20 {
        let waits = keepstep::event::<()>("never");
        drop(engine.start(format!("run{n}"), waits).await.unwrap());
    }
    lab.crash(engine).await;
    let (one, two, three) = (lab.engine().await, lab.engine().await, lab.engine().await);
    for n in 0..20 {
        let id = format!("run{n}");
        let canceled = tokio::join!(one.cancel(&id), two.cancel(&id), three.cancel(&id));
        for canceled in [canceled.0, canceled.1, canceled.2] {
            canceled.unwrap();
        }
        assert_eq!(one.status(&id).await.unwrap(), Status::Canceled);
    }
}
