//! How fast keepstep is beside its floors: what the store, or a raw file, does with the same work in the same run on
//! the same directory. Only the ratios mean something. And what long runs take in time, memory and disk.
//!
//! `cargo bench --bench speed --features redb,fjall` measures all of it on every store that is built in; with words behind
//! `--`, only what has one of them in its name. `KEEPSTEP_BENCH_STORE` names the stores (`sled,memory`),
//! `KEEPSTEP_BENCH_DIR` the directory, `KEEPSTEP_BENCH_ROUNDS` the rounds of the loop, `KEEPSTEP_BENCH_OBJECTS` how many objects of
//! 1 MiB, `KEEPSTEP_BENCH_STREAM` the megabytes of an object that streams. `idle-actors` runs only if it is asked for.

mod actors;
mod floors;
mod long;
mod objects;
mod short;
mod table;
mod waiting;
mod work;

use std::path::PathBuf;

use table::Place;

const CHAIN: u64 = 1_000;
const FAN_OUT: u64 = 100_000;
const FIB: u64 = 20;
const RUNS: u64 = 10_000;
const MILLION: u64 = 1_000_000;
const LOOP: u64 = 100_000;
const ENDED_RUNS: u64 = 100_000;
const SLEEPERS: u64 = 1_000_000;
const EVENTS: u64 = 10_000;
const CALLS: u64 = 1_000;
const CALLS_AT_ONCE: u64 = 100_000;
const OBJECT_BYTES: u64 = 100_000_000;
const OBJECTS: u64 = 2_000;
const STREAMED_MB: u64 = 2_000;
const IDLE_ACTORS: u64 = 1_000_000;
/// Every ratio is the median of so many rounds, and that of the short chain of more, in which keepstep and its floor take turns.
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, rest @ ..] = &args[..]
        && child == "--child"
    {
        return long::be_child(rest).await;
    }
    let filter: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    // `cargo test --benches` only wants to know that it runs.
    let is_test = args.iter().any(|arg| arg == "--test");
    let wanted =
        |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let shrink = |n: u64| if is_test { n / 100 } else { n };
    let mut built = vec![];
    built.extend(cfg!(feature = "sled").then_some("sled"));
    built.extend(cfg!(feature = "redb").then_some("redb"));
    built.extend(cfg!(feature = "fjall").then_some("fjall"));
    let stores = std::env::var("KEEPSTEP_BENCH_STORE").unwrap_or_else(|_| built.join(","));
    let loops = number("KEEPSTEP_BENCH_ROUNDS", shrink(LOOP))?;
    let root = std::env::var_os("KEEPSTEP_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let root = root.join("speed");
    let rounds = if is_test { 1 } else { ROUNDS };
    for store in stores.split(',') {
        let place = &mut Place::new(root.clone(), store, rounds);
        println!(
            "\n{store}: rates a second, medians of {rounds} ({} of the chain); ratio: median (lowest–highest)\n",
            rounds * short::CHAINS_A_ROUND
        );
        table::print_ratio_head();
        if wanted("chain") {
            short::chain_rows(place, shrink(CHAIN)).await?;
            place.clear();
        }
        if wanted("fan-out") {
            short::fan_out_row(place, shrink(FAN_OUT)).await?;
            place.clear();
        }
        if wanted("fib") {
            short::fib_row(place, if is_test { 5 } else { FIB }).await?;
            place.clear();
        }
        if wanted("many-runs") {
            short::many_runs_row(place, shrink(RUNS)).await?;
            place.clear();
        }
        if wanted("one-actor") {
            actors::one_row(place, shrink(CALLS)).await?;
            place.clear();
        }
        if wanted("thousand-actors") {
            actors::thousand_row(place, shrink(CALLS_AT_ONCE)).await?;
            place.clear();
        }
        if wanted("objects") && !place.is_in_memory() {
            objects::readers_row(place, shrink(OBJECT_BYTES) as usize).await?;
            place.clear();
            objects::many_row(place, number("KEEPSTEP_BENCH_OBJECTS", shrink(OBJECTS))?).await?;
            place.clear();
        }
        println!();
        table::print_figure_head();
        if wanted("objects") && !place.is_in_memory() {
            let mb = number("KEEPSTEP_BENCH_STREAM", shrink(STREAMED_MB))?;
            objects::stream_rows(place, mb * 1_000_000).await?;
            place.clear();
        }
        if wanted("million") {
            long::million_rows(place, shrink(MILLION))?;
            place.clear();
        }
        if wanted("loop") && !place.is_in_memory() {
            long::loop_rows(place, loops)?;
            place.clear();
        }
        if wanted("sleeping") {
            waiting::sleeping_rows(place, shrink(SLEEPERS))?;
            place.clear();
        }
        if wanted("events") {
            waiting::event_rows(place, shrink(EVENTS))?;
            place.clear();
        }
        if wanted("open") && !place.is_in_memory() {
            long::open_rows(place, shrink(ENDED_RUNS))?;
            place.clear();
        }
        if filter.iter().any(|name| *name == "idle-actors") {
            actors::idle(place, shrink(IDLE_ACTORS)).await?;
            place.clear();
        }
    }
    drop(std::fs::remove_dir_all(root));
    Ok(())
}

/// What a variable of the environment says.
fn number(variable: &str, otherwise: u64) -> anyhow::Result<u64> {
    match std::env::var(variable) {
        Ok(number) => Ok(number.parse()?),
        Err(_) => Ok(otherwise),
    }
}
