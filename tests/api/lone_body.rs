//! A run that has one body to wait for polls it itself. It hears what it is told all the same, also while that body keeps
//! its thread busy.

use std::sync::atomic::{AtomicBool, Ordering};

use keepstep::prelude::*;
use keepstep::{Error, NodeState, Status};
use tokio::sync::Semaphore;

static BEGUN: Semaphore = Semaphore::const_new(0);
static RELEASED: AtomicBool = AtomicBool::new(false);

/// Blocks its thread in its first poll, which an async body should not do.
#[step]
async fn busy(n: u64) -> u64 {
    BEGUN.add_permits(1);
    while !RELEASED.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_seen_and_canceled_while_it_blocks() {
    let engine = Engine::open("memory:").await.unwrap();
    let handle = engine.start("busy", busy(1)).await.unwrap();
    BEGUN.acquire().await.unwrap().forget();
    let graph = engine.graph("busy").await.unwrap();
    assert_eq!(graph.nodes[0].state, Some(NodeState::Running));
    engine.cancel("busy").await.unwrap();
    assert_eq!(engine.status("busy").await.unwrap(), Status::Canceled);
    assert!(matches!(handle.await, Err(Error::Canceled { .. })));
    RELEASED.store(true, Ordering::SeqCst);
    engine.shutdown().await.unwrap();
}

static HELD: Semaphore = Semaphore::const_new(0);
static LET_GO: AtomicBool = AtomicBool::new(false);

/// As `busy`, of another test.
#[step]
async fn held(n: u64) -> u64 {
    HELD.add_permits(1);
    while !LET_GO.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    n
}

#[step]
async fn slow(n: u64) -> u64 {
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    n + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_at_it_from_another_runtime_does_not_take_it_along() {
    let engine = Engine::open("memory:").await.unwrap();
    let handle = engine.start("held", slow(held(1))).await.unwrap();
    HELD.acquire().await.unwrap().forget();
    let looking = engine.clone();
    let looked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(looking.graph("held")).unwrap()
    });
    let graph = looked.join().unwrap();
    assert_eq!(graph.nodes[0].state, Some(NodeState::Running));
    LET_GO.store(true, Ordering::SeqCst);
    let output = tokio::time::timeout(std::time::Duration::from_secs(20), handle);
    assert_eq!(output.await.expect("it goes on").unwrap(), 2);
    engine.shutdown().await.unwrap();
}
