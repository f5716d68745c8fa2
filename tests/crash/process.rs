//! A process that is killed, over and over, at moments that a seed chooses. It is this binary again, told by the environment what to
//! do.
//!
//! `KEEPSTEP_KILLS` says how often each store's is killed, and `KEEPSTEP_SEED` when.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::ledger::{self, Ledger};

const STORE: &str = "KEEPSTEP_TEST_STORE";
const LEDGER: &str = "KEEPSTEP_TEST_LEDGER";

/// What a process that was killed leaves to the next one.
pub(crate) struct Place {
    /// What opens the store.
    pub(crate) store: String,
    /// The file of the ledger.
    pub(crate) ledger: PathBuf,
    _dir: TempDir,
}

impl Place {
    pub(crate) fn on(backend: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: format!("{backend}:{}", dir.path().join("store").display()),
            ledger: dir.path().join("ledger"),
            _dir: dir,
        }
    }
}

/// In the process: its store, and its ledger.
pub(crate) fn given() -> (String, Ledger) {
    let ledger = std::env::var(LEDGER).unwrap();
    let store = std::env::var(STORE).unwrap();
    (store, Ledger::append_to(Path::new(&ledger)))
}

/// In the process: from here on there is something to kill.
pub(crate) fn begun() {
    println!("\n{BEGUN}");
}

/// In the process: there is nothing left to do.
pub(crate) fn ended() {
    println!("\n{ENDED}");
}

const BEGUN: &str = "begun";
const ENDED: &str = "ended";

/// Which process is killed, and when.
pub(crate) struct Killing {
    /// The test that is the process.
    pub(crate) process: &'static str,
    /// How many lines it writes into its ledger first: however slow the machine is, there is something to lose.
    pub(crate) after_lines: usize,
    /// How long after that it is killed, in microseconds.
    pub(crate) after: Range<u64>,
}

impl Killing {
    /// Kills the process at one moment after the other, and has judged what each leaves.
    pub(crate) fn over_and_over(&self, place: &Place, mut judge: impl FnMut(&Place)) {
        let kills = number("KEEPSTEP_KILLS", 8);
        let seed = number("KEEPSTEP_SEED", 1);
        println!("KEEPSTEP_SEED={seed} KEEPSTEP_KILLS={kills}");
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for _ in 0..kills {
            let told = ledger::read(&place.ledger).len();
            let mut process = self.spawn(place);
            process.wait_for(BEGUN);
            while ledger::read(&place.ledger).len() < told + self.after_lines {
                let status = process.child.try_wait().unwrap();
                assert!(status.is_none(), "the process ended");
                std::thread::sleep(Duration::from_millis(2));
            }
            // When to kill is the only thing here that is about time.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let within = self.after.end - self.after.start;
            let after = self.after.start + random % within;
            std::thread::sleep(Duration::from_micros(after));
            process.child.kill().unwrap();
            process.child.wait().unwrap();
            judge(place);
        }
    }

    /// Lets the process come to its end.
    pub(crate) fn at_last(&self, place: &Place) {
        let mut process = self.spawn(place);
        process.wait_for(BEGUN);
        process.wait_for(ENDED);
        assert!(process.child.wait().unwrap().success());
    }

    fn spawn(&self, place: &Place) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", self.process, "--nocapture"])
            .env(STORE, &place.store)
            .env(LEDGER, &place.ledger)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Process { child, says }
    }
}

struct Process {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Process {
    /// Reads what it says until it says this.
    fn wait_for(&mut self, what: &str) {
        let mut line = String::new();
        while line.trim_end() != what {
            line.clear();
            let length = self.says.read_line(&mut line).unwrap();
            assert!(length > 0, "the process ended before it said {what:?}");
        }
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    }
}
