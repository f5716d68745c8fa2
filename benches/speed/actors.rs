//! Actors: one that is called again and again, a thousand at once, and a million that do nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;
use serde::{Deserialize, Serialize};

use super::floors;
use super::table::{Place, Row};

/// How many actors are called at once.
const AT_ONCE: u64 = 1_000;
/// How many callers make a million actors.
const CALLERS: u64 = 1_000;

#[derive(Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[virtual_actor]
impl Counter {
    fn new() -> Self {
        Counter { count: 0 }
    }

    pub(super) async fn incr(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

/// One actor; each call waits for the one before to be durable.
async fn one_by_one(engine: &Engine, n: u64) -> anyhow::Result<Duration> {
    let counter = Counter::on(engine).get_or_create("counter").await?;
    let start = Instant::now();
    for count in 1..=n {
        assert_eq!(counter.incr().await?, count);
    }
    Ok(start.elapsed())
}

/// A thousand actors, each of which is called again and again.
async fn at_once(engine: &Engine, calls: u64) -> anyhow::Result<Duration> {
    let mut counters = Vec::new();
    for n in 0..AT_ONCE {
        counters.push(
            Counter::on(engine)
                .get_or_create(format!("counter {n}"))
                .await?,
        );
    }
    let each = calls / AT_ONCE;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for counter in counters {
        tasks.spawn(async move {
            for _ in 0..each {
                counter.incr().await?;
            }
            counter.incr().await
        });
    }
    while let Some(count) = tasks.join_next().await {
        assert_eq!(count??, each + 1);
    }
    Ok(start.elapsed())
}

pub(super) async fn one_row(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    one_by_one(
        &Engine::builder().storage(recorded.clone()).build().await?,
        n,
    )
    .await?;
    let log = recorded.log();
    let (mut on_store, mut on_file) = (Vec::new(), Vec::new());
    for _ in 0..place.rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let ours = one_by_one(&engine, n).await?;
        engine.shutdown().await?;
        let path = place.fresh();
        let url = place.url(&path);
        on_store.push((ours, floors::commits_one_by_one(&url, &log).await?));
        on_file.push((ours, floors::values_one_by_one(&place.fresh(), &log)?));
    }
    for (floor, at_least, pairs) in [
        ("the store, same bytes one by one", "", on_store),
        ("append + fdatasync, same bytes", "", on_file),
    ] {
        Row {
            work: "increments of one actor",
            floor,
            at_least,
            units: n,
            pairs,
        }
        .print();
    }
    Ok(())
}

pub(super) async fn thousand_row(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    let engine = Engine::builder().storage(recorded.clone()).build().await?;
    at_once(&engine, n).await?;
    let log = recorded.log();
    let (mut on_store, mut on_file) = (Vec::new(), Vec::new());
    for _ in 0..place.rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let ours = at_once(&engine, n).await?;
        engine.shutdown().await?;
        let path = place.fresh();
        on_store.push((
            ours,
            floors::commits_batched(&place.url(&path), &log).await?,
        ));
        let floor = floors::tasks_group_committed(&place.fresh(), n).await?;
        on_file.push((ours, floor));
    }
    for (floor, pairs) in [
        ("the store, same writes batched", on_store),
        ("a task a call, group commit to a raw file", on_file),
    ] {
        Row {
            work: "increments of 1,000 actors at once",
            floor,
            at_least: "",
            units: n,
            pairs,
        }
        .print();
    }
    Ok(())
}

/// What actors cost that do nothing: the memory of the process, and the time to open their store and to wake one of them.
pub(super) async fn idle(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let path = place.fresh();
    let url = place.url(&path);
    let engine = Engine::open(&url).await?;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let counters = Counter::on(&engine);
        tasks.spawn(async move {
            for n in (caller..n).step_by(CALLERS as usize) {
                counters.get_or_create(format!("counter {n}")).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(made) = tasks.join_next().await {
        made??;
    }
    let made = start.elapsed();
    engine.shutdown().await?;
    drop(engine);
    println!(
        "\n{n} idle actors: made at {:.0} a second",
        n as f64 / made.as_secs_f64()
    );
    // In a process of its own the figures are of actors alone; what making them left behind is not given back.
    let before = resident();
    let start = Instant::now();
    let engine = Engine::open(&url).await?;
    let opened = start.elapsed();
    let mut waking = Vec::new();
    for i in 0..1_000 {
        let id = format!("counter {}", i * 7_919 % n);
        let start = Instant::now();
        assert_eq!(Counter::on(&engine).get_actor(id).await?.incr().await?, 1);
        waking.push(start.elapsed());
    }
    waking.sort();
    let after = resident();
    println!(
        "  opened in {opened:?}; the first call of an idle one takes {:?} (median; 99 of 100 within {:?})",
        waking[waking.len() / 2],
        waking[waking.len() * 99 / 100]
    );
    if let (Some(before), Some(after)) = (before, after) {
        println!(
            "  resident memory: {before} MB before opening, {after} MB after opening and 1,000 calls"
        );
    }
    engine.shutdown().await?;
    Ok(())
}

/// The resident memory of this process in MB, where the system says it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}
