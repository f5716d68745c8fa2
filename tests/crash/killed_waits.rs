//! A process that is killed, over and over, while its runs wait: for times, events, child runs and the first of two.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use keepstep::Filter;
use keepstep::prelude::*;

use crate::ledger::{self, Ledger};
use crate::process::{self, Killing, Place};
use crate::workflow::over;

/// How many runs wait at a time.
const RUNS: u64 = 20;

#[cfg(feature = "sled")]
#[test]
fn waits_lose_nothing_on_sled() {
    kill_over_and_over("sled");
}

#[cfg(feature = "redb")]
#[test]
fn waits_lose_nothing_on_redb() {
    kill_over_and_over("redb");
}

#[cfg(feature = "fjall")]
#[test]
fn waits_lose_nothing_on_fjall() {
    kill_over_and_over("fjall");
}

#[step]
async fn noted(number: u64, #[resource] ledger: &Ledger) -> u64 {
    let context = context();
    let (run, step, attempt) = (context.run_id(), context.step_id(), context.attempt());
    ledger.write(&format!("begin {run} {step} {attempt}"));
    number
}

#[step]
async fn sum(first: u64, second: u64, raced: Either<u64, ()>, inner: u64) -> u64 {
    first + second + raced.left().unwrap_or(0) + inner
}

/// Yields 3 and what the two events say.
fn workflow(id: &str) -> Workflow<u64> {
    let nap = |millis| sleep(Duration::from_millis(millis));
    let told = || noted(event::<u64>("told")).after(&nap(3));
    let raced = race(noted(1).after(&nap(2)), nap(60_000));
    let inner = noted(2).after(&nap(4));
    sum(told(), told(), raced, child(format!("{id}/child"), inner))
}

/// Runs without end, and writes down what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that is killed"]
async fn process() {
    let (store, ledger) = process::given();
    let builder = Engine::builder()
        .resource(ledger.clone())
        .resume_on_open(true);
    let engine = builder.open(store).await.unwrap();
    let turn = std::process::id();
    process::begun();
    let mut tasks = Vec::new();
    for n in 0..RUNS {
        let (engine, ledger) = (engine.clone(), ledger.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0u64.. {
                let id = format!("{turn}-{n}-{round}");
                let run = engine.start(&id, workflow(&id)).await.unwrap();
                ledger.write(&format!("started {id}"));
                for value in [10u64, 100] {
                    let send = || engine.send_event(&id, "told", &value).id(value.to_string());
                    send().await.unwrap();
                    ledger.write(&format!("sent {id} {value}"));
                    // Whoever is not sure sends again.
                    match send().await {
                        Ok(()) | Err(Error::AlreadyEnded { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(run.await.unwrap(), 113);
                ledger.write(&format!("successful {id}"));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn kill_over_and_over(backend: &str) {
    let killing = Killing {
        process: "killed_waits::process",
        after_lines: 10,
        after: 0..100_000,
    };
    killing.over_and_over(&Place::on(backend), |place| {
        judge(&place.store, &place.ledger);
    });
}

/// What was acknowledged is there, and everything comes to its end with what was sent, each message used once.
#[tokio::main(flavor = "current_thread")]
async fn judge(store: &str, path: &Path) {
    let before = ledger::read(path);
    let here = Ledger::append_to(path);
    let engine = Engine::builder().resource(here);
    let engine = engine.open(store).await.unwrap();
    let mut done = BTreeMap::new();
    let mut ids = Vec::new();
    let mut filter = Filter::all().limit(1_000);
    loop {
        let page = engine.list(filter).await.unwrap();
        ids.extend(page.runs.into_iter().map(|run| run.id));
        match page.next {
            Some(next) => filter = Filter::all().limit(1_000).after(next),
            None => break,
        }
    }
    for id in &ids {
        done.insert(id.clone(), over(&engine.graph(id).await.unwrap()));
    }
    let told = |line: &str| before.iter().any(|found| found == line);
    for line in &before {
        if let Some(id) = line.strip_prefix("started ") {
            assert!(ids.iter().any(|found| found == id), "{line}");
        }
        if let Some(id) = line.strip_prefix("successful ") {
            assert_eq!(engine.status(id).await.unwrap(), Status::Successful);
        }
    }
    drop(engine.resume_all().await.unwrap());
    for id in ids.iter().filter(|id| !id.ends_with("/child")) {
        for value in [10u64, 100] {
            // What was acknowledged is there; what was not may be, and is then dropped.
            if !told(&format!("sent {id} {value}")) {
                let sent = engine.send_event(id, "told", &value).id(value.to_string());
                match sent.await {
                    Ok(()) | Err(Error::AlreadyEnded { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert_eq!(engine.output::<u64>(id).await.unwrap(), 113, "{id}");
        let child = engine.status(format!("{id}/child")).await.unwrap();
        assert_eq!(child, Status::Successful, "{id}");
    }
    engine.shutdown().await.unwrap();
    // Nothing ran again whose result was durable.
    for line in &ledger::read(path)[before.len()..] {
        let ["begin", run, step, _] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let is_done = done.get(run).and_then(|steps| steps.get(step));
        assert_ne!(is_done, Some(&u32::MAX), "{line} again");
    }
}
