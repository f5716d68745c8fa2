//! Workloads that are measured for what they take in time, memory and disk, each in a process of its own: what one
//! leaves in memory is not the next one's, and one can be killed.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use keepstep::prelude::*;

use super::table::{Place, print_figure};
use super::waiting;
use super::work::{EXECUTED, FIRST, chain, count_down, fan_out, sum_of_squares};

const RUN: &str = "long";
/// At how many points of a loop its memory and disk are looked at.
const POINTS: u64 = 5;

/// What a process says of itself.
pub(super) type Said = HashMap<String, f64>;

/// Runs this program as `child` with the store at `path`, and collects what it says.
pub(super) fn child(place: &Place, path: &Path, child: &str, n: u64) -> anyhow::Result<Said> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--child", child, &place.url(path), &n.to_string()])
        .env("KEEPSTEP_BENCH_PATH", path)
        .stderr(Stdio::inherit())
        .output()?;
    let is_killed = child.ends_with("-killed");
    anyhow::ensure!(
        output.status.success() != is_killed,
        "{child} ended with {}",
        output.status
    );
    let said = String::from_utf8(output.stdout)?;
    let figures = said.lines().filter_map(|line| line.split_once(' '));
    figures
        .map(|(name, figure)| Ok((name.to_owned(), figure.parse()?)))
        .collect()
}

pub(super) fn say(name: &str, figure: f64) {
    println!("{name} {figure}");
}

/// What a child process does.
pub(super) async fn be_child(args: &[String]) -> anyhow::Result<()> {
    let [child, url, n] = args else {
        anyhow::bail!("a child has a name, a store and a number");
    };
    let n: u64 = n.parse()?;
    let start = Instant::now();
    let engine = Engine::open(url).await?;
    say("open", seconds(start));
    match &**child {
        "fan-out" => {
            let start = Instant::now();
            let output = engine.run(RUN, fan_out(n)).await?;
            say("ran", seconds(start));
            assert_eq!(output, sum_of_squares(n));
        }
        "fan-out-killed" => {
            let handle = engine.start(RUN, fan_out(n)).await?;
            let mut progress = handle.progress();
            while let Some(progress) = progress.next().await {
                if progress.done >= n / 100 * 98 {
                    std::process::abort();
                }
            }
        }
        "loop-killed" => {
            LOOP.get_or_init(|| n);
            engine.run(RUN, count_down(n)).await?;
        }
        "resume" => {
            let handle = engine.resume::<u64>(RUN).await?;
            say("resumed", seconds(start));
            handle.await?;
            say("ended", seconds(start));
            if let Some(first) = FIRST.get() {
                say("first", (*first - start).as_secs_f64());
            }
            say("again", EXECUTED.load(Ordering::Relaxed) as f64);
        }
        "runs" => {
            let mut runs = tokio::task::JoinSet::new();
            for i in 0..n {
                let engine = engine.clone();
                runs.spawn(async move { engine.run(format!("run-{i}"), chain(1)).await });
                if runs.len() >= 10_000 {
                    runs.join_next().await;
                }
            }
            while let Some(output) = runs.join_next().await {
                assert_eq!(output??, 1);
            }
        }
        "open" => {
            let page = engine.list(keepstep::Filter::all().limit(20)).await?;
            assert_eq!(page.runs.len(), 20);
            say("listed", seconds(start));
        }
        "sleeping" => waiting::sleep_through(&engine, n).await?,
        "sleeping-after-a-step" => {
            waiting::fall_asleep(&engine, n, waiting::step_and_day).await?;
        }
        "events" => waiting::send_events(&engine, n).await?,
        other => anyhow::bail!("there is no child {other}"),
    }
    say("peak", memory("VmHWM"));
    engine.shutdown().await?;
    Ok(())
}

pub(super) fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// A figure of this process in bytes; 0 where the system does not tell.
pub(super) fn memory(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) * 1024.0
}

fn disk(path: &Path) -> f64 {
    let files = walkdir::WalkDir::new(path).into_iter().flatten();
    let sizes = files.filter_map(|file| file.metadata().ok().filter(std::fs::Metadata::is_file));
    sizes.map(|file| file.len()).sum::<u64>() as f64
}

/// The rounds of the loop that this process runs.
static LOOP: OnceLock<u64> = OnceLock::new();

/// Says how things are at some points of a loop, and ends the process near the end.
pub(super) fn note_round(left: u64) {
    let Some(rounds) = LOOP.get() else { return };
    let done = rounds - left;
    // The last point is shortly before the end, where the process dies.
    let step = rounds / 100 * 98 / POINTS;
    if done > 0 && done.is_multiple_of(step) && done / step <= POINTS {
        let point = done / step;
        say(&format!("memory{point}"), memory("VmRSS"));
        let path = std::env::var_os("KEEPSTEP_BENCH_PATH").unwrap_or_default();
        say(&format!("disk{point}"), disk(Path::new(&path)));
        if point == POINTS {
            std::process::abort();
        }
    }
}

pub(super) fn mib(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}

pub(super) fn time(seconds: f64) -> String {
    format!("{:.0?}", Duration::from_millis((seconds * 1e3) as u64))
}

/// One run with very many steps.
pub(super) fn million_rows(place: &mut Place, n: u64) -> anyhow::Result<()> {
    let work = format!("a run of {n} steps");
    let row = |what: &str, measured: String, bar: &str| print_figure(&work, what, &measured, bar);
    let path = place.fresh();
    let tenth = child(place, &path, "fan-out", n / 10)?;
    let path = place.fresh();
    let whole = child(place, &path, "fan-out", n)?;
    row("time", time(whole["ran"]), "");
    let ratio = whole["ran"] / tenth["ran"];
    row(
        "time beside a tenth of it",
        format!("{ratio:.1} times"),
        "linear: about 10",
    );
    row("most memory", mib(whole["peak"]), "under 1,024 MiB");
    if place.is_in_memory() {
        return Ok(());
    }
    row("disk", mib(disk(&path)), "");
    let path = place.fresh();
    child(place, &path, "fan-out-killed", n)?;
    let again = child(place, &path, "resume", n)?;
    row(
        "killed near its end, to its end",
        format!(
            "{} ({} bodies ran again)",
            time(again["ended"]),
            again["again"]
        ),
        "under 5 s",
    );
    row("most memory then", mib(again["peak"]), "under 1,024 MiB");
    Ok(())
}

/// A loop by tail call.
pub(super) fn loop_rows(place: &mut Place, rounds: u64) -> anyhow::Result<()> {
    let work = format!("a loop of {rounds} rounds");
    let row = |what: &str, measured: String, bar: &str| print_figure(&work, what, &measured, bar);
    let path = place.fresh();
    let start = Instant::now();
    let said = child(place, &path, "loop-killed", rounds)?;
    let rate = (rounds / 100 * 98) as f64 / seconds(start);
    row("rounds a second", format!("{rate:.0}"), "");
    let points = |name: &str| {
        let point = |n| said.get(&format!("{name}{n}")).copied().map(mib);
        (1..=POINTS)
            .filter_map(point)
            .collect::<Vec<_>>()
            .join(", ")
    };
    row("memory on the way", points("memory"), "flat");
    row("disk on the way", points("disk"), "flat");
    let again = child(place, &path, "resume", rounds)?;
    row(
        "killed near its end, to the next round",
        time(again["first"]),
        "under 1 s",
    );
    Ok(())
}

/// A store that many runs have ended in.
pub(super) fn open_rows(place: &mut Place, runs: u64) -> anyhow::Result<()> {
    let work = format!("a store of {runs} ended runs");
    let path = place.fresh();
    child(place, &path, "runs", runs)?;
    print_figure(&work, "disk", &mib(disk(&path)), "");
    let opened = child(place, &path, "open", runs)?;
    print_figure(&work, "to open it", &time(opened["open"]), "");
    print_figure(&work, "to its first page", &time(opened["listed"]), "");
    print_figure(&work, "most memory then", &mib(opened["peak"]), "");
    Ok(())
}
