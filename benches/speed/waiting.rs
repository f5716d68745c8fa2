//! Runs that wait: what they take in memory, how late they are woken, and how fast events reach them. Each in a process of
//! its own, as in `long`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use keepstep::prelude::*;
use tokio::task::JoinSet;

use super::long::{child, memory, mib, say, seconds, time};
use super::table::{Place, print_figure};

/// How many runs become due a second.
const RATE: u64 = 10_000;
/// For so many seconds.
const DUE_SECONDS: u64 = 5;
/// How many calls are under way at a time.
const CALLERS: usize = 5_000;

/// The time by which the latest run was late, in microseconds.
static LATEST: AtomicU64 = AtomicU64::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);

#[step]
async fn woken(due_at: u64) {
    let late = micros(SystemTime::now()).saturating_sub(due_at);
    LATEST.fetch_max(late, Ordering::Relaxed);
    WOKEN.fetch_add(1, Ordering::Relaxed);
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
}

/// Does `call` for each number, many at a time.
async fn for_all<F: Future<Output = keepstep::Result<()>> + Send + 'static>(
    n: u64,
    call: impl Fn(u64) -> F,
) -> anyhow::Result<()> {
    let mut calls = JoinSet::new();
    for i in 0..n {
        calls.spawn(call(i));
        if calls.len() >= CALLERS
            && let Some(done) = calls.join_next().await
        {
            done??;
        }
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(())
}

/// `n` runs sleep until they are due.
pub(super) async fn fall_asleep(
    engine: &Engine,
    n: u64,
    workflow: impl Fn() -> Workflow<()> + Copy,
) -> anyhow::Result<()> {
    let start = Instant::now();
    for_all(n, |i| {
        let (engine, workflow) = (engine.clone(), workflow());
        async move { engine.start(format!("day-{i}"), workflow).await.map(drop) }
    })
    .await?;
    say("started", seconds(start));
    // The last of them leave memory.
    while engine
        .metadata(format!("day-{}", n - 1))
        .await?
        .wake_at
        .is_none()
    {
        tokio::task::yield_now().await;
    }
    say("memory", memory("VmRSS"));
    Ok(())
}

/// A day.
pub(super) fn day() -> Workflow<()> {
    sleep(Duration::from_secs(24 * 3600))
}

/// A day after a step.
pub(super) fn step_and_day() -> Workflow<()> {
    day().after(&woken(u64::MAX))
}

/// `n` runs sleep for a day; then some more become due, so many a second.
pub(super) async fn sleep_through(engine: &Engine, n: u64) -> anyhow::Result<()> {
    fall_asleep(engine, n, day).await?;
    let n_due = (RATE * DUE_SECONDS).min(n);
    // Long enough for all of them to be stored and out of memory by then.
    let first = SystemTime::now() + Duration::from_secs(10 + n_due / 2_000);
    for_all(n_due, |i| {
        let engine = engine.clone();
        let due_at = first + Duration::from_micros(i * 1_000_000 / RATE);
        let workflow = woken(micros(due_at)).after(&sleep_until(due_at));
        async move { engine.start(format!("due-{i}"), workflow).await.map(drop) }
    })
    .await?;
    anyhow::ensure!(
        SystemTime::now() < first,
        "the machine is too slow for this"
    );
    while WOKEN.load(Ordering::Relaxed) < n_due {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say("late", LATEST.load(Ordering::Relaxed) as f64 / 1e6);
    Ok(())
}

/// `n` runs wait for an event each, which is sent to all of them.
pub(super) async fn send_events(engine: &Engine, n: u64) -> anyhow::Result<()> {
    for_all(n, |i| {
        let engine = engine.clone();
        async move {
            engine
                .start(format!("run-{i}"), event::<u64>("go"))
                .await
                .map(drop)
        }
    })
    .await?;
    let start = Instant::now();
    for_all(n, |i| {
        let engine = engine.clone();
        async move { engine.send_event(format!("run-{i}"), "go", &i).await }
    })
    .await?;
    say("sent", seconds(start));
    for_all(n, |i| {
        let engine = engine.clone();
        async move {
            let got = engine.output::<u64>(format!("run-{i}")).await?;
            assert_eq!(got, i);
            Ok(())
        }
    })
    .await?;
    say("used", seconds(start));
    Ok(())
}

pub(super) fn sleeping_rows(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let work = format!("{n} sleeping runs");
    let path = place.fresh();
    let said = child(place, &path, "sleeping", n)?;
    let row = |what: &str, measured: &str, bar: &str| print_figure(&work, what, measured, bar);
    row(
        "memory of the process",
        &mib(said["memory"]),
        "under 300 MB for a million",
    );
    row(
        "started a second",
        &format!("{:.0}", n as f64 / said["started"]),
        "",
    );
    let what = format!("most late of those due at {RATE} a second");
    row(&what, &time(said["late"]), "1 s");
    let path = place.fresh();
    let said = child(place, &path, "sleeping-after-a-step", n)?;
    row(
        "memory if each has run a step before",
        &mib(said["memory"]),
        "",
    );
    Ok(())
}

pub(super) fn event_rows(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let work = format!("an event to each of {n} runs");
    let path = place.fresh();
    let said = child(place, &path, "events", n)?;
    let rate = |name: &str| format!("{:.0}", n as f64 / said[name]);
    print_figure(&work, "durable, a second", &rate("sent"), "");
    print_figure(&work, "used by its run, a second", &rate("used"), "");
    Ok(())
}
