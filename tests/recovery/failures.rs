//! Failures of steps: errors, panics, time-outs and results that cannot be stored, and what they stop.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use keepstep::StepErrorKind;
use keepstep::prelude::*;
use serde::{Deserialize, Serialize, Serializer};

use crate::common::{Do, Lab, World, act, caught, grow, join, leaf};

async fn failure(engine: &Engine, id: &str, workflow: Workflow<i64>) -> StepError {
    match engine.run(id, workflow).await {
        Err(Error::Failed { error, .. }) => *error,
        other => panic!("{other:?}"),
    }
}

#[step(retries = 1)]
async fn panics(#[resource] world: &World) -> i64 {
    world.note("panics");
    panic!("at the {}", "disco")
}

#[step(retries = 1)]
fn panics_blocking(#[resource] world: &World) -> i64 {
    world.note("panics_blocking");
    std::panic::panic_any(7)
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_the_failure_of_its_step() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let error = failure(&engine, "async", panics()).await;
    assert_eq!((error.kind, error.attempts), (StepErrorKind::Panic, 2));
    assert_eq!(error.message, "at the disco");
    assert_eq!(lab.world.log(), ["panics"; 2]);
    let error = failure(&engine, "blocking", panics_blocking()).await;
    assert_eq!((error.kind, error.attempts), (StepErrorKind::Panic, 2));
    assert_eq!(error.message, "a panic without a message");
    assert_eq!(lab.world.log(), ["panics_blocking"; 2]);
    // The engine is well.
    assert_eq!(engine.run("next", leaf("next").build()).await?, 1);
    engine.shutdown().await
}

#[derive(Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not on paper"))
    }
}

#[step]
async fn unwritable(#[resource] world: &World) -> Unwritable {
    world.note("unwritable");
    Unwritable
}

#[step]
async fn grows_unwritable(#[resource] world: &World) -> Workflow<Unwritable> {
    world.note("grows");
    Workflow::value(Unwritable)
}

#[step]
async fn ignores(_value: Unwritable) -> i64 {
    1
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_stored_is_not_tried_again() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for (id, workflow) in [("value", unwritable()), ("grown", grows_unwritable())] {
        let error = failure(&engine, id, ignores(workflow)).await;
        let kind = StepErrorKind::Unencodable;
        assert_eq!((error.kind, error.attempts), (kind, 1));
        assert!(error.message.contains("not on paper"), "{error}");
    }
    assert_eq!(lab.world.log(), ["unwritable", "grows"]);
    engine.shutdown().await
}

#[step]
async fn cleans_up(#[resource] world: &World) -> i64 {
    let token = context().cancellation_token();
    world.note("cleans_up");
    token.cancelled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.note("cleaned");
    1
}

#[tokio::test(start_paused = true)]
async fn what_runs_beside_a_failed_step_is_stopped_before_the_run_is_failed() -> keepstep::Result<()>
{
    let lab = Lab::new();
    lab.world.tell("bad", Do::Hold);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let bad = join("bad", []).build();
    let grown = grow("grown", join("inner", [leaf("held")])).build();
    let after = act("after", vec![leaf("held").build(), bad.clone()]);
    let workflow = act("root", vec![bad, grown, after, cleans_up()]);
    let handle = engine.start("run", workflow).await?;
    lab.world.until_times("held", 2).await;
    lab.world.until("cleans_up").await;
    lab.world.until("bad").await;
    lab.world.tell("bad", Do::Fail);
    // For as long as anything of it executes, it is running.
    lab.world.until_times("held dropped", 2).await;
    assert_eq!(engine.status("run").await?, Status::Running);
    assert!(!lab.world.sorted_log().contains(&"cleaned".to_owned()));
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert_eq!(lab.world.log(), ["cleaned"]);
    assert_eq!(engine.status("run").await?, Status::Failed);
    engine.shutdown().await
}

#[step(retries = 0)]
async fn fails_late(#[resource] world: &World) -> Result<i64, String> {
    let token = context().cancellation_token();
    world.note("late");
    token.cancelled().await;
    Err("too late".to_owned())
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_the_runs() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("first", Do::Hold);
    let engine = lab.engine().await;
    let workflow = act("root", vec![fails_late(), leaf("first").build()]);
    let handle = engine.start("run", workflow).await?;
    lab.world.until("first").await;
    lab.world.until("late").await;
    lab.world.tell("first", Do::Fail);
    match handle.await {
        Err(Error::Failed { error, .. }) => assert_eq!(error.step, "first"),
        other => panic!("{other:?}"),
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_failure_has_the_path_of_the_steps_that_led_to_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let inner = grow("inner", join("beside", [leaf("bad")]));
    let outer = grow("outer", join("between", [inner]));
    let error = failure(&engine, "run", join("root", [outer]).build()).await;
    assert_eq!(error.path, ["outer", "inner", "bad"]);
    assert_eq!(
        error.to_string(),
        "step \"bad\" failed: bad failed (in outer > inner > bad)"
    );
    // The stored one is the same.
    assert_eq!(engine.metadata("run").await?.error.as_ref(), Some(&error));

    // Tail calls are counted, not listed.
    let tail = grow("first", grow("second", grow("third", leaf("bad"))));
    let error = failure(&engine, "tail", tail.build()).await;
    assert_eq!(error.path, ["first", "bad (tail call 2)"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_catch_keeps_the_rest_of_the_run_from_failing() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Panic);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    // What only the failed part needed is stopped; what others need goes on.
    let shared = leaf("shared").build();
    let needless = leaf("held").build();
    let failing = act(
        "failing",
        vec![leaf("bad").build(), needless, shared.clone()],
    );
    let caught = crate::common::caught("caught", leaf("unused"));
    let beside = act("beside", vec![shared, caught.build()]);
    let workflow = recover(failing.catch(), beside);
    assert_eq!(engine.run("run", workflow).await?, "bad panicked, 3");
    let mut expected = [
        "bad",
        "beside",
        "caught",
        "held",
        "held dropped",
        "shared",
        "unused",
    ];
    expected.sort_unstable();
    assert_eq!(lab.world.sorted_log(), expected);
    assert_eq!(engine.metadata("run").await?.progress.failed, 1);
    engine.shutdown().await
}

#[step]
async fn recover(failed: Result<i64, StepError>, other: i64) -> String {
    let error = failed.unwrap_err();
    assert_eq!(error.kind, StepErrorKind::Panic);
    format!("{}, {other}", error.message)
}

#[tokio::test(start_paused = true)]
async fn catches_nest() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    // The innermost catch has it; those around it never know.
    let tree = caught(
        "outer",
        join("x", [caught("inner", leaf("bad")), leaf("y")]),
    );
    assert_eq!(engine.run("run", tree.build()).await?, 1);
    let nested = leaf("bad").build().catch().catch().catch();
    let outcome = engine.run("nested", nested).await?;
    assert!(outcome.unwrap().unwrap().is_err());
    // A failure of what follows the inner catch reaches the outer one.
    lab.world.tell("x", Do::Fail);
    assert_eq!(engine.run("second", tree.build().name("other")).await?, -1);
    engine.shutdown().await
}

#[step(retries = 0)]
fn blocks(#[resource] gate: &Arc<Barrier>, #[resource] world: &World) -> i64 {
    world.note("blocks");
    gate.wait();
    world.note("unblocked");
    1
}

#[tokio::test(start_paused = true)]
async fn a_body_that_blocks_does_not_keep_its_run_from_failing() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Hold);
    let gate = Arc::new(Barrier::new(2));
    let engine = lab.builder().resource(gate.clone()).build().await?;
    let workflow = act("root", vec![leaf("bad").build(), blocks()]);
    let handle = engine.start("run", workflow).await?;
    lab.world.until("blocks").await;
    lab.world.until("bad").await;
    lab.world.tell("bad", Do::Fail);
    // Time stands still while a thread is blocked, so it is pushed.
    let ended = tokio::spawn(handle.into_future());
    while !ended.is_finished() {
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    let error = ended.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    let progress = engine.metadata("run").await?.progress;
    // Its late result changes nothing.
    gate.wait();
    lab.world.until("unblocked").await;
    tokio::task::yield_now().await;
    assert_eq!(engine.status("run").await?, Status::Failed);
    assert_eq!(engine.metadata("run").await?.progress, progress);
    engine.shutdown().await
}
