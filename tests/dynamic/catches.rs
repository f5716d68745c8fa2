//! Catches around what grows: they cover everything that an expansion brought in.

use keepstep::prelude::*;

use crate::common::{Do, Lab, Tree, caught, grow, join, leaf};

/// Runs a tree in which `bad` fails, and returns what it yields and which bodies ran.
async fn run(tree: Tree) -> (i64, Vec<String>) {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let output = engine.run("run", tree.build()).await.unwrap();
    // It is the same to an engine that reads it back.
    lab.crash(engine).await;
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", tree.build()).await.unwrap(), output);
    (output, lab.world.sorted_log())
}

#[tokio::test(start_paused = true)]
async fn a_catch_covers_the_depths_of_an_expansion() {
    let deep = grow(
        "g1",
        join("x", [grow("g2", join("y", [grow("g3", leaf("bad"))]))]),
    );
    let (output, log) = run(join("root", [caught("c", deep), leaf("a")])).await;
    assert_eq!(output, 1);
    assert_eq!(log, ["a", "bad", "c", "g1", "g2", "g3", "root"]);
}

#[tokio::test(start_paused = true)]
async fn of_three_nested_catches_the_innermost_has_it() {
    let inner = caught("c3", grow("g3", join("x", [leaf("bad")])));
    let middle = caught("c2", grow("g2", join("y", [inner])));
    let outer = caught("c1", grow("g1", join("z", [middle])));
    let (output, log) = run(outer).await;
    assert_eq!(output, 1);
    assert_eq!(log, ["bad", "c1", "c2", "c3", "g1", "g2", "g3", "y", "z"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_an_inner_catch_goes_to_the_one_outside() {
    let inner = caught("c3", grow("g3", leaf("bad")));
    // The step that takes what the inner one caught fails itself.
    let middle = caught("c2", grow("g2", join("bad", [inner])));
    let outer = caught("c1", grow("g1", join("z", [middle, leaf("a")])));
    let (output, log) = run(outer).await;
    assert_eq!(output, 1);
    assert_eq!(
        log,
        ["a", "bad", "bad", "c1", "c2", "c3", "g1", "g2", "g3", "z"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_catch_may_be_what_an_expansion_is() {
    let (output, log) = run(grow("g1", caught("c", grow("g2", leaf("bad"))))).await;
    assert_eq!(output, -1);
    assert_eq!(log, ["bad", "c", "g1", "g2"]);
}

#[tokio::test(start_paused = true)]
async fn one_failure_reaches_every_catch_around_its_users() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    let bad = grow("g", leaf("bad")).build();
    let both = all(vec![bad.clone().catch(), bad.clone().catch(), bad.catch()]);
    assert_eq!(engine.run("run", both).await?, [-1, -1, -1]);
    assert_eq!(lab.world.log(), ["g", "bad"]);
    engine.shutdown().await
}

#[step]
async fn all(results: Vec<Result<i64, StepError>>) -> Vec<i64> {
    let values = results.into_iter().map(|result| result.unwrap_or(-1));
    values.collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_expansion_was_still_doing_is_stopped() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Hold);
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let deep = grow("g2", join("y", [leaf("held")]));
    let tree = caught("c", grow("g1", join("x", [deep, leaf("bad"), leaf("a")])));
    let handle = engine.start("run", tree.build()).await?;
    lab.world.until("held").await;
    lab.world.until("bad").await;
    lab.world.tell("bad", Do::Fail);
    assert_eq!(handle.await?, -1);
    lab.world.until("held dropped").await;
    let expected = ["a", "bad", "c", "g1", "g2", "held", "held dropped"];
    assert_eq!(lab.world.sorted_log(), expected);
    engine.shutdown().await
}
