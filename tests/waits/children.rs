//! Child runs: runs of their own that belong to another.

use std::sync::Arc;
use std::time::Duration;

use keepstep::StepErrorKind;
use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};

use crate::common::{Do, Lab, World};

#[step(retries = 0)]
async fn work(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

#[step]
async fn join(parts: Vec<String>) -> String {
    parts.join(" ")
}

/// Has asked for its token, and so has five seconds to end when it is told to stop, which it ignores.
#[step]
async fn stubborn() -> String {
    let _token = context().cancellation_token();
    tokio::time::sleep(Duration::from_secs(60)).await;
    "late".to_owned()
}

/// Waits until a run has a status.
async fn until(engine: &Engine, id: &str, status: Status) {
    loop {
        match engine.status(id).await {
            Ok(found) if found == status => return,
            Ok(_) | Err(Error::NotFound { .. }) => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_is_a_run_of_its_own_whose_output_its_parent_gets() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let parts = [
        child("a", work("one")),
        child("b", work("two")),
        work("three"),
    ];
    assert_eq!(engine.run("parent", join(parts)).await?, "one two three");
    assert_eq!(engine.output::<String>("a").await?, "one");
    assert_eq!(engine.status("b").await?, Status::Successful);
    assert_eq!(lab.world.log().len(), 3);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn children_of_children_and_large_outputs_arrive() -> keepstep::Result<()> {
    let lab = Lab::new();
    #[step]
    async fn large() -> String {
        "x".repeat(200_000)
    }
    #[step]
    async fn length(text: String) -> usize {
        text.len()
    }
    let engine = lab
        .builder()
        .max_running_runs(1)
        .max_pending_runs(0)
        .build()
        .await?;
    let nested = child("a", child("b", child("c", large())));
    assert_eq!(engine.run("parent", length(nested)).await?, 200_000);
    // The innermost first: each is deleted by itself.
    for id in ["c", "b", "a"] {
        engine.delete(id).await?;
    }
    engine.maintain().await?;
    assert_eq!(engine.output::<usize>("parent").await?, 200_000);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_waits_for_a_child_takes_no_place() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.builder().max_running_runs(1).build().await?;
    let nap = sleep(Duration::from_secs(3600));
    let run = engine
        .start("parent", child("child", work("late").after(&nap)))
        .await?;
    until(&engine, "child", Status::Running).await;
    // Both wait outside memory.
    engine.run("other", work("now")).await?;
    assert_eq!(lab.world.log(), ["now"]);
    assert_eq!(run.await?, "late");
    engine.shutdown().await
}

/// Brings nothing.
#[derive(serde::Serialize, serde::Deserialize)]
struct Silence;

#[keepstep::event_listener]
impl keepstep::EventListener for Silence {
    type Event = String;

    async fn poll(&mut self) -> Result<String, keepstep::BoxError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn with_one_slot_a_child_begins_while_its_parent_also_waits_for_something_else()
-> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.builder().max_running_runs(1).build().await?;
    let nap = || work("late").after(&sleep(Duration::from_secs(5)));
    let begun = |id: &str| child(id, work(id));
    let parents = [
        ("limit", begun("a").timeout(Duration::from_secs(5))),
        ("sleep", whichever(race(begun("b"), nap()))),
        (
            "listener",
            whichever(race(begun("c"), keepstep::wait_for(Silence))),
        ),
        (
            "event",
            whichever(race(begun("d"), event::<String>("never"))),
        ),
    ];
    for (id, workflow) in parents {
        let output = tokio::time::timeout(Duration::from_secs(3), engine.run(id, workflow));
        assert_eq!(output.await.expect(id)?.len(), 1, "{id}");
    }
    assert_eq!(lab.world.log(), ["a", "b", "c", "d"]);
    engine.shutdown().await
}

#[step]
async fn whichever(one: keepstep::Either<String, String>) -> String {
    match one {
        keepstep::Either::Left(value) | keepstep::Either::Right(value) => value,
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_a_child_is_its_parents_and_names_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let error = engine
        .run("caught", child("a", work("bad")).catch())
        .await?
        .unwrap_err();
    assert_eq!(error.step, "a");
    assert!(
        error.message.starts_with("run \"a\" failed: step"),
        "{}",
        error.message
    );
    assert_eq!(engine.status("a").await?, Status::Failed);

    let run = engine.run("parent", child("b", work("bad"))).await;
    assert!(matches!(run, Err(Error::Failed { .. })), "{run:?}");
    // Mended, the child is resumed first, and then its parent takes what it has.
    lab.world.tell("bad", Do::Succeed);
    assert_eq!(engine.resume::<String>("b").await?.await?, "bad");
    assert_eq!(engine.resume::<String>("parent").await?.await?, "bad");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_no_child_is_not_taken_for_one() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    engine.run("taken", work("one")).await?;
    let run = engine
        .run("parent", child("taken", work("one")).catch())
        .await?;
    let error = run.unwrap_err();
    assert!(
        error.message.contains("that this workflow did not start"),
        "{}",
        error.message
    );
    // Nor is the child of another.
    engine.run("first", child("a", work("two"))).await?;
    assert!(
        engine
            .run("second", child("a", work("two")).catch())
            .await?
            .is_err()
    );
    let bad = engine.start("bad", child("", work("one"))).await;
    assert!(matches!(bad, Err(Error::InvalidRunId(_))), "{bad:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_children_and_their_children() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("hangs", Do::Hold);
    let engine = lab.engine().await;
    let nested = child("b", child("c", work("hangs")));
    let parts = [
        child("a", work("hangs")),
        nested,
        child("d", event::<String>("never")),
    ];
    drop(engine.start("parent", join(parts)).await?);
    for id in ["a", "b", "c", "d"] {
        until(&engine, id, Status::Running).await;
    }
    engine.cancel("parent").await?;
    for id in ["a", "b", "c", "d"] {
        until(&engine, id, Status::Canceled).await;
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_children_through_a_crash() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    drop(
        engine
            .start("parent", child("a", event::<String>("never")))
            .await?,
    );
    until(&engine, "a", Status::Running).await;
    lab.crash(engine).await;
    // Neither is driven by anybody when the parent is canceled; the child hears of it when it goes on, at the latest.
    let engine = lab.engine().await;
    engine.cancel("parent").await?;
    lab.crash(engine).await;
    let engine = lab.engine().await;
    if engine.status("a").await? != Status::Canceled {
        let child = engine.resume::<String>("a").await?.await;
        assert!(matches!(child, Err(Error::Canceled { .. })), "{child:?}");
    }
    assert_eq!(engine.status("a").await?, Status::Canceled);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_lost_a_race_is_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let lost = race(
        child("a", event::<u32>("never")),
        sleep(Duration::from_secs(60)),
    );
    assert_eq!(engine.run("parent", lost).await?, Either::Right(()));
    until(&engine, "a", Status::Canceled).await;
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_being_canceled_is_so_after_a_crash_too() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let lost = race(child("a", stubborn()), sleep(Duration::from_secs(10)));
    assert_eq!(engine.run("parent", lost).await?, Either::Right(()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(engine.status("a").await?, Status::Running);
    lab.crash(engine).await;
    let engine = lab.engine().await;
    let child = engine.resume::<String>("a").await?.await;
    assert!(matches!(child, Err(Error::Canceled { .. })), "{child:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_was_about_to_fail_is_canceled_after_a_crash_too() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let parts = [work("bad"), stubborn()];
    drop(engine.start("parent", child("a", join(parts))).await?);
    lab.world.until("bad").await;
    // The failure is stored, and waits for the other body.
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.cancel("parent").await?;
    assert_eq!(engine.status("a").await?, Status::Running);
    lab.crash(engine).await;
    let engine = lab.engine().await;
    let child = engine.resume::<String>("a").await?.await;
    assert!(matches!(child, Err(Error::Canceled { .. })), "{child:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_took_too_long_and_is_not_needed_is_canceled() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let limited = child("a", event::<u32>("never")).timeout(Duration::from_secs(60));
    let outcome = engine.run("parent", limited.catch()).await?;
    assert_eq!(outcome.unwrap_err().kind, StepErrorKind::Timeout);
    until(&engine, "a", Status::Canceled).await;
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_a_child_that_its_failing_parent_gave_up() -> keepstep::Result<()> {
    for is_crashed in [false, true] {
        let lab = Lab::new();
        let mut engine = lab.engine().await;
        let limited = child("a", event::<String>("never")).timeout(Duration::from_secs(10));
        drop(engine.start("parent", join([limited, stubborn()])).await?);
        // The time is over, and the failure waits for the other body.
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(engine.status("parent").await?, Status::Running);
        assert_eq!(engine.status("a").await?, Status::Running);
        if is_crashed {
            lab.crash(engine).await;
            engine = lab.engine().await;
        }
        engine.cancel("parent").await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(engine.status("a").await?, Status::Canceled);
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cancel_leaves_a_run_alone_that_has_the_id_of_a_child_not_begun() -> keepstep::Result<()>
{
    let store = Arc::new(Faulty::new(keepstep::storage::memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("first", Do::Hold);
    let engine = lab.engine().await;
    let parent = child("child", work("late")).after(&work("first"));
    drop(engine.start("parent", parent).await?);
    drop(engine.start("child", event::<u32>("never")).await?);
    lab.world.until("first").await;
    // The step's result is stored, and the child is not begun.
    store.inject(Fault::at(Call::Read, 1, Effect::Fail));
    lab.world.tell("first", Do::Succeed);
    // Time stands still while anything is done.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(engine.status("parent").await?, Status::Resumable);
    engine.cancel("parent").await?;
    assert_eq!(engine.status("parent").await?, Status::Canceled);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(engine.status("child").await?, Status::Running);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn parent_and_child_go_on_after_a_crash_wherever_it_happened() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("hangs", Do::Hold);
    let engine = lab.engine().await;
    let workflow = child("a", work("hangs").after(&work("first")));
    drop(engine.start("parent", &workflow).await?);
    lab.world.until("first").await;
    until(&engine, "a", Status::Running).await;
    lab.crash(engine).await;
    lab.world.tell("hangs", Do::Succeed);

    // The parent alone is resumed: it sees to its child.
    let engine = lab.engine().await;
    assert_eq!(engine.run("parent", &workflow).await?, "hangs");
    let log = ["first", "hangs", "hangs dropped", "hangs"];
    assert_eq!(lab.world.log(), log);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_was_deleted_is_not_run_again() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    drop(
        engine
            .start("parent", child("a", event::<u32>("never")).catch())
            .await?,
    );
    until(&engine, "a", Status::Running).await;
    // Time stands still while anything is done: now both have nothing left to do.
    tokio::time::sleep(Duration::from_millis(10)).await;
    lab.crash(engine).await;
    let engine = lab.engine().await;
    engine.delete("a").await?;
    let outcome = engine
        .resume::<Result<u32, StepError>>("parent")
        .await?
        .await?;
    assert!(outcome.unwrap_err().message.contains("no run"));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_was_overtaken_creates_no_child() -> keepstep::Result<()> {
    let store = Arc::new(Faulty::new(keepstep::storage::memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("first", Do::Hold);
    let (one, other) = (lab.engine().await, lab.engine().await);
    let parent = child("child", work("late")).after(&work("first"));
    let parent = one.start("parent", parent).await?;
    lab.world.until("first").await;
    // The commit after that of the step's result is the child's creation.
    store.inject(Fault::at(Call::Commit, 2, Effect::Delay));
    lab.world.tell("first", Do::Succeed);
    store.until_held(1).await;
    other.cancel("parent").await?;
    store.release_held();
    let error = parent.await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
    let error = other.status("child").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    Ok(())
}
