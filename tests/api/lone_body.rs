//! A run that has one body to wait for polls it itself. It hears what it is told all the same, also while that body keeps
//! its thread busy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Error, NodeState, Status};
use tokio::sync::Semaphore;

/// Where a body blocks its thread.
pub(crate) struct Gate {
    begun: Semaphore,
    released: AtomicBool,
}

/// One for each test that blocks.
pub(crate) static GATES: [Gate; 3] = [const { Gate::new() }; 3];

impl Gate {
    const fn new() -> Self {
        Self {
            begun: Semaphore::const_new(0),
            released: AtomicBool::new(false),
        }
    }

    /// Waits until a body blocks here.
    pub(crate) async fn begun(&self) {
        let begun = tokio::time::timeout(Duration::from_secs(20), self.begun.acquire());
        begun.await.expect("it begins").unwrap().forget();
    }

    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }
}

/// Blocks its thread in its first poll, which an async body should not do.
#[step]
pub(crate) async fn busy(n: u64, gate: usize) -> u64 {
    GATES[gate].begun.add_permits(1);
    while !GATES[gate].released.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_seen_and_canceled_while_it_blocks() {
    let engine = Engine::open("memory:").await.unwrap();
    let handle = engine.start("busy", busy(1, 0)).await.unwrap();
    GATES[0].begun().await;
    let graph = engine.graph("busy").await.unwrap();
    assert_eq!(graph.nodes[0].state, Some(NodeState::Running));
    engine.cancel("busy").await.unwrap();
    assert_eq!(engine.status("busy").await.unwrap(), Status::Canceled);
    assert!(matches!(handle.await, Err(Error::Canceled { .. })));
    GATES[0].release();
    engine.shutdown().await.unwrap();
}

#[step]
async fn slow(n: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(50)).await;
    n + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_at_it_from_another_runtime_does_not_take_it_along() {
    let engine = Engine::open("memory:").await.unwrap();
    let handle = engine.start("busy", slow(busy(1, 1))).await.unwrap();
    GATES[1].begun().await;
    let looking = engine.clone();
    let looked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(looking.graph("busy")).unwrap()
    });
    let graph = looked.join().unwrap();
    assert_eq!(graph.nodes[0].state, Some(NodeState::Running));
    GATES[1].release();
    let output = tokio::time::timeout(Duration::from_secs(20), handle).await;
    assert_eq!(output.expect("it goes on").unwrap(), 2);
    engine.shutdown().await.unwrap();
}
