//! Runs that do everything there is to do, of a process whose power is cut; on every store that has a directory.

use crate::cut::{Work, cut_over_and_over, place};
use crate::disk::Unsynced;
use crate::workflow::{OUTPUT, workflow};

/// How many runs the process drives at once.
const RUNS: usize = 6;

const WORK: Work = Work {
    name: "runs",
    process: "runs::process",
    runs: RUNS,
    output: OUTPUT,
    syncs: 40,
    look: None,
};

#[cfg(feature = "sled")]
#[test]
fn what_is_durable_survives_power_cuts_on_sled() {
    cut_over_and_over(&WORK, "sled", Unsynced::Lost);
}

#[cfg(feature = "sled")]
#[test]
fn what_is_durable_survives_torn_writes_on_sled() {
    cut_over_and_over(&WORK, "sled", Unsynced::Mixed);
}

#[cfg(feature = "redb")]
#[test]
fn what_is_durable_survives_power_cuts_on_redb() {
    cut_over_and_over(&WORK, "redb", Unsynced::Lost);
}

#[cfg(feature = "redb")]
#[test]
fn what_is_durable_survives_torn_writes_on_redb() {
    cut_over_and_over(&WORK, "redb", Unsynced::Mixed);
}

#[cfg(feature = "fjall")]
#[test]
fn what_is_durable_survives_power_cuts_on_fjall() {
    cut_over_and_over(&WORK, "fjall", Unsynced::Lost);
}

#[cfg(feature = "fjall")]
#[test]
fn what_is_durable_survives_torn_writes_on_fjall() {
    cut_over_and_over(&WORK, "fjall", Unsynced::Mixed);
}

/// What the process does: goes on with everything there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process whose power is cut"]
async fn process() {
    let (ledger, engine) = place().await;
    let mut handles = Vec::new();
    for n in 0..RUNS {
        let id = format!("run-{n}");
        let handle = engine.start(&id, workflow()).await.unwrap();
        ledger.write(&format!("started {id}"));
        handles.push(handle);
    }
    // Compactions and sweeps are cut short too.
    engine.maintain().await.unwrap();
    for handle in handles {
        assert_eq!(handle.clone().await.unwrap(), OUTPUT);
        ledger.write(&format!("successful {}", handle.id()));
    }
    engine.shutdown().await.unwrap();
}
