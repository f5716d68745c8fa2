//! A run that commits time and again on its thread, and waits for nothing else, stays there and gives the thread's other tasks away.
//! Whatever its bodies do, it goes on as any run does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Error, StepErrorKind};

use crate::lone_body::{GATES, busy};

/// More steps than it takes for a run to stay where it is.
const LONG: u64 = 50;

#[step]
async fn add(n: u64, more: u64) -> u64 {
    n + more
}

fn chain(first: impl IntoArg<u64>, length: u64) -> Workflow<u64> {
    (1..length).fold(add(first, 1), |last, _| add(last, 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn others_go_on_and_it_is_canceled_while_a_body_blocks() {
    let engine = Engine::open("memory:").await.unwrap();
    let others = tokio::spawn(GATES[2].begun());
    let run = engine.start("run", chain(busy(chain(0, LONG), 2), LONG));
    let handle = run.await.unwrap();
    // The only worker has this task, too.
    others.await.unwrap();
    engine.cancel("run").await.unwrap();
    assert_eq!(engine.status("run").await.unwrap(), Status::Canceled);
    assert!(matches!(handle.await, Err(Error::Canceled { .. })));
    GATES[2].release();
    engine.shutdown().await.unwrap();
}

/// Waits in the ways that there are.
#[step]
async fn waits(n: u64) -> u64 {
    match n % 4 {
        0 => tokio::task::yield_now().await,
        1 => tokio::time::sleep(Duration::from_millis(1)).await,
        2 => tokio::task::block_in_place(std::thread::yield_now),
        _ => tokio::spawn(async {}).await.unwrap(),
    }
    n + 1
}

#[step]
fn blocking(n: u64) -> u64 {
    n + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_may_wait_block_and_spawn() {
    let engine = Engine::open("memory:").await.unwrap();
    let mut workflow = chain(0, LONG);
    let mut expected = LONG;
    for _ in 0..40 {
        workflow = blocking(waits(chain(workflow, 5)));
        expected += 7;
    }
    assert_eq!(engine.run("run", workflow).await.unwrap(), expected);
    engine.shutdown().await.unwrap();
}

static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);

#[step(retries = 1, backoff = "1ms..1ms")]
async fn panics_once(n: u64) -> u64 {
    assert!(ATTEMPTS.fetch_add(1, Ordering::SeqCst) > 0, "not yet");
    n
}

#[step(retries = 0)]
async fn panics(n: u64) -> u64 {
    panic!("at {n}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_the_failure_of_the_step() {
    let engine = Engine::open("memory:").await.unwrap();
    let workflow = panics(chain(panics_once(chain(0, LONG)), LONG));
    let Err(Error::Failed { error, .. }) = engine.run("run", workflow).await else {
        panic!("it does not fail");
    };
    assert_eq!(error.kind, StepErrorKind::Panic);
    assert_eq!(error.message, format!("at {}", 2 * LONG));
    assert_eq!(ATTEMPTS.load(Ordering::SeqCst), 2);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn several_go_on_side_by_side() {
    let engine = Engine::open("memory:").await.unwrap();
    let mut runs = Vec::new();
    for i in 0..10 {
        let run = engine.start(format!("run {i}"), chain(i, 500));
        runs.push(run.await.unwrap());
    }
    for (i, run) in (0..).zip(runs) {
        assert_eq!(run.await.unwrap(), i + 500);
    }
    engine.shutdown().await.unwrap();
}
