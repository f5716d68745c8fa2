//! Writes that fail: the run stops there, nothing is lost, and it goes on when the store does.

use std::sync::Arc;
use std::time::Duration;

use keepstep::Filter;
use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty, On};
use keepstep::storage::memory;

use crate::common::{Do, Lab, Tree, caught, grow, join, leaf};

fn faulty() -> (Arc<Faulty>, Lab) {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    (store, lab)
}

fn tree() -> Tree {
    let failing = caught("caught", join("x", [leaf("bad")]));
    let grown = grow("g", join("y", [leaf("a"), failing]));
    join("z", [grown])
}

/// How many commits there are when nothing goes wrong, and what then runs.
async fn clean() -> (u64, Vec<String>) {
    let (store, lab) = faulty();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    assert_eq!(
        engine.run("run", tree().build()).await.unwrap(),
        3 - 1 - 1 + 1
    );
    (store.calls(Call::Commit), lab.world.log())
}

/// Fails each commit of a run in turn, and goes on afterwards.
async fn every_commit(effect: Effect) -> keepstep::Result<()> {
    let (commits, executions) = clean().await;
    assert!(commits >= 5, "{commits}");
    for nth in 1..=commits {
        let (store, lab) = faulty();
        lab.world.tell("bad", Do::Fail);
        let engine = lab.engine().await;
        store.inject(Fault::at(Call::Commit, nth, effect.clone()));
        let was_done = matches!(effect, Effect::FailAfter);
        match engine.run("run", tree().build()).await {
            // The first write of all is the caller's.
            Err(Error::Storage(_)) => assert_eq!(nth, 1),
            Err(Error::Interrupted { .. }) => assert!(nth > 1),
            other => panic!("{other:?} at {nth}"),
        }
        let status = engine.status("run").await;
        match nth {
            1 if !was_done => assert!(matches!(status, Err(Error::NotFound { .. }))),
            last if last == commits && was_done => assert_eq!(status?, Status::Successful),
            _ => {
                assert_eq!(status?, Status::Resumable);
                let listed = engine.list(Status::Resumable).await?;
                assert_eq!(listed.runs.len(), 1);
                assert!(engine.list(Status::Running).await?.runs.is_empty());
            }
        }
        // The same engine goes on with it.
        let so_far = lab.world.log();
        assert_eq!(engine.run("run", tree().build()).await?, 2);
        let mut all = so_far.clone();
        all.extend(lab.world.log());
        // At most what that one commit held ran again, and only if it was not stored.
        for name in &executions {
            let times = all.iter().filter(|ran| *ran == name).count();
            let most = if was_done { 1 } else { 2 };
            assert!(
                (1..=most).contains(&times),
                "{name} ran {times} times: {all:?}"
            );
        }
        assert_eq!(engine.status("run").await?, Status::Successful);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_step_begins_only_when_its_inputs_are_durable() -> keepstep::Result<()> {
    let (store, lab) = faulty();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("b", [leaf("a")]).build();
    let handle = engine.start("run", workflow).await?;
    lab.world.until("a").await;
    store.inject(Fault::next(Call::Commit, Effect::Delay));
    lab.world.tell("a", Do::Succeed);
    store.until_held(1).await;
    // As long as the commit takes, and that is an hour, which passes at once.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.world.log(), ["a"]);
    store.release_held();
    assert_eq!(handle.await?, 2);
    assert_eq!(lab.world.log(), ["b"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_stops_the_run_where_it_is_stored() -> keepstep::Result<()> {
    every_commit(Effect::Fail).await
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_is_found_to_be_done() -> keepstep::Result<()> {
    every_commit(Effect::FailAfter).await
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_of_one_commit_stops_all_runs_that_were_in_it() -> keepstep::Result<()> {
    let (store, lab) = faulty();
    for who in ["blocker", "held"] {
        lab.world.tell(who, Do::Hold);
    }
    let engine = lab.engine().await;
    let blocker = engine.start("blocker", leaf("blocker").build()).await?;
    let mut handles = Vec::new();
    for n in 0..5 {
        handles.push(
            engine
                .start(format!("run {n}"), leaf("held").build())
                .await?,
        );
    }
    lab.world.until("blocker").await;
    lab.world.until_times("held", 5).await;
    store.inject(Fault::next(Call::Commit, Effect::Delay));
    store.inject(Fault::at(Call::Commit, 2, Effect::Fail));
    lab.world.tell("blocker", Do::Succeed);
    store.until_held(1).await;
    lab.world.tell("held", Do::Succeed);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    store.release_held();
    assert_eq!(blocker.await?, 1);
    for handle in handles {
        let error = handle.await.unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    }
    let resumed = engine.resume_all().await?;
    assert_eq!(resumed.len(), 5);
    for (_, handle) in resumed {
        assert_eq!(handle?.await?, 1);
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn nothing_that_runs_beside_a_failed_write_goes_on() -> keepstep::Result<()> {
    let (store, lab) = faulty();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("root", [leaf("a"), leaf("held")]).build();
    store.inject(Fault::at(Call::Commit, 2, Effect::Fail));
    let handle = engine.start("run", &workflow).await?;
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    lab.world.until("held dropped").await;
    let error = engine.output::<i64>("run").await.unwrap_err();
    assert!(matches!(error, Error::Resumable { .. }), "{error:?}");
    assert_eq!(lab.world.sorted_log(), ["a", "held", "held dropped"]);
    lab.world.tell("held", Do::Succeed);
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_dead_is_told_to_everybody_until_it_is_back() -> keepstep::Result<()> {
    let (store, lab) = faulty();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("root", [leaf("held")]).build();
    let handle = engine.start("run", &workflow).await?;
    lab.world.until("held").await;
    store.inject(Fault::next(On::Any, Effect::Crash));
    lab.world.tell("held", Do::Succeed);
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    for error in [
        engine.start("other", &workflow).await.err(),
        engine.status("run").await.err(),
        engine.resume::<i64>("run").await.err(),
        engine.cancel("run").await.err(),
        engine.delete("run").await.err(),
        engine.list(Filter::all()).await.err(),
    ] {
        assert!(matches!(error, Some(Error::Storage(_))), "{error:?}");
    }
    store.heal();
    assert_eq!(engine.status("run").await?, Status::Resumable);
    assert_eq!(engine.run("run", &workflow).await?, 2);
    assert_eq!(lab.world.log(), ["held", "held", "root"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_large_value_that_cannot_be_kept_stops_the_run() -> keepstep::Result<()> {
    let (store, lab) = faulty();
    let engine = lab.engine().await;
    store.inject(Fault::next(Call::PutBlob, Effect::Fail));
    let error = engine.run("run", large()).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_eq!(engine.status("run").await?, Status::Resumable);
    assert_eq!(engine.run("run", large()).await?.len(), 100_000);
    engine.shutdown().await
}

#[step]
async fn large() -> String {
    "x".repeat(100_000)
}

/// Every call that changes a run which is not in execution, each with each of its writes failing in turn.
#[tokio::test(start_paused = true)]
async fn a_call_that_fails_leaves_a_run_that_can_be_called_again() -> keepstep::Result<()> {
    for effect in [Effect::Fail, Effect::FailAfter] {
        for call in ["resume", "suspend", "cancel", "delete"] {
            // A run that goes on is claimed first.
            let writes = if call == "delete" { 1 } else { 2 };
            for nth in 1..=writes {
                let (store, lab) = faulty();
                lab.world.tell("held", Do::Hold);
                let engine = lab.engine().await;
                drop(engine.start("run", leaf("held").build()).await?);
                lab.world.until("held").await;
                lab.crash(engine).await;
                lab.world.tell("held", Do::Succeed);
                let engine = lab.engine().await;
                store.inject(Fault::at(On::AnyWrite, nth, effect.clone()));
                let error = match call {
                    "resume" => match engine.resume::<i64>("run").await {
                        Ok(handle) => handle.await.err(),
                        Err(error) => Some(error),
                    },
                    "suspend" => engine.suspend("run").await.err(),
                    "cancel" => engine.cancel("run").await.err(),
                    _ => engine.delete("run").await.err(),
                };
                let case = format!("{call}, write {nth}, {effect:?}");
                assert!(error.is_some(), "{case}");
                let status = engine.status("run").await;
                let is_done = nth == writes && matches!(effect, Effect::FailAfter);
                match (is_done, call) {
                    (true, "resume") => assert_eq!(status?, Status::Successful, "{case}"),
                    (true, "suspend") => assert_eq!(status?, Status::Suspended, "{case}"),
                    (true, "cancel") => assert_eq!(status?, Status::Canceled, "{case}"),
                    (true, _) => assert!(matches!(status, Err(Error::NotFound { .. })), "{case}"),
                    (false, _) => assert_eq!(status?, Status::Resumable, "{case}"),
                }
                if !is_done || call == "suspend" {
                    let run = engine.run("run", leaf("held").build());
                    let output = tokio::time::timeout(Duration::from_secs(600), run).await;
                    assert_eq!(output.expect(&case)?, 1, "{case}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_waits_for_leaves_a_run_that_can_be_resumed() -> keepstep::Result<()> {
    for effect in [Effect::Delay, Effect::DelayAfter] {
        let (store, lab) = faulty();
        let engine = lab.builder().max_running_runs(1).build().await?;
        store.inject(Fault::next(Call::Commit, effect.clone()));
        let start = tokio::spawn({
            let engine = engine.clone();
            async move { engine.start("run", leaf("a").build()).await.map(drop) }
        });
        store.until_held(1).await;
        start.abort();
        assert!(start.await.unwrap_err().is_cancelled());
        store.release_held();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        // It is stored, and either somebody drives it or nobody claims to.
        let run = engine.run("run", leaf("a").build());
        let output = tokio::time::timeout(Duration::from_secs(600), run).await;
        assert_eq!(output.expect("the run goes on")?, 1, "{effect:?}");
        assert_eq!(lab.world.log(), ["a"]);
        assert_eq!(engine.run("next", leaf("b").build()).await?, 1);
        engine.shutdown().await?;
    }
    Ok(())
}
