//! A process that is killed, over and over, at moments that a seed chooses; on every store that has a directory.
//!
//! The process is this binary again, told by the environment what to do. `KEEPSTEP_KILLS` says how often each store's is
//! killed, and `KEEPSTEP_SEED` when.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keepstep::prelude::*;

use crate::judge::Judge;
use crate::ledger::Ledger;
use crate::workflow::{OUTPUT, workflow};

const STORE: &str = "KEEPSTEP_TEST_STORE";
const LEDGER: &str = "KEEPSTEP_TEST_LEDGER";

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
    let store = std::env::var(STORE).unwrap();
    let ledger = Ledger::append_to(Path::new(&std::env::var(LEDGER).unwrap()));
    let builder = Engine::builder().resource(ledger.clone());
    let engine = builder.open(store).await.unwrap();
    // From here on there is something to kill.
    println!("\nbegun");
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
    println!("\nended");
}

fn spawn(store: &str, ledger: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "killed::process", "--nocapture"])
        .env(STORE, store)
        .env(LEDGER, ledger)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    }
}

fn kill_over_and_over(backend: &str) {
    let kills = number("KEEPSTEP_KILLS", 8);
    let seed = number("KEEPSTEP_SEED", 1);
    println!("KEEPSTEP_SEED={seed} KEEPSTEP_KILLS={kills}");
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let dir = tempfile::tempdir().unwrap();
    let store = format!("{backend}:{}", dir.path().join("store").display());
    let ledger = dir.path().join("ledger");
    let mut judge = Judge::of(OUTPUT);
    for _ in 0..kills {
        let mut child = spawn(&store, &ledger);
        wait_for(&mut child, "begun");
        // When to kill is the only thing here that is about time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 100_000));
        child.kill().unwrap();
        child.wait().unwrap();
        judge.judge(&store, &ledger);
    }
    let mut child = spawn(&store, &ledger);
    wait_for(&mut child, "begun");
    wait_for(&mut child, "ended");
    assert!(child.wait().unwrap().success());
    judge.judge(&store, &ledger);
    assert_eq!(judge.successful.len(), RUNS);
    println!(
        "{} executions, {} of them in vain",
        judge.lines.len(),
        judge.n_repeated()
    );
}

/// Reads what a process says until it says this.
fn wait_for(child: &mut Child, what: &str) {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim_end() != what {
        line.clear();
        let length = stdout.read_line(&mut line).unwrap();
        assert!(length > 0, "the process ended before it said {what:?}");
    }
    assert!(stdout.buffer().is_empty() || what != "ended");
    child.stdout = Some(stdout.into_inner());
}
