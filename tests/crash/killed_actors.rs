//! A process that is killed, over and over, while it calls actors in every way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use keepstep::ActorFilter;
use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ledger;
use crate::process::{self, Killing, Place};

const ACTORS: usize = 5;

/// How often each call was made.
#[derive(Serialize, Deserialize)]
struct Tally {
    made: BTreeMap<String, u32>,
}

#[virtual_actor(name = "crash/tally")]
impl Tally {
    fn new() -> Self {
        let made = BTreeMap::new();
        Self { made }
    }

    pub(crate) async fn make(&mut self, call: String) -> u32 {
        let made = self.made.entry(call).or_default();
        *made += 1;
        *made
    }

    pub(crate) async fn fork(&mut self, call: String) -> Workflow<u32> {
        let made = self.made.entry(call).or_default();
        *made += 1;
        forked(*made)
    }

    pub(crate) async fn made(&self) -> BTreeMap<String, u32> {
        self.made.clone()
    }
}

#[step]
async fn forked(made: u32) -> u32 {
    made
}

#[step]
async fn sum(all: Vec<u32>) -> u32 {
    all.iter().sum()
}

#[cfg(feature = "sled")]
#[test]
fn actors_lose_nothing_on_sled() {
    kill_over_and_over("sled");
}

#[cfg(feature = "redb")]
#[test]
fn actors_lose_nothing_on_redb() {
    kill_over_and_over("redb");
}

#[cfg(feature = "fjall")]
#[test]
fn actors_lose_nothing_on_fjall() {
    kill_over_and_over("fjall");
}

/// Calls without end, and writes down what it was told. The number of its turn is its argument.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that is killed"]
async fn process() {
    let (store, ledger) = process::given();
    let builder = Engine::builder().resume_on_open(true);
    let engine = builder.open(store).await.unwrap();
    let turn = std::process::id();
    process::begun();
    let mut tasks = Vec::new();
    for n in 0..ACTORS {
        let tally = Tally::on(&engine)
            .get_or_create(format!("tally {n}"))
            .await
            .unwrap();
        let (engine, ledger) = (engine.clone(), ledger.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0u64.. {
                let call = |what: &str| format!("{what} {turn} {n} {round}");
                let made = call("awaited");
                assert_eq!(tally.make(&made).await.unwrap(), 1);
                ledger.write(&made);
                let made = call("once");
                for _ in 0..2 {
                    assert_eq!(tally.make(&made).id(&made).await.unwrap(), 1);
                }
                ledger.write(&made);
                let made = call("sent");
                tally.make(&made).send().await.unwrap();
                ledger.write(&made);
                let made = call("planned");
                let soon = Duration::from_millis(5);
                tally
                    .make(&made)
                    .id(&made)
                    .delay(soon)
                    .send()
                    .await
                    .unwrap();
                ledger.write(&made);
                let made = call("forked");
                assert_eq!(tally.fork(&made).await.unwrap(), 1);
                ledger.write(&made);
                let made = call("steps");
                let steps: Vec<_> = (0..3)
                    .map(|step| tally.make(format!("{made} {step}")).step())
                    .collect();
                let run = engine.start(&made, sum(steps)).await.unwrap();
                ledger.write(&format!("started {made}"));
                assert_eq!(run.await.unwrap(), 3);
                ledger.write(&made);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn kill_over_and_over(backend: &str) {
    let killing = Killing {
        process: "killed_actors::process",
        after_lines: 10,
        after: 50_000..200_000,
    };
    killing.over_and_over(&Place::on(backend), |place| {
        judge(&place.store, &place.ledger);
    });
}

/// What a caller was told is there, once; and nothing is there twice.
#[tokio::main(flavor = "current_thread")]
async fn judge(store: &str, ledger: &Path) {
    let engine = Engine::builder().open(store).await.unwrap();
    let told = ledger::read(ledger);
    for (_, resumed) in engine.resume_all().await.unwrap() {
        resumed.unwrap().await.unwrap();
    }
    let tallies = Tally::on(&engine);
    let mut all = BTreeMap::new();
    for tally in tallies
        .list_actors(ActorFilter::all())
        .await
        .unwrap()
        .actors
    {
        assert_eq!(tally.type_name, "crash/tally");
        let tally = tallies.get_actor(&tally.id).await.unwrap();
        // Behind what was sent, and after what was planned.
        loop {
            tally.make("wait").await.unwrap();
            let actors = tallies
                .list_actors(ActorFilter::all())
                .await
                .unwrap()
                .actors;
            if actors.iter().all(|actor| actor.wake_at.is_none()) {
                break;
            }
        }
        let mut made = tally.made().await.unwrap();
        made.remove("wait");
        all.extend(made);
    }
    for (call, times) in &all {
        assert_eq!(*times, 1, "{call}");
    }
    for call in told {
        let steps = call.strip_prefix("started ").unwrap_or(&call);
        if steps.starts_with("steps") {
            for step in 0..3 {
                assert!(all.contains_key(&format!("{steps} {step}")), "{call}");
            }
        } else {
            assert!(all.contains_key(&call), "{call}");
        }
    }
    engine.shutdown().await.unwrap();
}
