//! A crash after each write of a run, on one thread: what every prefix of the writes leaves is recovered from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::{Mutation, Recorded, replay};
use keepstep::storage::{Storage, memory};
use keepstep::{Clock, Filter};

use crate::ledger::Ledger;
use crate::workflow::{OUTPUT, over, workflow};

async fn engine_on(store: Arc<dyn Storage>, ledger: &Ledger, clock: &Clock) -> Engine {
    engine_with(1024, store, ledger, clock).await
}

async fn engine_with(
    steps: usize,
    store: Arc<dyn Storage>,
    ledger: &Ledger,
    clock: &Clock,
) -> Engine {
    let builder = Engine::builder().storage(store).seed(7);
    let builder = builder.clock(clock.clone()).resource(ledger.clone());
    builder.max_concurrent_steps(steps).build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_prefix_of_the_writes_is_recovered_from() {
    // Bodies that end together are written together; one at a time, each is.
    for (steps, at_least) in [(1024, 10), (2, 20), (1, 30)] {
        every_prefix(steps, at_least).await;
    }
}

async fn every_prefix(steps: usize, at_least: usize) {
    let clock = Clock::tokio();
    let recorded = Arc::new(Recorded::new(memory()));
    let ledger = Ledger::in_memory();
    let engine = engine_with(steps, recorded.clone(), &ledger, &clock).await;
    assert_eq!(engine.run("run", workflow()).await.unwrap(), OUTPUT);
    let progress = engine.metadata("run").await.unwrap().progress;
    drop(engine);
    let clean = ledger.take();
    let unique: BTreeSet<_> = clean.iter().collect();
    assert_eq!(
        unique.len(),
        clean.len(),
        "something ran twice without a crash"
    );

    let log = recorded.log();
    assert!(log.len() >= at_least, "{} writes", log.len());
    let is_blob = |write: &&Mutation| matches!(write, Mutation::PutBlob(_));
    assert_eq!(log.iter().filter(is_blob).count(), 1);
    for writes in 0..=log.len() {
        let store = memory();
        replay(&log[..writes], &*store).await.unwrap();
        let ledger = Ledger::in_memory();
        let engine = engine_on(store.clone(), &ledger, &clock).await;
        let was_there = match engine.status("run").await {
            Ok(status) => Some(status),
            Err(Error::NotFound { .. }) => None,
            Err(error) => panic!("{error} after {writes} writes"),
        };
        let over = match was_there {
            Some(_) => over(&engine.graph("run").await.unwrap()),
            None => BTreeMap::new(),
        };
        // By the id alone, if the store has it.
        let output = match was_there {
            Some(_) => engine.resume::<u64>("run").await.unwrap().await,
            None => engine.run("run", workflow()).await,
        };
        assert_eq!(output.unwrap(), OUTPUT, "after {writes} writes");
        assert_eq!(engine.status("run").await.unwrap(), Status::Successful);
        assert_eq!(
            engine.step_output::<u64>("run", "total").await.unwrap(),
            OUTPUT
        );
        let text: String = engine.step_output("run", "large").await.unwrap();
        assert!(text.len() > 65_536);

        let ran = ledger.take();
        match (writes, was_there) {
            (0, _) => assert_eq!(was_there, None),
            (_, Some(Status::Successful)) => assert!(ran.is_empty()),
            _ => {}
        }
        for line in &ran {
            let [_, _, step, attempt] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let done = over.get(step).copied().unwrap_or(0);
            let attempt: u32 = attempt.parse().unwrap();
            assert!(attempt > done, "{line} again, after {writes} writes");
        }
        let unique: BTreeSet<_> = ran.iter().collect();
        assert_eq!(
            unique.len(),
            ran.len(),
            "something ran twice after {writes} writes"
        );
        // It went the way that it goes without a crash.
        assert_eq!(engine.metadata("run").await.unwrap().progress, progress);
        assert_eq!(engine.list(Filter::all()).await.unwrap().runs.len(), 1);
        engine.shutdown().await.unwrap();
    }
}

/// A crash in the recovery from a crash: two prefixes, one of the other's continuation.
#[tokio::test(start_paused = true)]
async fn a_recovery_that_crashes_is_recovered_from() {
    let clock = Clock::tokio();
    let recorded = Arc::new(Recorded::new(memory()));
    let engine = engine_on(recorded.clone(), &Ledger::in_memory(), &clock).await;
    engine.run("run", workflow()).await.unwrap();
    drop(engine);
    let log = recorded.log();
    for first in (2..log.len()).step_by(3) {
        let again = Arc::new(Recorded::new(memory()));
        replay(&log[..first], &*again).await.unwrap();
        let engine = engine_on(again.clone(), &Ledger::in_memory(), &clock).await;
        assert_eq!(engine.run("run", workflow()).await.unwrap(), OUTPUT);
        drop(engine);
        let second = again.log();
        for writes in (first..=second.len()).step_by(2) {
            let store = memory();
            replay(&second[..writes], &*store).await.unwrap();
            let ledger = Ledger::in_memory();
            let engine = engine_on(store, &ledger, &clock).await;
            let output = engine.run("run", workflow()).await.unwrap();
            assert_eq!(output, OUTPUT, "after {first} and {writes} writes");
            let ran = ledger.take();
            let unique: BTreeSet<_> = ran.iter().collect();
            assert_eq!(unique.len(), ran.len());
            engine.shutdown().await.unwrap();
        }
    }
}
