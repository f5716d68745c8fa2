//! A process that is killed, over and over, while it drives runs; on every store that has a directory.

use keepstep::prelude::*;

use crate::judge::Judge;
use crate::process::{self, Killing, Place};
use crate::workflow::{OUTPUT, workflow};

/// How many runs the process drives at once.
const RUNS: usize = 20;

#[cfg(feature = "sled")]
#[test]
fn a_killed_process_loses_nothing_on_sled() {
    kill_over_and_over("sled");
}

#[cfg(feature = "redb")]
#[test]
fn a_killed_process_loses_nothing_on_redb() {
    kill_over_and_over("redb");
}

#[cfg(feature = "fjall")]
#[test]
fn a_killed_process_loses_nothing_on_fjall() {
    kill_over_and_over("fjall");
}

/// What the process does: goes on with everything there is, and says so when it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that is killed"]
async fn process() {
    let (store, ledger) = process::given();
    let builder = Engine::builder().resource(ledger.clone());
    let engine = builder.open(store).await.unwrap();
    process::begun();
    let mut handles = Vec::new();
    for n in 0..RUNS {
        let id = format!("run-{n}");
        let handle = engine.start(&id, workflow()).await.unwrap();
        ledger.write(&format!("started {id}"));
        handles.push(handle);
    }
    for handle in handles {
        assert_eq!(handle.clone().await.unwrap(), OUTPUT);
        ledger.write(&format!("successful {}", handle.id()));
    }
    engine.shutdown().await.unwrap();
    process::ended();
}

const KILLING: Killing = Killing {
    process: "killed::process",
    after_lines: 0,
    after: 0..100_000,
};

fn kill_over_and_over(backend: &str) {
    let place = Place::on(backend);
    let mut judge = Judge::of(OUTPUT);
    KILLING.over_and_over(&place, |place| judge.judge(&place.store, &place.ledger));
    KILLING.at_last(&place);
    judge.judge(&place.store, &place.ledger);
    assert_eq!(judge.successful.len(), RUNS);
    println!(
        "{} executions, {} of them in vain",
        judge.lines.len(),
        judge.n_repeated()
    );
}
