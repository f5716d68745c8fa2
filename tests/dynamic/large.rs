//! Large DAGs: built, run, cloned and dropped in time that is linear in their nodes, and without deep recursion.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keepstep::prelude::*;

const ROUNDS: u64 = 100_000;

#[step]
async fn add(a: u64, b: u64, #[resource] executions: &Arc<AtomicU64>) -> u64 {
    executions.fetch_add(1, Ordering::Relaxed);
    a.wrapping_add(b)
}

/// Each round uses the node before it twice: as a tree it would have 2 to the power of `rounds` leaves.
fn doubled(rounds: u64) -> Workflow<u64> {
    (0..rounds).fold(Workflow::value(1), |node, _| add(&node, &node))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_used_twice_each_round_runs_once() -> keepstep::Result<()> {
    let executions = Arc::new(AtomicU64::new(0));
    let builder = Engine::builder().resource(executions.clone());
    let engine = builder.open("memory:").await?;
    let workflow = doubled(ROUNDS);
    // 2 to the power of 100,000, in 64 bits.
    assert_eq!(engine.run("run", &workflow).await?, 0);
    assert_eq!(executions.load(Ordering::Relaxed), ROUNDS);
    assert_eq!(engine.run("small", doubled(10)).await?, 1 << 10);
    engine.shutdown().await
}

#[test]
fn a_deep_workflow_needs_no_deep_stack() {
    let small = std::thread::Builder::new().stack_size(64 << 10);
    let thread = small.spawn(|| {
        let workflow = doubled(ROUNDS);
        let again = workflow.clone().name("changed").catch();
        let deep_in_containers = (0..ROUNDS).fold(Workflow::value(0), |node, _| sum(vec![node]));
        let deep_in_order = (0..ROUNDS).fold(Workflow::value(()), |node, _| {
            Workflow::value(()).after(&node)
        });
        let deep_in_catches =
            (0..ROUNDS).fold(Workflow::<u64>::value(0), |node, _| caught(node.catch()));
        drop(workflow);
        drop(again);
        drop(deep_in_containers);
        drop(deep_in_order);
        drop(deep_in_catches);
    });
    thread.unwrap().join().unwrap();
}

#[step]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

#[step]
async fn caught(result: Result<u64, StepError>) -> u64 {
    result.unwrap_or(0)
}

#[test]
fn a_deep_workflow_is_drawn_without_a_deep_stack() {
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let thread = small.spawn(|| {
        let drawn = doubled(10_000).to_mermaid();
        assert_eq!(drawn.matches("-->").count(), 10_000);
    });
    thread.unwrap().join().unwrap();
}
