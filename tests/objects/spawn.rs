//! Work whose result is to be an object: begun at once, awaited before the step's result is stored, and never left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Clock, StepErrorKind};
use tokio::sync::Notify;

/// What the steps of a test share.
#[derive(Clone, Default)]
struct Stage(Arc<Shared>);

#[derive(Default)]
struct Shared {
    gate: Notify,
    begun: Notify,
    n_attempts: AtomicU32,
    is_dropped: AtomicBool,
}

/// Says when it is dropped.
struct Dropped(Stage);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.0.is_dropped.store(true, Ordering::SeqCst);
    }
}

impl Stage {
    async fn until_dropped(&self) {
        while !self.0.is_dropped.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }
}

async fn engine(stage: &Stage) -> Engine {
    let builder = Engine::builder().resource(stage.clone());
    builder.clock(Clock::tokio()).open("memory:").await.unwrap()
}

fn failed(result: keepstep::Result<impl std::fmt::Debug>) -> StepError {
    match result {
        Err(Error::Failed { error, .. }) => *error,
        other => panic!("{other:?}"),
    }
}

/// A step that returns at once what is done when the gate opens.
#[step]
async fn gated(#[resource] stage: &Stage) -> (u32, ObjectRef<String>) {
    let stage = stage.clone();
    let work = async move {
        let _dropped = Dropped(stage.clone());
        stage.0.begun.notify_one();
        stage.0.gate.notified().await;
        // It is in the step's context.
        context().step_name().to_owned()
    };
    (1, ObjectRef::spawn(work))
}

#[tokio::test(start_paused = true)]
async fn a_result_is_stored_when_the_work_is_done_that_it_refers_to() -> keepstep::Result<()> {
    let stage = Stage::default();
    let engine = engine(&stage).await;
    let run = engine.start("run", gated()).await?;
    stage.0.begun.notified().await;
    assert_eq!(engine.status("run").await?, Status::Running);
    assert!(
        engine
            .step_output::<serde_json::Value>("run", "gated")
            .await
            .is_err()
    );
    stage.0.gate.notify_one();
    let (_, object) = run.await?;
    assert!(object.get().await?.ends_with("gated"));
    assert!(object.address().is_some());
    engine.shutdown().await
}

#[step]
async fn alone() -> keepstep::Result<String> {
    let word = ObjectRef::spawn(async { "alone".to_owned() });
    // What was begun outside of a step can be awaited inside, too.
    let (one, other) = (word.get().await?, word.clone().get().await?);
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(word, word.clone());
    Ok((*one).clone())
}

#[tokio::test(start_paused = true)]
async fn a_step_can_await_what_it_began() -> keepstep::Result<()> {
    let engine = engine(&Stage::default()).await;
    assert_eq!(engine.run("alone", alone()).await?, "alone");
    engine.shutdown().await
}

#[step(retries = 2, backoff = "1s..1s")]
async fn third_time(#[resource] stage: &Stage) -> Vec<ObjectRef<u32>> {
    let attempt = stage.0.n_attempts.fetch_add(1, Ordering::SeqCst) + 1;
    let work = async move {
        match attempt {
            1 => panic!("the first time"),
            2 => Err("the second time"),
            _ => Ok(attempt),
        }
    };
    vec![ObjectRef::try_spawn(work)]
}

#[step(retries = 0)]
async fn never(how: String) -> Option<ObjectRef<u32>> {
    Some(ObjectRef::try_spawn(async move {
        match &*how {
            "panic" => panic!("it panics"),
            _ => Err(std::io::Error::other("it fails")),
        }
    }))
}

#[tokio::test(start_paused = true)]
async fn work_that_fails_fails_the_step_which_is_tried_again() -> keepstep::Result<()> {
    let stage = Stage::default();
    let engine = engine(&stage).await;
    let objects = engine.run("third", third_time()).await?;
    assert_eq!(*objects[0].get().await?, 3);
    let error = failed(engine.run("error", never("error")).await);
    assert_eq!(
        (error.kind, &*error.message),
        (StepErrorKind::Error, "it fails")
    );
    let error = failed(engine.run("panic", never("panic")).await);
    assert_eq!(
        (error.kind, &*error.message),
        (StepErrorKind::Panic, "it panics")
    );
    let caught = engine.run("caught", never("error").catch()).await?;
    assert_eq!(caught.unwrap_err().message, "it fails");
    engine.shutdown().await
}

#[step(retries = 0)]
async fn asks(how: String) -> Result<u32, Error> {
    let work = ObjectRef::<u32>::try_spawn(async move {
        match &*how {
            "panic" => panic!("it panics"),
            _ => Err(std::io::Error::other("it fails")),
        }
    });
    work.get().await.map(|n| *n)
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_object_of_failed_work_is_told_why() -> keepstep::Result<()> {
    let engine = engine(&Stage::default()).await;
    for (how, why) in [("panic", "it panics"), ("error", "it fails")] {
        let error = failed(engine.run(how, asks(how)).await);
        assert!(error.message.ends_with(why), "{}", error.message);
    }
    engine.shutdown().await
}

/// A step whose work never ends.
#[step(retries = 0)]
async fn endless(#[resource] stage: &Stage) -> Vec<ObjectRef<u32>> {
    let stage = stage.clone();
    vec![ObjectRef::spawn(async move {
        let _dropped = Dropped(stage.clone());
        stage.0.begun.notify_one();
        std::future::pending().await
    })]
}

/// One that returns a workflow of such work.
#[step(retries = 0)]
async fn endless_workflow(#[resource] stage: &Stage) -> Workflow<u32> {
    let stage = stage.clone();
    first(ObjectRef::spawn(async move {
        let _dropped = Dropped(stage.clone());
        stage.0.begun.notify_one();
        std::future::pending().await
    }))
}

#[step]
async fn first(of: ObjectRef<u32>) -> keepstep::Result<u32> {
    Ok(*of.get().await?)
}

#[tokio::test(start_paused = true)]
async fn work_has_the_time_that_its_step_has() -> keepstep::Result<()> {
    let stage = Stage::default();
    let engine = engine(&stage).await;
    let limit = Duration::from_secs(60);
    let error = failed(engine.run("value", endless().timeout(limit)).await);
    assert_eq!(error.kind, StepErrorKind::Timeout);
    stage.until_dropped().await;

    stage.0.is_dropped.store(false, Ordering::SeqCst);
    let error = failed(engine.run("plan", endless_workflow().timeout(limit)).await);
    assert_eq!(error.kind, StepErrorKind::Timeout);
    stage.until_dropped().await;
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn work_is_canceled_with_its_step() -> keepstep::Result<()> {
    let stage = Stage::default();
    let engine = engine(&stage).await;
    for (id, is_plan) in [("value", false), ("plan", true)] {
        stage.0.is_dropped.store(false, Ordering::SeqCst);
        if is_plan {
            drop(engine.start(id, endless_workflow()).await?);
        } else {
            drop(engine.start(id, endless()).await?);
        }
        stage.0.begun.notified().await;
        engine.cancel(id).await?;
        stage.until_dropped().await;
    }
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn work_that_nothing_refers_to_is_stopped() -> keepstep::Result<()> {
    let stage = Stage::default();
    let (copy, engine) = (stage.clone(), engine(&stage).await);
    let work = ObjectRef::<u32>::spawn(async move {
        let _dropped = Dropped(copy.clone());
        copy.0.begun.notify_one();
        std::future::pending().await
    });
    stage.0.begun.notified().await;
    assert!(
        serde_json::to_string(&work).is_err(),
        "it has no address yet"
    );
    let workflow = first(work.clone());
    drop(work);
    assert!(!stage.0.is_dropped.load(Ordering::SeqCst));
    drop(workflow);
    stage.until_dropped().await;
    engine.shutdown().await
}

#[step]
async fn plan_of_work() -> Workflow<u32> {
    first(ObjectRef::spawn(async { 7 }))
}

#[step]
async fn child_of_work() -> Workflow<u32> {
    let inner = child("inner", first(ObjectRef::spawn(async { 8 })));
    child("outer", inner)
}

#[tokio::test(start_paused = true)]
async fn workflows_and_children_may_refer_to_work_under_way() -> keepstep::Result<()> {
    let engine = engine(&Stage::default()).await;
    assert_eq!(engine.run("plan", plan_of_work()).await?, 7);
    assert_eq!(engine.run("child", child_of_work()).await?, 8);
    assert_eq!(engine.status("inner").await?, Status::Successful);
    engine.shutdown().await
}

/// A reference among so much else that the result is kept in a blob itself.
#[step]
async fn long() -> (Vec<u8>, ObjectRef<u32>, String) {
    let work = ObjectRef::spawn(async { 9 });
    (vec![1; 300_000], work, "blake3-p:".repeat(100))
}

#[tokio::test(start_paused = true)]
async fn a_long_result_may_refer_to_work_under_way() -> keepstep::Result<()> {
    let engine = engine(&Stage::default()).await;
    let (bytes, object, text) = engine.run("long", long()).await?;
    assert_eq!((bytes, text), (vec![1; 300_000], "blake3-p:".repeat(100)));
    assert_eq!(*object.get().await?, 9);
    drop(object);
    engine.maintain().await?;
    let (_, object, _) = engine
        .output::<(Vec<u8>, ObjectRef<u32>, String)>("long")
        .await?;
    assert_eq!(*object.get().await?, 9);
    engine.shutdown().await
}
