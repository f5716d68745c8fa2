//! Resources reach the bodies that ask for them, and one that is missing is told before anything is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keepstep::SuspendReason;
use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;
use keepstep::storage::memory;

#[derive(Debug, Default)]
struct Counter(AtomicU64);

trait Speak: Send + Sync {
    fn speak(&self) -> String;
}

struct Dog;

impl Speak for Dog {
    fn speak(&self) -> String {
        "woof".to_owned()
    }
}

#[step]
async fn add(n: u64, #[resource] counter: &Counter, m: u64) -> u64 {
    counter.0.fetch_add(n + m, Ordering::Relaxed) + n + m
}

#[step]
fn add_blocking(#[resource] counter: Arc<Counter>, n: u64) -> u64 {
    counter.0.fetch_add(n, Ordering::Relaxed) + n
}

#[step]
async fn speak(#[resource] animal: &Arc<dyn Speak>, after: u64) -> String {
    format!("{} {after}", animal.speak())
}

#[step(retries = 0)]
async fn grows_into_speak() -> Workflow<String> {
    speak(1)
}

fn animal() -> Arc<dyn Speak> {
    Arc::new(Dog)
}

#[tokio::test]
async fn resources_are_shared_by_all_steps() -> keepstep::Result<()> {
    let builder = Engine::builder().resource(Counter::default());
    let engine = builder.resource(animal()).open("memory:").await?;
    let sum = add_blocking(add(1, 2));
    assert_eq!(engine.run("run", speak(sum)).await?, "woof 6");
    engine.shutdown().await
}

#[tokio::test]
async fn a_missing_resource_is_an_error_at_submission() -> keepstep::Result<()> {
    let store = Arc::new(Recorded::new(memory()));
    let builder = Engine::builder().storage(store.clone());
    let engine = builder.resource(Counter::default()).build().await?;
    let error = engine.start("run", speak(add(1, 2))).await.unwrap_err();
    match &error {
        Error::MissingResource {
            step,
            param,
            type_name,
        } => {
            assert!(step.ends_with("speak"), "{step}");
            assert_eq!(param, "animal");
            assert!(type_name.contains("Speak"), "{type_name}");
        }
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("Engine::builder().resource"));
    assert!(store.log().is_empty(), "something was stored");
    engine.shutdown().await
}

#[tokio::test]
async fn a_resource_that_an_expansion_misses_suspends_the_run() -> keepstep::Result<()> {
    let store = memory();
    let engine = Engine::builder().storage(store.clone()).build().await?;
    match engine.run("run", grows_into_speak()).await {
        Err(Error::Suspended {
            reason: SuspendReason::MissingResource { step, param, .. },
            ..
        }) => {
            assert!(step.ends_with("speak"), "{step}");
            assert_eq!(param, "animal");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.status("run").await?, Status::Suspended);
    // A crash, and a program that gives the resource.
    drop(engine);
    let builder = Engine::builder().storage(store).resource(animal());
    let engine = builder.build().await?;
    assert_eq!(engine.resume::<String>("run").await?.await?, "woof 1");
    engine.shutdown().await
}
