//! A workflow that does everything there is to do: a fan-out, expansions, retries, catches, names, a large value, a step
//! whose result is not stored, and a race against the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Graph, NodeState};

use crate::ledger::Ledger;

/// Longer than what is kept in a journal.
const LARGE: usize = 100_000;

/// What the workflow yields.
pub(crate) const OUTPUT: u64 = {
    let leaves = 6 * (6 - 1) / 2;
    // Each leaf is grown to three times itself, and one is caught.
    3 * leaves + 1_000 + LARGE as u64 + 7
};

pub(crate) fn workflow() -> Workflow<u64> {
    let grown: Vec<_> = (0..6).map(|n| grow(n).name(format!("grow {n}"))).collect();
    let fanned = sum(grown).name("fanned");
    let caught = recover(fails().retries(1).catch()).name("caught");
    let nap = race(event::<u64>("never"), sleep(Duration::from_millis(1)));
    let large = length(large().name("large")).after(&fanned).after(&nap);
    total(fanned, caught, large, volatile(7)).name("total")
}

/// How many executions of each step are over, as far as a store knows: all of them, if its outcome is there.
pub(crate) fn over(graph: &Graph) -> BTreeMap<String, u32> {
    let mut over = BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| node.is_step) {
        let n_over = match node.state {
            Some(NodeState::Waiting | NodeState::Running | NodeState::Retrying) | None => {
                node.failed_attempts
            }
            _ => u32::MAX,
        };
        over.insert(node.id.to_string(), n_over);
    }
    over
}

/// Writes down that this execution began.
pub(crate) fn begin(ledger: &Ledger) {
    note(ledger, "begin");
}

/// Writes down that this execution is about to return.
pub(crate) fn end(ledger: &Ledger) {
    note(ledger, "end");
}

fn note(ledger: &Ledger, what: &str) {
    let context = context();
    let (run, step, attempt) = (context.run_id(), context.step_id(), context.attempt());
    ledger.write(&format!("{what} {run} {step} {attempt}"));
}

#[step]
async fn grow(n: u64, #[resource] ledger: &Ledger) -> Workflow<u64> {
    begin(ledger);
    tokio::task::yield_now().await;
    end(ledger);
    match n % 3 {
        0 => Workflow::value(3 * n),
        1 => add(flaky(n), grown_again(n)),
        _ => grown_again(n).after(&flaky(n)),
    }
}

#[step]
async fn grown_again(n: u64, #[resource] ledger: &Ledger) -> Workflow<u64> {
    begin(ledger);
    end(ledger);
    match n % 3 {
        1 => add(n, Workflow::value(n)),
        _ => add(add(n, n), n),
    }
}

#[step(retries = 2, backoff = "1ms")]
async fn flaky(n: u64, #[resource] ledger: &Ledger) -> Result<u64, String> {
    begin(ledger);
    end(ledger);
    match context().attempt() {
        1 => Err("not yet".to_owned()),
        _ => Ok(n),
    }
}

#[step]
async fn add(a: u64, b: u64, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    tokio::task::yield_now().await;
    end(ledger);
    a + b
}

#[step]
async fn sum(numbers: Vec<u64>, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    end(ledger);
    numbers.iter().sum()
}

#[step(backoff = "1ms")]
async fn fails(#[resource] ledger: &Ledger) -> Result<u64, String> {
    begin(ledger);
    end(ledger);
    Err("never".to_owned())
}

#[step]
async fn recover(result: Result<u64, StepError>, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    end(ledger);
    match result {
        Err(error) if error.attempts == 2 => 1_000,
        other => panic!("{other:?}"),
    }
}

#[step]
async fn large(#[resource] ledger: &Ledger) -> String {
    begin(ledger);
    end(ledger);
    // Another one in each run: one value would be stored once.
    let mut text = context().run_id().to_string();
    text += &"x".repeat(LARGE - text.len());
    text
}

#[step]
async fn length(text: &str, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    end(ledger);
    text.len() as u64
}

/// Its executions are not in the ledger: after a crash there may be more of them.
#[step(checkpoint = false)]
async fn volatile(n: u64) -> u64 {
    n
}

#[step]
async fn total(a: u64, b: u64, c: u64, d: u64, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    end(ledger);
    a + b + c + d
}
