//! How fast keepstep is beside its floors: what the store, or a raw file, does with the same work in the same run on
//! the same directory. Only the ratios mean something.
//!
//! `cargo bench --bench speed`, or with a filter: `cargo bench --bench speed -- chain`. `KEEPSTEP_BENCH_DIR` names the
//! directory, `KEEPSTEP_BENCH_STORE` the backend (`sled` if it is not set). `idle-actors` runs only if it is asked for.

mod actors;
mod floors;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;

const CHAIN: u64 = 1_000;
const FAN_OUT: u64 = 100_000;
const RUNS: u64 = 10_000;
const CALLS: u64 = 1_000;
const CALLS_AT_ONCE: u64 = 100_000;
const IDLE_ACTORS: u64 = 1_000_000;
/// Every figure is the median of so many rounds, in which keepstep and its floor take turns.
const ROUNDS: usize = 5;

#[step]
async fn next(n: u64) -> u64 {
    n + 1
}

#[step]
async fn square(n: u64) -> u64 {
    n * n
}

#[step]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

fn chain(length: u64) -> Workflow<u64> {
    (1..length).fold(next(0), |last, _| next(last))
}

fn fan_out(width: u64) -> Workflow<u64> {
    sum((0..width).map(square).collect::<Vec<_>>())
}

/// Where a round keeps its files, and which backend it uses.
struct Place {
    root: PathBuf,
    backend: String,
    n: usize,
}

impl Place {
    fn fresh(&mut self) -> PathBuf {
        self.n += 1;
        let path = self.root.join(self.n.to_string());
        drop(std::fs::remove_dir_all(&path));
        path
    }

    fn url(&self, path: &std::path::Path) -> String {
        format!("{}:{}", self.backend, path.display())
    }
}

/// One line of the table.
struct Row {
    work: &'static str,
    floor: &'static str,
    aim: &'static str,
    units: u64,
    pairs: Vec<(Duration, Duration)>,
}

impl Row {
    fn print(mut self) {
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
            self.aim,
        );
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    // `cargo test --benches` only wants to know that it runs.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let wanted =
        |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let rounds = if is_test { 1 } else { ROUNDS };
    let shrink = |n: u64| if is_test { n / 100 } else { n };
    let backend = std::env::var("KEEPSTEP_BENCH_STORE").unwrap_or_else(|_| "sled".to_owned());
    let root = std::env::var_os("KEEPSTEP_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let root = root.join("speed");
    let mut place = Place {
        root: root.clone(),
        backend,
        n: 0,
    };
    println!(
        "store: {}; rates a second, medians of {rounds}; ratios: median (lowest–highest)\n",
        place.backend
    );
    println!("| work | keepstep | floor | of it | ratio | at least |\n|---|---|---|---|---|---|");
    if wanted("chain") {
        chain_rows(&mut place, rounds, shrink(CHAIN)).await?;
    }
    if wanted("fan-out") {
        fan_out_row(&mut place, rounds, shrink(FAN_OUT)).await?;
    }
    if wanted("many-runs") {
        many_runs_row(&mut place, rounds, shrink(RUNS)).await?;
    }
    if wanted("one-actor") {
        actors::one_row(&mut place, rounds, shrink(CALLS)).await?;
    }
    if wanted("thousand-actors") {
        actors::thousand_row(&mut place, rounds, shrink(CALLS_AT_ONCE)).await?;
    }
    if filter.iter().any(|name| name == "idle-actors") {
        actors::idle(&mut place, shrink(IDLE_ACTORS)).await?;
    }
    drop(std::fs::remove_dir_all(root));
    Ok(())
}

/// A chain of steps, each of which waits for the one before to be durable.
async fn chain_rows(place: &mut Place, rounds: usize, length: u64) -> anyhow::Result<()> {
    let (mut on_store, mut on_file) = (Vec::new(), Vec::new());
    // What a chain writes, recorded once outside of the measured time.
    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    let engine = Engine::builder().storage(recorded.clone()).build().await?;
    assert_eq!(engine.run("chain", chain(length)).await?, length);
    let log = recorded.log();
    for _ in 0..rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let workflow = chain(length);
        let start = Instant::now();
        assert_eq!(engine.run("chain", workflow).await?, length);
        let ours = start.elapsed();
        engine.shutdown().await?;
        let path = place.fresh();
        on_store.push((
            ours,
            floors::commits_one_by_one(&place.url(&path), &log).await?,
        ));
        on_file.push((ours, floors::appends_one_by_one(&place.fresh(), &log)?));
    }
    let units = length;
    Row {
        work: "chain",
        floor: "the store, same bytes one by one",
        aim: "0.9",
        units,
        pairs: on_store,
    }
    .print();
    Row {
        work: "chain",
        floor: "append + fdatasync, same bytes",
        aim: "0.8 (fastest store)",
        units,
        pairs: on_file,
    }
    .print();
    Ok(())
}

/// Many steps at once and one that takes all of their results.
async fn fan_out_row(place: &mut Place, rounds: usize, width: u64) -> anyhow::Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let workflow = fan_out(width);
        let start = Instant::now();
        let output = engine.run("fan-out", workflow).await?;
        let ours = start.elapsed();
        assert_eq!(output, (0..width).map(|n| n * n).sum::<u64>());
        engine.shutdown().await?;
        pairs.push((
            ours,
            floors::tasks_group_committed(&place.fresh(), width).await?,
        ));
    }
    let floor = "a task a step, group commit to a raw file";
    Row {
        work: "fan-out and gather",
        floor,
        aim: "0.3, aim 0.5",
        units: width,
        pairs,
    }
    .print();
    Ok(())
}

/// Many small runs side by side.
async fn many_runs_row(place: &mut Place, rounds: usize, n: u64) -> anyhow::Result<()> {
    async fn run_all(engine: &Engine, n: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut runs = tokio::task::JoinSet::new();
        for i in 0..n {
            let engine = engine.clone();
            runs.spawn(async move { engine.run(format!("run-{i}"), chain(3)).await });
        }
        while let Some(output) = runs.join_next().await {
            assert_eq!(output??, 3);
        }
        Ok(start.elapsed())
    }

    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    run_all(
        &Engine::builder().storage(recorded.clone()).build().await?,
        n,
    )
    .await?;
    let log = recorded.log();
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let ours = run_all(&engine, n).await?;
        engine.shutdown().await?;
        let path = place.fresh();
        pairs.push((
            ours,
            floors::commits_batched(&place.url(&path), &log).await?,
        ));
    }
    let floor = "the store, same bytes batched";
    Row {
        work: "runs of 3 steps",
        floor,
        aim: "0.3",
        units: n,
        pairs,
    }
    .print();
    Ok(())
}
