//! Workloads that a floor does too, in turns with keepstep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;

use super::floors;
use super::table::{Place, Row};
use super::work::{chain, fan_out, fib, fibonacci, steps_of_fib, sum_of_squares};

/// So many times as many rounds as of other work.
pub(super) const CHAINS_A_ROUND: usize = 5;

/// A chain of steps, each of which waits for the one before to be durable.
pub(super) async fn chain_rows(place: &mut Place, length: u64) -> anyhow::Result<()> {
    let (mut on_store, mut on_file) = (Vec::new(), Vec::new());
    // What a chain writes, recorded once outside of the measured time.
    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    let engine = Engine::builder().storage(recorded.clone()).build().await?;
    assert_eq!(engine.run("chain", chain(length)).await?, length);
    let log = recorded.log();
    for round in 0..place.rounds * CHAINS_A_ROUND {
        // A chain takes a fraction of a second, and the disk is not always as fast: who is first changes from round to round.
        let before = if round % 2 == 1 {
            let path = place.fresh();
            Some(floors::commits_one_by_one(&place.url(&path), &log).await?)
        } else {
            None
        };
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let workflow = chain(length);
        let start = Instant::now();
        assert_eq!(engine.run("chain", workflow).await?, length);
        let ours = start.elapsed();
        engine.shutdown().await?;
        let path = place.fresh();
        let floor = match before {
            Some(floor) => floor,
            None => floors::commits_one_by_one(&place.url(&path), &log).await?,
        };
        on_store.push((ours, floor));
        on_file.push((ours, floors::appends_one_by_one(&place.fresh(), &log)?));
    }
    let row = |floor, at_least, pairs| Row {
        work: "chain",
        floor,
        at_least,
        units: length,
        pairs,
    };
    row("the store, same bytes one by one", "0.9", on_store).print();
    row(
        "append + fdatasync, same bytes",
        "0.8 (fastest store)",
        on_file,
    )
    .print();
    Ok(())
}

/// Many steps at once and one that takes all of their results.
pub(super) async fn fan_out_row(place: &mut Place, width: u64) -> anyhow::Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..place.rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let workflow = fan_out(width);
        let start = Instant::now();
        let output = engine.run("fan-out", workflow).await?;
        let ours = start.elapsed();
        assert_eq!(output, sum_of_squares(width));
        engine.shutdown().await?;
        pairs.push((
            ours,
            floors::tasks_group_committed(&place.fresh(), width).await?,
        ));
    }
    Row {
        work: "fan-out and gather",
        floor: "a task a step, group commit to a raw file",
        at_least: "0.3, aim 0.5",
        units: width,
        pairs,
    }
    .print();
    Ok(())
}

/// Steps that expand into steps that expand, and sums on the way back.
pub(super) async fn fib_row(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..place.rounds {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let start = Instant::now();
        assert_eq!(engine.run("fib", fib(n)).await?, fibonacci(n));
        let ours = start.elapsed();
        engine.shutdown().await?;
        let path = place.fresh();
        pairs.push((ours, floors::fib_group_committed(&path, n).await?));
    }
    Row {
        work: "fib, a step that returns steps",
        floor: "a task a step, group commit to a raw file before what depends on it",
        at_least: "",
        units: steps_of_fib(n),
        pairs,
    }
    .print();
    Ok(())
}

/// Many small runs side by side.
pub(super) async fn many_runs_row(place: &mut Place, n: u64) -> anyhow::Result<()> {
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
    for _ in 0..place.rounds {
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
    Row {
        work: "runs of 3 steps",
        floor: "the store, same bytes batched",
        at_least: "0.3",
        units: n,
        pairs,
    }
    .print();
    Ok(())
}
