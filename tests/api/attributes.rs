//! What attributes of a step and methods of a workflow change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keepstep::prelude::*;
use keepstep::{Clock, StepErrorKind};
use serde_json::json;

use crate::common::{Do, Lab, World};

#[step(name = "billing/charge", version = 3)]
async fn charge(amount: u64) -> u64 {
    amount
}

#[step(retries = 2)]
async fn two_retries(#[resource] world: &World) -> Result<(), String> {
    world.act("two").await
}

#[step]
async fn default_retries(#[resource] world: &World) -> Result<(), String> {
    world.act("default").await
}

#[step(retries = 3, backoff = "10s..15s")]
async fn long_backoff(#[resource] world: &World) -> Result<(), String> {
    world.act("long").await
}

#[step(retries = 0, timeout = "30s")]
async fn half_a_minute(#[resource] world: &World) -> Result<(), String> {
    world.act("held").await
}

#[step(codec = "bincode")]
async fn by_bincode(pairs: Vec<(u32, Option<String>)>) -> Vec<(u32, Option<String>)> {
    pairs
}

#[step]
async fn quick(n: i64, #[resource] world: &World) -> i64 {
    world.note(format!("quick {n}"));
    n
}

async fn executions(workflow: Workflow<()>, id: &str) -> (usize, u32) {
    let lab = Lab::new();
    for who in ["two", "default", "long"] {
        lab.world.tell(who, Do::Fail);
    }
    let engine = lab.engine().await;
    let error = engine.run(id, workflow).await.unwrap_err();
    engine.shutdown().await.unwrap();
    match error {
        Error::Failed { error, .. } => (lab.world.log().len(), error.attempts),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn n_retries_are_n_plus_1_executions() {
    for (workflow, expected) in [
        (default_retries(), 4),
        (default_retries().retries(0), 1),
        (default_retries().retries(9), 10),
        (two_retries(), 3),
        (two_retries().retries(1), 2),
    ] {
        let (ran, attempts) = executions(workflow, "run").await;
        assert_eq!((ran, attempts), (expected, expected as u32));
    }
}

#[tokio::test(start_paused = true)]
async fn a_backoff_grows_to_its_longest() {
    let start = tokio::time::Instant::now();
    executions(long_backoff(), "run").await;
    // Between half of 10 s, 15 s, 15 s, and the whole of them.
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(20), "{took:?}");
    assert!(took <= Duration::from_secs(41), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_time_out_is_the_steps_or_the_workflows() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    for (id, workflow, limit) in [
        ("steps", half_a_minute(), 30),
        (
            "workflows",
            half_a_minute().timeout(Duration::from_secs(7)),
            7,
        ),
    ] {
        let start = tokio::time::Instant::now();
        match engine.run(id, workflow).await {
            Err(Error::Failed { error, .. }) => {
                assert_eq!(error.kind, StepErrorKind::Timeout);
                assert_eq!(error.message, format!("it took longer than {limit}s"));
            }
            other => panic!("{other:?}"),
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(limit) && took < Duration::from_secs(limit + 1));
        assert_eq!(lab.world.log(), ["held", "held dropped"]);
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_time_out_is_of_each_attempt() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.engine().await;
    let workflow = half_a_minute().retries(1);
    let run = engine.start("run", workflow).await?;
    lab.world.until("held dropped").await;
    lab.world.tell("held", Do::Succeed);
    run.await?;
    assert_eq!(lab.world.log(), ["held", "held dropped", "held"]);
    engine.shutdown().await
}

#[tokio::test]
async fn a_name_and_a_version_are_the_steps() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    engine.run("run", charge(charge(5))).await?;
    assert_eq!(engine.metadata("run").await?.workflow, "billing/charge");
    assert_eq!(engine.step_output::<u64>("run", "billing/charge").await?, 5);
    engine.run("named", charge(5).name("the charge")).await?;
    assert_eq!(engine.metadata("named").await?.workflow, "the charge");
    engine.shutdown().await
}

#[tokio::test]
async fn a_step_may_use_bincode() -> keepstep::Result<()> {
    let pairs = vec![(1, None), (2, Some("two".to_owned()))];
    let workflow = by_bincode(by_bincode(pairs.clone()));
    assert_eq!(workflow.eval().await?, pairs);
    assert_eq!(workflow.catch().eval().await?.unwrap(), pairs);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn after_is_order_without_data() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let first = quick(1);
    let second = quick(2).after(&first);
    let third = quick(3).after(&second).after(&first);
    assert_eq!(engine.run("run", &third).await?, 3);
    assert_eq!(lab.world.log(), ["quick 1", "quick 2", "quick 3"]);

    // What it comes after fails, so it does.
    lab.world.tell("two", Do::Fail);
    let failing = quick(1).after(&two_retries().retries(0));
    let error = engine.run("failing", failing).await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert_eq!(lab.world.log(), ["two"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_caught_failure_is_a_value() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("two", Do::Fail);
    let engine = lab.engine().await;
    let error = engine.run("run", two_retries().catch()).await?.unwrap_err();
    assert!(error.step.ends_with("two_retries"), "{error:?}");
    assert_eq!((error.kind, error.attempts), (StepErrorKind::Error, 3));
    assert_eq!(error.message, "two failed");
    lab.world.tell("two", Do::Succeed);
    assert_eq!(engine.run("other", two_retries().catch()).await?, Ok(()));
    // The value of a catch is as durable as any.
    assert!(engine.run("run", two_retries().catch()).await?.is_err());
    assert_eq!(lab.world.log().len(), 3 + 1);
    engine.shutdown().await
}

#[tokio::test]
async fn metadata_is_the_runs_and_the_nodes() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let inner = charge(1).metadata(json!({"inner": true}));
    let outer = charge(inner).metadata(json!({"customer": 17, "tags": ["a", null]}));
    engine.run("run", &outer).await?;
    let metadata = engine.metadata("run").await?;
    assert_eq!(
        metadata.user,
        Some(json!({"customer": 17, "tags": ["a", null]}))
    );
    let graph = engine.graph("run").await?;
    assert_eq!(graph.nodes[0].metadata, Some(json!({"inner": true})));
    engine.run("none", charge(1)).await?;
    assert_eq!(engine.metadata("none").await?.user, None);
    engine.shutdown().await
}

#[tokio::test]
async fn a_value_is_a_finished_workflow() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let value = Workflow::value(vec!["a".to_owned()]);
    assert_eq!(engine.run("run", &value).await?, ["a"]);
    assert_eq!(engine.run("run", value.clone()).await?, ["a"]);
    assert_eq!(engine.status("run").await?, Status::Successful);
    assert_eq!(engine.metadata("run").await?.progress.total, 0);
    assert_eq!(value.catch().eval().await?.unwrap(), ["a"]);
    engine.shutdown().await
}

#[tokio::test]
async fn a_diamond_runs_once() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let top = quick(1);
    let pair = crate::common::act("sides", vec![top.clone(), top.clone(), top.clone()]);
    let bottom = crate::common::act("bottom", vec![pair.clone(), pair, top]);
    assert_eq!(engine.run("run", bottom).await?, 4 + 4 + 1 + 1);
    assert_eq!(lab.world.log(), ["quick 1", "sides", "bottom"]);
    engine.shutdown().await
}

#[tokio::test]
async fn changing_a_workflow_that_is_used_leaves_its_use_alone() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let one = quick(1);
    let user = crate::common::act("user", vec![one.clone()]);
    let renamed = one.name("renamed");
    engine.run("run", user).await?;
    let error = engine
        .step_output::<i64>("run", "renamed")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::StepNotFound { .. }), "{error:?}");
    engine.run("renamed", renamed).await?;
    assert_eq!(engine.step_output::<i64>("renamed", "renamed").await?, 1);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_clock_of_tokio_stands_still_and_jumps_with_it() {
    let clock = Clock::tokio();
    let before = clock.now();
    tokio::time::advance(Duration::from_secs(86_400)).await;
    let passed = clock.now().duration_since(before).unwrap();
    assert_eq!(passed, Duration::from_secs(86_400));
    let now = SystemTime::now();
    assert!(Arc::new(Clock::system()).now() >= now);
}
