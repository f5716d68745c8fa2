//! What a step knows of itself, and what it may not do.

use std::sync::{Arc, Mutex};

use keepstep::prelude::*;
use keepstep::{Context, try_context};
use tokio::sync::Notify;

use crate::common::{Do, Lab, World};

/// What the steps of a test saw.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Context>>);

impl Seen {
    fn take(&self) -> Vec<Context> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[step(retries = 2)]
async fn third_time(#[resource] seen: &Arc<Seen>) -> Result<u32, String> {
    let context = context();
    seen.0.lock().unwrap().push(context.clone());
    match context.attempt() {
        3 => Ok(3),
        attempt => Err(format!("attempt {attempt}")),
    }
}

#[step]
fn blocking_context(after: u32) -> (String, String, u32) {
    let context = context();
    let (run, step) = (context.run_id(), context.step_name());
    (run.to_owned(), step.to_owned(), context.attempt() + after)
}

#[step]
async fn grows(#[resource] seen: &Arc<Seen>) -> Workflow<u32> {
    seen.0.lock().unwrap().push(context());
    third_time()
}

#[tokio::test(start_paused = true)]
async fn a_step_knows_its_run_its_name_and_its_attempt() -> keepstep::Result<()> {
    let seen = Arc::new(Seen::default());
    let engine = Engine::builder().resource(seen.clone()).build().await?;
    let third = third_time().name("third");
    let output = engine.run("the run", blocking_context(third)).await?;
    assert_eq!(output.0, "the run");
    assert!(output.1.ends_with("blocking_context"), "{output:?}");
    assert_eq!(output.2, 1 + 3);

    let contexts = seen.take();
    let attempts: Vec<_> = contexts.iter().map(Context::attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    for context in &contexts {
        assert_eq!(context.run_id(), "the run");
        assert_eq!(context.step_name(), "third");
        assert_eq!(context.step_id(), contexts[0].step_id());
        assert_eq!(context.idempotency_key(), contexts[0].idempotency_key());
    }
    assert!(try_context().is_none());
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_is_of_one_step_of_one_run() -> keepstep::Result<()> {
    let seen = Arc::new(Seen::default());
    let engine = Engine::builder().resource(seen.clone()).build().await?;
    let mut keys = Vec::new();
    for id in ["a", "b"] {
        engine.run(id, grows()).await?;
        let contexts = seen.take();
        let mut of_run: Vec<_> = contexts.iter().map(Context::idempotency_key).collect();
        of_run.dedup();
        assert_eq!(of_run.len(), 2, "the step and what it grew into");
        keys.extend(of_run);
    }
    // Another run of the same id is another run.
    engine.delete("a").await?;
    engine.run("a", grows()).await?;
    keys.extend(seen.take().iter().map(Context::idempotency_key));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6);
    engine.shutdown().await
}

#[step(retries = 5, backoff = "10s")]
async fn notes_its_key(#[resource] world: &World) -> Result<String, String> {
    let context = context();
    let key = context.idempotency_key();
    world.note(format!("{key} {}", context.attempt()));
    world.act("body").await?;
    Ok(key)
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_is_the_same_after_a_crash() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("body", Do::FailTimes(1));
    let engine = lab.engine().await;
    drop(engine.start("run", notes_its_key()).await?);
    lab.world.until("body").await;
    lab.world.tell("body", Do::Hold);
    lab.world.until_times("body", 2).await;
    lab.crash(engine).await;

    lab.world.tell("body", Do::Succeed);
    let engine = lab.engine().await;
    let key = engine.resume::<String>("run").await?.await?;
    let noted = lab.world.log();
    // The execution that the crash cut short is not counted.
    let expected = [
        &*format!("{key} 1"),
        "body",
        &format!("{key} 2"),
        "body",
        "body dropped",
        &format!("{key} 2"),
        "body",
    ];
    assert_eq!(noted, expected);
    Ok(())
}

/// What a step waits for.
#[derive(Debug, Default)]
struct Gates {
    started: Notify,
    ended: Notify,
}

#[step]
async fn waits_for_its_token(#[resource] gates: &Arc<Gates>) -> bool {
    let token = context().cancellation_token();
    gates.started.notify_one();
    token.cancelled().await;
    gates.ended.notify_one();
    true
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_step_is_canceled_with_its_run() -> keepstep::Result<()> {
    let gates = Arc::new(Gates::default());
    let engine = Engine::builder().resource(gates.clone()).build().await?;
    let handle = engine.start("run", waits_for_its_token()).await?;
    gates.started.notified().await;
    handle.cancel().await?;
    gates.ended.notified().await;
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
    engine.shutdown().await
}

#[step]
async fn inner() -> i64 {
    1
}

#[step(retries = 0)]
async fn calls(call: String, #[resource] engine: &Engine) -> Result<String, String> {
    let error = match &*call {
        "run" => engine.run("inner", inner()).await.err(),
        "start" => engine.start("inner", inner()).await.err(),
        "resume" => engine.resume::<i64>("inner").await.err(),
        "resume_all" => engine.resume_all().await.err(),
        "eval" => inner().eval().await.err(),
        _ => None,
    };
    match error {
        Some(Error::InsideStep { call, step }) => Ok(format!("{call} in {step}")),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_workflow_cannot_be_run_inside_a_step() -> keepstep::Result<()> {
    let other = Engine::open("memory:").await?;
    let engine = Engine::builder().resource(other.clone()).build().await?;
    for call in ["run", "start", "resume", "resume_all", "eval"] {
        let told = engine.run(call, calls(call).name("outer")).await?;
        assert_eq!(told, format!("{call} in outer"));
    }
    assert!(other.list(keepstep::Filter::all()).await?.runs.is_empty());
    let error = Error::InsideStep {
        call: "run",
        step: "outer".into(),
    };
    assert!(error.to_string().contains("return the workflow instead"));
    engine.shutdown().await?;
    other.shutdown().await
}

#[tokio::test]
#[should_panic(expected = "`keepstep::context()` was called outside a step")]
async fn there_is_no_context_outside_a_step() {
    let _ = context();
}
