//! Disks of many sizes, on every store that has a directory. The process is this binary again, told by the environment what to
//! do. `KEEPSTEP_DISKS` says how many disks each store gets, and `KEEPSTEP_SEED` which.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::ledger;
use crate::preload::{self, say};
use crate::process::{LEDGER, ROOM, STORE};
use crate::random::Random;

/// More than anything needs.
const ENOUGH: u64 = 1 << 40;
/// A process that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(feature = "sled")]
#[test]
fn a_full_disk_stops_a_run_and_room_lets_it_go_on_on_sled() {
    fill_disks("sled");
}

#[cfg(feature = "redb")]
#[test]
fn a_full_disk_stops_a_run_and_room_lets_it_go_on_on_redb() {
    fill_disks("redb");
}

#[cfg(feature = "fjall")]
#[test]
fn a_full_disk_stops_a_run_and_room_lets_it_go_on_on_fjall() {
    fill_disks("fjall");
}

fn fill_disks(backend: &str) {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| preload::compile("tests/full_disk/quota.c"));
    let Some(library) = library.as_deref() else {
        return;
    };
    let disks = number("KEEPSTEP_DISKS", 6);
    let seed = number("KEEPSTEP_SEED", 1);
    let mut random = Random::new(seed, backend);
    let whole = Disk::new(backend, library);
    whole.run(ENOUGH, None);
    assert!(whole.judge().is_successful);
    let whole = whole.used();

    let mut n_full = 0;
    let mut n_durable = 0;
    for disk in 0..disks {
        let quota = match disk {
            // No room for anything.
            0 => 0,
            // For all, or nearly: the end of the run is what fails.
            1 => whole - 4096 * (1 + random.below(10)),
            _ => random.below(whole),
        };
        let by_itself = disk % 2 == 0;
        println!(
            "KEEPSTEP_SEED={seed} {backend}: disk {disk} of {disks}, {quota} of {whole} bytes, makes room itself: {by_itself}"
        );
        let disk = Disk::new(backend, library);
        disk.run(quota, by_itself.then_some(ENOUGH));
        if !disk.judge().is_successful {
            disk.run(ENOUGH, None);
        }
        let judged = disk.judge();
        assert!(judged.is_successful, "it did not go on");
        n_full += judged.n_full;
        n_durable += judged.n_durable;
    }
    assert!(n_full > 0, "no disk was ever full");
    assert!(n_durable > 0, "every disk was full at once");
    say(&format!(
        "full disk, {backend}: {disks} disks of up to {whole} bytes, {n_full} errors that say so; \
         {n_durable} results were durable when the disk was full, and none was worked out again"
    ));
}

/// A directory that holds a store and only so much.
struct Disk<'a> {
    dir: tempfile::TempDir,
    backend: &'a str,
    library: &'a Path,
}

/// What a ledger says.
struct Judged {
    is_successful: bool,
    n_full: usize,
    n_durable: usize,
}

impl<'a> Disk<'a> {
    fn new(backend: &'a str, library: &'a Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        Self {
            dir,
            backend,
            library,
        }
    }

    /// Without symbolic links, for the library.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Lets the process go on with so much room, and with other room later.
    fn run(&self, quota: u64, later: Option<u64>) {
        fs::write(self.path("quota"), quota.to_string()).unwrap();
        let store = self.path("disk").join("store");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "process::process", "--nocapture"])
            .env(STORE, format!("{}:{}", self.backend, store.display()))
            .env(LEDGER, self.path("ledger"))
            .env("LD_PRELOAD", self.library)
            .env("KEEPSTEP_QUOTA_OF", self.path("disk"))
            .env("KEEPSTEP_QUOTA", self.path("quota"))
            .stdout(Stdio::null());
        if let Some(later) = later {
            command.env(ROOM, later.to_string());
        }
        let mut child = command.spawn().unwrap();
        let given_up = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > given_up {
                child.kill().unwrap();
                panic!("the process hangs: {:#?}", self.lines());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "the process failed: {:#?}", self.lines());
    }

    fn lines(&self) -> Vec<String> {
        ledger::read(&self.path("ledger"))
    }

    /// How many bytes the file system gives the disk's files.
    fn used(&self) -> u64 {
        walkdir::WalkDir::new(self.path("disk"))
            .into_iter()
            .map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512)
            .sum()
    }

    /// What was durable is durable ever after, and is not worked out again.
    fn judge(&self) -> Judged {
        let lines = self.lines();
        let mut durable: BTreeSet<&str> = BTreeSet::new();
        // An opening begins with all that is durable then.
        for opening in lines.split(|line| line == "opened").skip(1) {
            let steps = |what: &'static str| {
                let with = opening
                    .iter()
                    .filter_map(move |line| line.strip_prefix(what));
                with.collect::<BTreeSet<_>>()
            };
            let now = steps("durable ");
            assert!(now.is_superset(&durable), "lost: {lines:#?}");
            let begun = steps("begin ");
            assert!(now.is_disjoint(&begun), "again: {lines:#?}");
            durable = now;
        }
        let starting = |with: &str| lines.iter().filter(|line| line.starts_with(with)).count();
        Judged {
            is_successful: starting("successful") > 0,
            n_full: starting("full "),
            n_durable: durable.len(),
        }
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    }
}
