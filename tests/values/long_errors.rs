//! Of what an error says, so much is kept as people read.

use std::error::Error as _;
use std::fmt;

use keepstep::prelude::*;
use keepstep::{StepErrorKind, SuspendReason, child, virtual_actor};
use serde::{Deserialize, Serialize};

/// So much is kept of a message and its causes.
const MAX: usize = 64 << 10;
const LONG: usize = 3 << 20;

/// An error with causes, each of which says much.
#[derive(Debug)]
struct Wordy(u32);

impl fmt::Display for Wordy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&"é".repeat(LONG / 2))
    }
}

impl std::error::Error for Wordy {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        const CAUSE: &Wordy = &Wordy(0);
        (self.0 > 0).then_some(CAUSE as _)
    }
}

#[step(retries = 1, backoff = "1ms")]
async fn wordy() -> Result<u8, Wordy> {
    Err(Wordy(1))
}

#[step(retries = 0)]
async fn short(causes: usize) -> anyhow::Result<u8> {
    let error = anyhow::anyhow!("the innermost");
    Err((0..causes).fold(error, |error, n| {
        error.context(format!("cause {n} {}", "x".repeat(1000)))
    }))
}

#[step(retries = 0)]
async fn panics() -> u8 {
    panic!("{}", "p".repeat(LONG))
}

#[step(retries = 0)]
fn panics_in_thread() -> u8 {
    panic!("{}", "p".repeat(LONG))
}

#[step]
async fn unencodable() -> Refuses {
    Refuses
}

/// Says much about why it is not stored.
#[derive(Debug, Deserialize)]
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(Wordy(0)))
    }
}

#[step]
async fn told(outcome: Result<u8, StepError>) -> usize {
    let error = outcome.unwrap_err();
    error.message.len() + error.causes.iter().map(String::len).sum::<usize>()
}

fn check(error: &StepError, kind: StepErrorKind) {
    assert_eq!(error.kind, kind);
    let len = error.message.len() + error.causes.iter().map(String::len).sum::<usize>();
    assert!((MAX / 2..=MAX).contains(&len), "{len} bytes");
    let says = |text: &String| text.contains("(cut: ");
    assert!(
        says(&error.message) || error.causes.iter().any(says),
        "it does not say that it was cut"
    );
}

async fn failure<T: serde::de::DeserializeOwned + fmt::Debug + 'static>(
    engine: &Engine,
    id: &str,
    workflow: Workflow<T>,
) -> Box<StepError> {
    let live = match engine.run(id, workflow).await {
        Err(Error::Failed { error, .. }) => error,
        _ => panic!("it did not fail"),
    };
    // As it is stored.
    match engine.output::<T>(id).await {
        Err(Error::Failed { error, .. }) => assert!(error == live, "another error is stored"),
        _ => panic!("its failure is not stored"),
    }
    live
}

#[tokio::test]
async fn the_errors_of_steps_are_kept_up_to_a_bound() {
    let engine = Engine::open("memory:").await.unwrap();
    let error = failure(&engine, "wordy", wordy()).await;
    check(&error, StepErrorKind::Error);
    assert!(error.message.starts_with("ééé") && error.attempts == 2);
    check(
        &*failure(&engine, "causes", short(200)).await,
        StepErrorKind::Error,
    );
    check(
        &*failure(&engine, "panic", panics()).await,
        StepErrorKind::Panic,
    );
    check(
        &*failure(&engine, "thread", panics_in_thread()).await,
        StepErrorKind::Panic,
    );
    check(
        &*failure(&engine, "result", unencodable()).await,
        StepErrorKind::Unencodable,
    );
    check(
        &*failure(&engine, "parent", child("child", wordy())).await,
        StepErrorKind::Error,
    );

    // What is not long is kept as it is.
    let error = failure(&engine, "few", short(3)).await;
    assert_eq!(error.causes.len(), 3);
    assert_eq!(error.causes[2], "the innermost");
    assert_eq!(error.message.len(), "cause 2 ".len() + 1000);
    let len = engine.run("caught", told(wordy().catch())).await.unwrap();
    assert!((MAX / 2..=MAX).contains(&len), "{len} bytes");
    engine.shutdown().await.unwrap();
}

#[derive(Serialize, Deserialize)]
struct Grumpy;

#[virtual_actor]
impl Grumpy {
    pub fn new() -> Self {
        Self
    }

    pub async fn grumble(&mut self) -> Result<u8, Wordy> {
        Err(Wordy(1))
    }

    pub async fn explode(&mut self) -> u8 {
        panic!("{}", "p".repeat(LONG))
    }
}

#[tokio::test]
async fn the_errors_of_calls_are_kept_up_to_a_bound() {
    let engine = Engine::open("memory:").await.unwrap();
    let grumpy = Grumpy::on(&engine).get_or_create("g").await.unwrap();
    for (call, kind) in [
        (grumpy.grumble(), StepErrorKind::Error),
        (grumpy.explode(), StepErrorKind::Panic),
    ] {
        match call.await {
            Err(Error::CallFailed { error, .. }) => check(&error, kind),
            _ => panic!("it did not fail"),
        }
    }
    check(
        &*failure(&engine, "step", grumpy.grumble().step()).await,
        StepErrorKind::Error,
    );
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_reason_of_a_suspension_is_kept_up_to_a_bound() {
    #[step(name = "reads")]
    async fn reads(text: Number) -> u8 {
        text.0
    }
    #[derive(Serialize, Deserialize)]
    struct Number(#[serde(deserialize_with = "never")] u8);
    fn never<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
        u8::deserialize(from)?;
        Err(serde::de::Error::custom(Wordy(0)))
    }
    #[step]
    async fn gives() -> u8 {
        1
    }
    #[step]
    async fn leads() -> Workflow<u8> {
        reads(keepstep::event::<Number>("n"))
    }
    let engine = Engine::open("memory:").await.unwrap();
    let run = engine.start("r", leads()).await.unwrap();
    engine.send_event("r", "n", &1u8).await.unwrap();
    match run.await {
        Err(Error::Suspended {
            reason: SuspendReason::Undecodable { message, .. },
            ..
        }) => {
            assert!(
                (MAX / 2..=MAX).contains(&message.len()),
                "{} bytes",
                message.len()
            );
            assert!(message.contains("(cut: "));
        }
        other => panic!(
            "{:?}",
            other.map_err(|error| error.source().map(ToString::to_string))
        ),
    }
    drop(engine.run("other", gives()).await);
    engine.shutdown().await.unwrap();
}
