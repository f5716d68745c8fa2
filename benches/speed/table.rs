//! What is printed: rows of ratios, and rows of figures with their bars.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a round keeps its files, and which backend it uses.
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) backend: String,
    pub(super) rounds: usize,
    n: usize,
}

impl Place {
    pub(super) fn new(root: PathBuf, backend: &str, rounds: usize) -> Self {
        Self {
            root: root.join(backend),
            backend: backend.to_owned(),
            rounds,
            n: 0,
        }
    }

    /// A path at which there is nothing. What the rounds before left is left alone: giving space back to the file system
    /// would slow down whatever is synced next.
    pub(super) fn fresh(&mut self) -> PathBuf {
        self.n += 1;
        let path = self.root.join(self.n.to_string());
        drop(std::fs::remove_dir_all(&path));
        path
    }

    /// Removes what a workload left.
    pub(super) fn clear(&self) {
        drop(std::fs::remove_dir_all(&self.root));
    }

    pub(super) fn url(&self, path: &Path) -> String {
        if self.is_in_memory() {
            return "memory:".to_owned();
        }
        format!("{}:{}", self.backend, path.display())
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.backend == "memory"
    }
}

/// A workload beside a floor.
pub(super) struct Row {
    pub(super) work: &'static str,
    pub(super) floor: &'static str,
    pub(super) at_least: &'static str,
    pub(super) units: u64,
    /// What keepstep took and what the floor took, round by round.
    pub(super) pairs: Vec<(Duration, Duration)>,
}

pub(super) fn print_ratio_head() {
    println!(
        "| work | keepstep /s | floor | floor /s | ratio | at least |\n|---|---|---|---|---|---|"
    );
}

impl Row {
    pub(super) fn print(mut self) {
        let median = |times: &mut dyn Iterator<Item = Duration>| {
            let mut times: Vec<_> = times.collect();
            times.sort();
            times[times.len() / 2].as_secs_f64()
        };
        let ours = median(&mut self.pairs.iter().map(|(ours, _)| *ours));
        let floor = median(&mut self.pairs.iter().map(|(_, floor)| *floor));
        let ratio = |pair: &(Duration, Duration)| pair.1.as_secs_f64() / pair.0.as_secs_f64();
        self.pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        let rate = |seconds: f64| self.units as f64 / seconds;
        println!(
            "| {} | {:.0} | {} | {:.0} | **{:.2}** ({:.2}–{:.2}) | {} |",
            self.work,
            rate(ours),
            self.floor,
            rate(floor),
            ratio(&self.pairs[self.pairs.len() / 2]),
            ratio(&self.pairs[0]),
            ratio(&self.pairs[self.pairs.len() - 1]),
            self.at_least,
        );
    }
}

pub(super) fn print_figure_head() {
    println!("| work | what | measured | to reach |\n|---|---|---|---|");
}

pub(super) fn print_figure(work: &str, what: &str, measured: &str, to_reach: &str) {
    println!("| {work} | {what} | {measured} | {to_reach} |");
}
