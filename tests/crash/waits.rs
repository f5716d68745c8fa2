//! A crash after each write of a run that waits: for times, for an event, for the first of two, and for a run of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Recorded, replay};
use keepstep::storage::{Storage, memory};
use keepstep::{Clock, Filter};

use crate::ledger::Ledger;
use crate::workflow::over;

const HOUR: Duration = Duration::from_secs(3600);
const CHILD: &str = "run/child";
const OUTPUT: u64 = 5 + 40 + 300 + 2_000 + 10_000;

fn workflow() -> Workflow<u64> {
    let told = noted(event::<u64>("go"));
    let late = noted(40).after(&sleep(HOUR));
    let first = decided(race(noted(300).after(&sleep(HOUR)), event::<u64>("never")));
    let missed = counted(event::<u64>("never").timeout(2 * HOUR).catch());
    let inner = noted(10_000).after(&sleep(3 * HOUR));
    let parts = [told, late, first, missed, child(CHILD, inner)];
    sum(all(parts))
}

/// Writes down that this execution began.
fn begin(ledger: &Ledger) {
    let context = context();
    let (run, step) = (context.run_id(), context.step_id());
    ledger.write(&format!("{run} {step}"));
}

#[step]
async fn noted(number: u64, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    number
}

#[step]
async fn decided(first: Either<u64, u64>, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    first.expect_left("nobody sent the event")
}

#[step]
async fn counted(missed: Result<u64, StepError>, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    assert!(missed.is_err());
    2_000
}

#[step]
async fn sum(numbers: Vec<u64>, #[resource] ledger: &Ledger) -> u64 {
    begin(ledger);
    numbers.iter().sum()
}

async fn engine_on(store: Arc<dyn Storage>, ledger: &Ledger, clock: &Clock) -> Engine {
    let builder = Engine::builder().storage(store).seed(7);
    let builder = builder.clock(clock.clone()).resource(ledger.clone());
    builder.build().await.unwrap()
}

/// Starts the run or goes on with it, and tells it what it waits for, if need be again.
async fn drive(engine: &Engine) -> keepstep::Result<u64> {
    let run = engine.start("run", workflow()).await?;
    match engine.send_event("run", "go", &5u64).id("go").await {
        Ok(()) | Err(Error::AlreadyEnded { .. }) => {}
        Err(error) => return Err(error),
    }
    run.await
}

/// Which steps of each run a store knows the result of.
async fn done(engine: &Engine) -> BTreeMap<String, BTreeMap<String, u32>> {
    let mut done = BTreeMap::new();
    for id in ["run", CHILD] {
        if let Ok(graph) = engine.graph(id).await {
            done.insert(id.to_owned(), over(&graph));
        }
    }
    done
}

#[tokio::test(start_paused = true)]
async fn every_prefix_of_the_writes_of_waits_is_recovered_from() {
    let clock = Clock::tokio();
    let recorded = Arc::new(Recorded::new(memory()));
    let ledger = Ledger::in_memory();
    let engine = engine_on(recorded.clone(), &ledger, &clock).await;
    assert_eq!(drive(&engine).await.unwrap(), OUTPUT);
    drop(engine);
    assert_eq!(ledger.take().len(), 7);
    let log = recorded.log();
    assert!(log.len() >= 15, "{} writes", log.len());
    for writes in 0..=log.len() {
        let store = memory();
        replay(&log[..writes], &*store).await.unwrap();
        let engine = engine_on(store, &ledger, &clock).await;
        let done = done(&engine).await;
        let began = clock.now();
        let output = drive(&engine).await;
        assert_eq!(output.unwrap(), OUTPUT, "after {writes} writes");
        // No wait begins anew: what was reached before the crash is long past.
        let took = clock.now().duration_since(began).unwrap();
        assert!(took < 4 * HOUR, "{took:?} after {writes} writes");

        let mut ran = ledger.take();
        for line in &ran {
            let (run, step) = line.rsplit_once(' ').unwrap();
            let is_done = done.get(run).and_then(|steps| steps.get(step));
            assert_ne!(
                is_done,
                Some(&u32::MAX),
                "{line} again, after {writes} writes"
            );
        }
        ran.sort();
        let n_ran = ran.len();
        ran.dedup();
        assert_eq!(
            ran.len(),
            n_ran,
            "something ran twice after {writes} writes"
        );
        for id in ["run", CHILD] {
            let status = engine.status(id).await.unwrap();
            assert_eq!(status, Status::Successful, "{id} after {writes} writes");
        }
        assert_eq!(engine.list(Filter::all()).await.unwrap().runs.len(), 2);
        engine.shutdown().await.unwrap();
    }
}

/// The parent is canceled at every point of its way: its child is canceled with it, whatever crashes in between.
#[tokio::test(start_paused = true)]
async fn a_cancel_at_any_point_reaches_the_child_through_a_crash() {
    let clock = Clock::tokio();
    let ledger = Ledger::in_memory();
    let recorded = Arc::new(Recorded::new(memory()));
    let engine = engine_on(recorded.clone(), &ledger, &clock).await;
    drop(engine.start("run", workflow()).await.unwrap());
    while engine.status(CHILD).await.is_err() {
        tokio::task::yield_now().await;
    }
    engine.cancel("run").await.unwrap();
    while engine.status(CHILD).await.unwrap() != Status::Canceled {
        tokio::task::yield_now().await;
    }
    drop(engine);
    let log = recorded.log();
    for writes in 1..=log.len() {
        let store = memory();
        replay(&log[..writes], &*store).await.unwrap();
        let engine = engine_on(store, &ledger, &clock).await;
        let was_canceled = engine.status("run").await.unwrap() == Status::Canceled;
        for (_, resumed) in engine.resume_all().await.unwrap() {
            drop(resumed.unwrap());
        }
        if !was_canceled {
            engine.cancel("run").await.unwrap();
        }
        // It may never have been begun, and is not any more.
        tokio::time::sleep(HOUR / 2).await;
        match engine.status(CHILD).await {
            Ok(status) => assert_eq!(status, Status::Canceled, "after {writes} writes"),
            Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("{error} after {writes} writes"),
        }
        engine.shutdown().await.unwrap();
    }
}
