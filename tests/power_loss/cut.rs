//! Cutting a process's power, over and over, at moments that a seed chooses.
//!
//! The process is this binary again, told by the environment what to do. `KEEPSTEP_CUTS` says how often each store's power
//! is cut in each mode, and `KEEPSTEP_SEED` when.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keepstep::prelude::*;

use crate::disk::{Disk, Tree, Unsynced};
use crate::judge::Judge;
use crate::ledger::Ledger;
use crate::preload::say;
use crate::random::Random;
use crate::shim;

const STORE: &str = "KEEPSTEP_TEST_STORE";
const LEDGER: &str = "KEEPSTEP_TEST_LEDGER";

/// A process that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const SIGKILL: i32 = 9;

/// What a process does whose power is cut.
#[derive(Debug)]
pub(crate) struct Work {
    /// What it is called where it is told of.
    pub(crate) name: &'static str,
    /// The test that is the process.
    pub(crate) process: &'static str,
    /// How many runs it has to finish, and what each of them yields.
    pub(crate) runs: usize,
    pub(crate) output: u64,
    /// About how many syncs it takes: the power is cut in one of them.
    pub(crate) syncs: u64,
    /// Looks at more of a copy of the store than at its runs.
    pub(crate) look: Option<fn(&str, &Path)>,
}

/// Where the process works: the ledger, and an engine on the store.
pub(crate) async fn place() -> (Ledger, Engine) {
    let store = std::env::var(STORE).unwrap();
    let ledger = Ledger::append_to(Path::new(&std::env::var(LEDGER).unwrap()));
    let builder = Engine::builder().resource(ledger.clone());
    (ledger, builder.open(store).await.unwrap())
}

/// When the power is cut.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Instead of the sync of this number: with all the writes before it, and none of them synced.
    Sync(u64),
    /// So long after the first sync.
    Time(Duration),
    /// When the process is done.
    End,
}

impl Moment {
    fn choose(cut: u64, syncs: u64, random: &mut Random) -> Self {
        match cut {
            // While the store is made.
            0 => Self::Sync(1 + random.below(8)),
            // A store that hardly ever syncs must not get away with it.
            _ if cut % 2 == 1 => Self::Time(Duration::from_micros(random.below(1_500 * syncs))),
            _ => Self::Sync(1 + random.below(syncs)),
        }
    }
}

/// A disk with a store on it.
struct Machine<'a> {
    work: &'a Work,
    dir: tempfile::TempDir,
    backend: &'a str,
    library: &'a Path,
    judge: Judge,
}

impl<'a> Machine<'a> {
    fn new(work: &'a Work, backend: &'a str, library: &'a Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        Self {
            work,
            dir,
            backend,
            library,
            judge: Judge::of(work.output),
        }
    }

    /// Without symbolic links, for the shim.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn url(&self, disk: &str) -> String {
        let store = self.path(disk).join("store");
        format!("{}:{}", self.backend, store.display())
    }

    /// Lets the process go on until the power is cut; says how many syncs there were.
    fn run(&mut self, moment: Moment, unsynced: Unsynced, random: &mut Random) -> usize {
        let (disk, log) = (self.path("disk"), self.path("log"));
        let mut durable = Disk::read(&disk);
        let _ = fs::remove_file(&log);
        let mut child = self.spawn(moment);
        if let Moment::Time(time) = moment {
            let is_begun = || fs::metadata(&log).is_ok_and(|log| log.len() > 0);
            wait(|| (is_begun() || child.try_wait().unwrap().is_some()).then_some(()));
            // When to cut is the only thing here that is about time.
            std::thread::sleep(time);
            child.kill().unwrap();
        }
        let status = wait(|| child.try_wait().unwrap());
        let is_cut = status.signal() == Some(SIGKILL) && !matches!(moment, Moment::End);
        assert!(is_cut || status.success(), "the process failed: {status}");

        let syncs = shim::replay(&fs::read(&log).unwrap(), &mut durable);
        let seen = Disk::read(&disk);
        let after = Tree::after_cut(&disk, &durable, &seen, unsynced, random);
        after.write(&disk);
        // The judge opens a copy, so that the power can be cut while the store itself recovers.
        after.write(&self.path("judged"));
        self.judge.judge(&self.url("judged"), &self.path("ledger"));
        if let Some(look) = self.work.look {
            look(&self.url("judged"), &self.path("judged"));
        }
        syncs
    }

    fn spawn(&self, moment: Moment) -> Child {
        let cut = match moment {
            Moment::Sync(n) => n,
            Moment::Time(_) | Moment::End => 0,
        };
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", self.work.process, "--nocapture"])
            .env(STORE, self.url("disk"))
            .env(LEDGER, self.path("ledger"))
            .env("LD_PRELOAD", self.library)
            .env("KEEPSTEP_SHADOW_OF", self.path("disk"))
            .env("KEEPSTEP_SHADOW", self.path("log"))
            .env("KEEPSTEP_SHADOW_CUT", cut.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// Asks again and again, but not forever.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let given_up = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < given_up, "the process hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    }
}

pub(crate) fn cut_over_and_over(work: &Work, backend: &str, unsynced: Unsynced) {
    let Some(library) = shim::library() else {
        return;
    };
    let cuts = number("KEEPSTEP_CUTS", 4);
    let seed = number("KEEPSTEP_SEED", 1);
    let told = format!("{} on {backend}, unsynced {unsynced:?}", work.name);
    let mut random = Random::new(seed, &told);
    let mut machine = Machine::new(work, backend, library);
    let (mut n_on_disk, mut n_syncs, mut n_disks, mut n_repeated) = (0, 0, 1, 0);
    for cut in 0..cuts {
        let moment = Moment::choose(n_on_disk, work.syncs, &mut random);
        println!("KEEPSTEP_SEED={seed} {told}: cut {cut} of {cuts}, {moment:?}");
        n_syncs += machine.run(moment, unsynced, &mut random);
        n_on_disk += 1;
        if machine.judge.successful.len() == work.runs && cut + 1 < cuts {
            n_repeated += machine.judge.n_repeated();
            machine = Machine::new(work, backend, library);
            (n_on_disk, n_disks) = (0, n_disks + 1);
        }
    }
    println!("KEEPSTEP_SEED={seed} {told}: the end");
    n_syncs += machine.run(Moment::End, unsynced, &mut random);
    assert_eq!(machine.judge.successful.len(), work.runs);
    n_repeated += machine.judge.n_repeated();
    assert!(n_syncs > 20, "only {n_syncs} syncs were seen");
    say(&format!(
        "power loss, {told}: {cuts} cuts of {n_disks} stores in {n_syncs} syncs; {n_repeated} executions in vain, nothing lost"
    ));
}
