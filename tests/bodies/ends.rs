//! A process or a runtime ends while bodies execute: they were interrupted, and did not fail.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Filter, ObjectRef, virtual_actor};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{runtime, soon};

fn moment() -> Duration {
    Duration::from_micros(fastrand::u64(0..1_500))
}

/// A timer panics in a runtime that has ended.
#[step(retries = 0)]
async fn nap(n: u64) -> u64 {
    tokio::time::sleep(moment()).await;
    n + 1
}

/// What somebody else was to say never comes.
#[step(retries = 0)]
async fn errand(n: u64) -> Result<u64, tokio::task::JoinError> {
    let errand = async move {
        tokio::time::sleep(moment()).await;
        n + 1
    };
    tokio::spawn(errand).await
}

/// Not with a timer: tokio may let it wait for ever where its runtime ends.
#[step(retries = 0)]
async fn in_place(n: u64) -> Result<u64, tokio::task::JoinError> {
    let errand = async move { n + 1 };
    let errand = || Handle::current().block_on(tokio::spawn(errand));
    tokio::task::block_in_place(errand)
}

#[step(retries = 0)]
fn plain(n: u64) -> u64 {
    Handle::current().block_on(async {
        tokio::time::sleep(moment()).await;
        n + 1
    })
}

#[step(retries = 0, timeout = "1m")]
async fn limited(n: u64) -> u64 {
    tokio::time::sleep(moment()).await;
    n + 1
}

#[step(retries = 0)]
async fn begun(n: u64) -> ObjectRef<u64> {
    ObjectRef::spawn(async move {
        tokio::time::sleep(moment()).await;
        n + 1
    })
}

#[step(retries = 0)]
async fn fetched(n: ObjectRef<u64>) -> keepstep::Result<u64> {
    Ok(*n.get().await?)
}

/// Two connections of a pool, say, whose tasks end before the body hears of it.
#[step(retries = 0)]
async fn served(n: u64) -> Result<u64, &'static str> {
    let (ask, mut asked) =
        tokio::sync::mpsc::channel::<(u64, tokio::sync::oneshot::Sender<u64>)>(1);
    tokio::spawn(async move {
        while let Some((n, reply)) = asked.recv().await {
            tokio::time::sleep(moment()).await;
            let _ = reply.send(n + 1);
        }
    });
    let (reply, answer) = tokio::sync::oneshot::channel();
    ask.send((n, reply))
        .await
        .map_err(|_| "the connection is closed")?;
    answer.await.map_err(|_| "the connection was closed")
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bell(u64);

#[virtual_actor]
impl Bell {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    #[method(retries = 0)]
    pub(crate) async fn ring(&mut self, n: u64) -> u64 {
        tokio::time::sleep(moment()).await;
        self.0 += 1;
        n + 1
    }
}

#[step(retries = 0)]
async fn rung(n: u64, #[resource] bell: &String) -> keepstep::Result<u64> {
    Bell::get_or_create(bell).await?.ring(n).await
}

#[step(retries = 0)]
async fn repeated(n: u64, kind: u8) -> Workflow<u64> {
    if n >= ROUNDS {
        return Workflow::value(n);
    }
    let next = match kind {
        0 => nap(n),
        1 => errand(n),
        2 => in_place(n),
        3 => plain(n),
        4 => limited(n),
        5 => fetched(begun(n)),
        6 => served(n),
        _ => rung(n),
    };
    repeated(next, kind)
}

const KINDS: u8 = 8;
const ROUNDS: u64 = 100;

async fn opened(url: &str) -> Engine {
    let builder = Engine::builder().resource("bell".to_owned());
    // No body is to blame for what this does to its runtime.
    let builder = builder.max_interruptions(u32::MAX);
    builder.open(url).await.unwrap()
}

/// Opens a store, goes on with what there is, and ends the runtime at some moment. Whether all runs had ended.
fn live_for_a_moment(url: &str, drops_engine: bool) -> bool {
    let runtime = runtime();
    let (engine, has_ended) = runtime.block_on(async {
        let engine = opened(url).await;
        let page = engine.list(Filter::all()).await.unwrap();
        for run in &page.runs {
            let may_be = matches!(run.status, Status::Resumable | Status::Successful);
            if !may_be {
                let metadata = engine.metadata(&run.id).await.unwrap();
                panic!("{}: {:?} {:?}", run.id, run.status, metadata.error);
            }
        }
        let has_ended = |run: &keepstep::RunSummary| run.status == Status::Successful;
        let has_ended = !page.runs.is_empty() && page.runs.iter().all(has_ended);
        for kind in 0..KINDS {
            drop(
                engine
                    .start(format!("{kind}"), repeated(0, kind))
                    .await
                    .unwrap(),
            );
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..40_000))).await;
        (engine, has_ended)
    });
    let kept = match drops_engine {
        true => None,
        false => Some(engine),
    };
    drop(runtime);
    drop(kept);
    has_ended
}

fn nothing_fails(url: &str) {
    let mut n_lives = 0;
    while !live_for_a_moment(url, n_lives % 2 == 0) {
        n_lives += 1;
        if n_lives == 40 {
            break;
        }
    }
    // What is left can be done.
    runtime().block_on(async {
        let engine = opened(url).await;
        for kind in 0..KINDS {
            let run = engine.run(format!("{kind}"), repeated(0, kind));
            assert_eq!(soon(run).await.unwrap(), ROUNDS);
        }
        engine.shutdown().await.unwrap();
    });
}

fn in_a_directory(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    nothing_fails(&format!("{backend}:{}", dir.path().join("data").display()));
}

#[cfg(feature = "sled")]
#[test]
fn a_runtime_that_ends_is_no_failure_of_a_step_on_sled() {
    in_a_directory("sled");
}

#[cfg(feature = "redb")]
#[test]
fn a_runtime_that_ends_is_no_failure_of_a_step_on_redb() {
    in_a_directory("redb");
}

#[cfg(feature = "fjall")]
#[test]
fn a_runtime_that_ends_is_no_failure_of_a_step_on_fjall() {
    in_a_directory("fjall");
}
