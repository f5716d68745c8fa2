//! How many small runs a second three worker processes do, which share one PostgreSQL server on this machine with the process that
//! submits them and waits for them.
//!
//! `cargo bench --bench cluster --features postgres` starts a server of its own, which syncs, or uses the one that
//! `KEEPSTEP_TEST_POSTGRES` names. `KEEPSTEP_BENCH_SECONDS` says for how long runs are submitted (30), `KEEPSTEP_BENCH_RATE` how
//! many a second (1000). It prints how many ended in each second, and how long a run took from its submission to its output.

#[path = "../workflow-storage/tests/server/mod.rs"]
mod server;
#[allow(dead_code, reason = "it is shared with another benchmark")]
#[path = "speed/table.rs"]
mod table;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keepstep::prelude::*;
use tokio::task::JoinSet;

const URL: &str = "KEEPSTEP_BENCH_WORKER";
const WORKERS: usize = 3;
/// The bar: so many runs a second.
const AT_LEAST: u64 = 1_000;
/// How often runs are submitted.
const BEAT: Duration = Duration::from_millis(10);

#[step]
async fn next(n: u64) -> u64 {
    n + 1
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let Ok(url) = std::env::var(URL) {
        return work(&url).await;
    }
    let is_test = std::env::args().any(|arg| arg == "--test");
    let rate = number("KEEPSTEP_BENCH_RATE", AT_LEAST)?;
    let seconds = number("KEEPSTEP_BENCH_SECONDS", if is_test { 1 } else { 30 })?;
    let given = std::env::var("KEEPSTEP_TEST_POSTGRES").ok();
    let own = match &given {
        Some(_) => None,
        None => server::Server::start("-c fsync=on -c shared_buffers=512MB -c max_wal_size=8GB"),
    };
    let Some(url) = given.or_else(|| own.as_ref().map(server::Server::url)) else {
        println!("SKIPPED: no PostgreSQL server");
        return Ok(());
    };
    let mark = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{mark}schema=cluster_{}", std::process::id());

    let engine = Engine::builder().worker(false).open(&url).await?;
    let _workers = (0..WORKERS)
        .map(|_| Worker::spawn(&url))
        .collect::<anyhow::Result<Vec<_>>>()?;
    submit(&engine, rate, seconds).await?;
    engine.shutdown().await?;
    Ok(())
}

fn number(variable: &str, otherwise: u64) -> anyhow::Result<u64> {
    Ok(match std::env::var(variable) {
        Ok(text) => text.parse()?,
        Err(_) => otherwise,
    })
}

/// A worker process, which ends with this one.
struct Worker(Child);

impl Worker {
    fn spawn(url: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = &mut child.stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        anyhow::ensure!(line == "works\n", "a worker could not begin");
        Ok(Self(child))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn work(url: &str) -> anyhow::Result<()> {
    let engine = Engine::open(url).await?;
    println!("works");
    // Until the process that submits ends, however it does.
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    engine.shutdown().await?;
    Ok(())
}

/// Submits runs of three steps at a steady rate, and waits for all of them.
async fn submit(engine: &Engine, rate: u64, seconds: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut waiting = JoinSet::new();
    let mut beats = tokio::time::interval(BEAT);
    let n = rate * seconds;
    let mut submitted = 0;
    while submitted < n {
        beats.tick().await;
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        while submitted < due.min(n) {
            let (engine, id) = (engine.clone(), format!("run-{submitted}"));
            waiting.spawn(async move {
                let from = Instant::now();
                let output = engine.run(id, next(next(next(0)))).await?;
                anyhow::ensure!(output == 3, "a run gave {output}");
                anyhow::Ok((start.elapsed(), from.elapsed()))
            });
            submitted += 1;
        }
    }
    let mut ended = Vec::new();
    while let Some(run) = waiting.join_next().await {
        ended.push(run??);
    }
    let last = ended.iter().map(|(at, _)| *at).max().unwrap_or_default();
    let mut each: Vec<usize> = (0..seconds)
        .map(|second| {
            let of = |(at, _): &&(Duration, Duration)| at.as_secs() == second;
            ended.iter().filter(of).count()
        })
        .collect();
    let mut took: Vec<Duration> = ended.iter().map(|(_, took)| *took).collect();
    took.sort_unstable();
    // The first second is the one in which the first runs begin.
    each.remove(0);
    each.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    table::print_figure_head();
    let work = format!("{n} runs of 3 steps, {rate} submitted a second, {WORKERS} workers");
    let per_second = n as f64 / last.as_secs_f64();
    table::print_figure(
        &work,
        "runs a second, to the last output",
        &format!("{per_second:.0}"),
        &AT_LEAST.to_string(),
    );
    if let (Some(worst), Some(median)) = (each.first(), each.get(each.len() / 2)) {
        table::print_figure(
            &work,
            "ended in a second, median (worst)",
            &format!("{median} ({worst})"),
            "",
        );
    }
    let latency = format!("{:.0}, {:.0}, {:.0} ms", at(0.5), at(0.99), at(1.0));
    table::print_figure(
        &work,
        "from submission to output: median, 99 %, longest",
        &latency,
        "",
    );
    Ok(())
}
