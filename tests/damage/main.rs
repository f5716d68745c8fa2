//! Damage: every file of a store is changed in every way that disks and people change files. What comes of it is an error
//! that says what is wrong, or correct runs; no panic, no hang, and no step that runs again because its record vanished.
//!
//! sled and fjall drop whole commits at the end of a damaged file without a word, and then a run goes on from an earlier
//! state. Those cases are counted and printed. redb has none.
//!
//! `KEEPSTEP_DAMAGES` says how many changes at random places are made beyond one of each kind to each file, and
//! `KEEPSTEP_SEED` which.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../crash/ledger.rs"]
#[expect(dead_code, reason = "the crash tests use another part of it")]
mod ledger;
mod process;
#[path = "../power_loss/random.rs"]
#[expect(dead_code, reason = "the power-loss tests use another part of it")]
mod random;
mod store;
#[path = "../crash/workflow.rs"]
mod workflow;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use keepstep::prelude::*;

use crate::process::{End, IDS, Role, expected};
use crate::random::Random;
use crate::store::{Change, Store};
use crate::workflow::over;

#[cfg(feature = "sled")]
#[test]
fn damage_is_said_or_does_no_harm_on_sled() {
    damage_over_and_over("sled");
}

#[cfg(feature = "redb")]
#[test]
fn damage_is_said_or_does_no_harm_on_redb() {
    let quiet = damage_over_and_over("redb");
    assert_eq!(quiet, 0, "redb says all damage");
}

#[cfg(feature = "fjall")]
#[test]
fn damage_is_said_or_does_no_harm_on_fjall() {
    damage_over_and_over("fjall");
}

/// What came of a store that was damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Every run is what it was, and goes on to the right end.
    Unharmed,
    /// Whatever is not so was said.
    Said,
    /// Some run is as it was earlier, or gone, and nobody said so.
    Quiet,
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    }
}

/// Says how often a run was as it had been earlier, or gone, and nobody said so.
fn damage_over_and_over(backend: &str) -> usize {
    let seed = number("KEEPSTEP_SEED", 1);
    let mut random = Random::new(seed, backend);
    let mut counts: BTreeMap<(End, Verdict), usize> = BTreeMap::new();
    let mut quiet = BTreeMap::new();
    for end in [End::Closed, End::Killed] {
        let bench = Bench::new(backend, end);
        assert_eq!(bench.judge("nothing", &bench.store), Ok(Verdict::Unharmed));
        let changes = bench.changes(end, &mut random);
        let rest = Mutex::new((changes.into_iter(), &mut random));
        let judged = Mutex::new(Vec::new());
        let wrong = Mutex::new(Vec::new());
        let judge = || {
            // Which change comes next, and where, is decided by the seed and not by the threads.
            let next = || {
                let (changes, random) = &mut *rest.lock().unwrap();
                changes.find_map(|(file, kind)| {
                    let mut store = bench.store.clone();
                    let what = store.change(&file, kind, random)?;
                    Some((file, kind, what, store))
                })
            };
            while let Some((file, kind, what, store)) = next() {
                let what = format!("{backend}, {end:?}, {}: {what}", file.display());
                match bench.judge(&what, &store) {
                    Ok(verdict) => {
                        println!("KEEPSTEP_SEED={seed} {what}: {verdict:?}");
                        judged.lock().unwrap().push((file, kind, verdict));
                    }
                    Err(error) => {
                        let error = format!("KEEPSTEP_SEED={seed} {what}: {error}");
                        wrong.lock().unwrap().push(error);
                    }
                }
            }
        };
        // The processes mostly wait for each other's threads to end.
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(judge);
            }
        });
        // Said last, so that it is found.
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for (file, kind, verdict) in judged.into_inner().unwrap() {
            *counts.entry((end, verdict)).or_default() += 1;
            if verdict == Verdict::Quiet {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                *quiet.entry((name, kind)).or_insert(0) += 1;
            }
        }
    }
    let n_quiet = quiet.values().sum();
    say(&format!("damage, {backend}: {counts:?}; quiet: {quiet:?}"));
    n_quiet
}

/// Says something although the test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A store to damage copies of.
struct Bench {
    backend: String,
    store: Store,
    /// Of each run, how many executions of each step are over.
    over: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Bench {
    fn new(backend: &str, end: End) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let url = format!("{backend}:{}", path.display());
        process::run(Role::Build(end), &url, dir.path()).unwrap();
        let store = Store::read(&path);
        let over = all_over(&url);
        Self {
            backend: backend.to_owned(),
            store,
            over,
        }
    }

    /// Every kind of change to every file, and more at random.
    fn changes(&self, end: End, random: &mut Random) -> Vec<(PathBuf, Change)> {
        let files = &self.store.files;
        let once = files.keys().flat_map(|file| {
            let kinds = Change::KINDS.iter();
            kinds.map(move |kind| (file.clone(), *kind))
        });
        // The other files are the same after a kill.
        let is_new = |file: &PathBuf| end == End::Closed || file.starts_with("map-1");
        let mut changes: Vec<_> = once.filter(|(file, _)| is_new(file)).collect();
        // Most of what can be lost is in the files of the map.
        let has_bytes = |file: &PathBuf| files[file].iter().any(|byte| *byte != 0);
        let maps = files.keys().filter(|file| file.starts_with("map-1"));
        let maps: Vec<_> = maps.filter(|file| has_bytes(file)).collect();
        for _ in 0..number("KEEPSTEP_DAMAGES", 15) {
            let file = maps[random.below(maps.len() as u64) as usize];
            let kind = random.below(Change::KINDS.len() as u64) as usize;
            changes.push((file.clone(), Change::KINDS[kind]));
        }
        changes
    }

    /// What comes of a store; an error if that must not be.
    fn judge(&self, what: &str, store: &Store) -> Result<Verdict, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        store.write(&path);
        let url = format!("{}:{}", self.backend, path.display());
        let report = process::run(Role::Use, &url, dir.path())?;
        println!("{what}\n    {}", report.join("\n    "));

        let begun = ledger::read(&dir.path().join("ledger"));
        let again: BTreeSet<_> = begun
            .iter()
            .filter_map(|line| self.is_again(line))
            .collect();
        let mut verdict = Verdict::Unharmed;
        for line in &report {
            match line.split_once(' ').unwrap() {
                ("error", _) => verdict = verdict.max(Verdict::Said),
                // Of a thread of the backend; the callers were told, or do not need to know.
                ("panic", at) => {
                    let backends = ["/sled-", "/redb-", "/fjall-", "/lsm-tree-"];
                    if !backends.iter().any(|name| at.contains(name)) {
                        return Err(format!("a panic that is not the backend's: {at}"));
                    }
                }
                ("run", _) => {}
                _ => return Err(line.clone()),
            }
        }
        for id in IDS {
            let right = expected(id);
            let mut said = report.iter().filter(|line| {
                // What is said of the store is said of all its runs.
                line.starts_with("error store ") || line.starts_with(&format!("error {id} "))
            });
            let prefix = format!("run {id} ");
            let found = report.iter().find_map(|line| line.strip_prefix(&prefix));
            let is_right = found == Some(right.as_str());
            if let Some(found) = found {
                let is_earlier = found == "missing" || found.ends_with(&right[10..]);
                if !is_right && !is_earlier {
                    return Err(format!("run {id} is {found}, and was {right}"));
                }
            }
            if again.contains(id) || (!is_right && said.next().is_none()) {
                verdict = Verdict::Quiet;
            }
        }
        Ok(verdict)
    }

    /// The run, if it is one whose step this line says was executed although its outcome was durable.
    fn is_again(&self, line: &str) -> Option<&str> {
        let ["begin", run, step, attempt] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (run, over) = self.over.get_key_value(run).unwrap();
        let over = over.get(step).copied().unwrap_or(0);
        (attempt.parse::<u32>().unwrap() <= over).then_some(run)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn all_over(url: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let engine = Engine::open(url).await.unwrap();
    let mut all = BTreeMap::new();
    for id in IDS {
        let graph = engine.graph(id).await.unwrap();
        all.insert((*id).to_owned(), over(&graph));
    }
    engine.shutdown().await.unwrap();
    all
}

fn read_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
