//! How many bytes of memory things take while they wait: a step, a result, a run.
//!
//! `cargo bench --bench memory`. Counted by the allocator, so the figures are what was asked for, without what the
//! allocator adds; what the store takes is not in them.

#![expect(unsafe_code, reason = "counting what is allocated takes an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::time::Duration;

use keepstep::prelude::*;
use tokio::sync::Semaphore;

static LIVE: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator, with a count of the bytes that are in use.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came, and so keeps that one's contract; the count is not read by it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, with this layout, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> isize {
    LIVE.load(Ordering::Relaxed)
}

/// Bytes in use once they no longer change.
async fn settled() -> isize {
    let mut last = live();
    let mut calm = 0;
    while calm < 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = live();
        calm = if now == last { calm + 1 } else { 0 };
        last = now;
    }
    last
}

static EXECUTED: AtomicU64 = AtomicU64::new(0);

/// Holds bodies back for as long as the process lives.
static NEVER: Semaphore = Semaphore::const_new(0);

#[step]
async fn wait() -> u64 {
    EXECUTED.fetch_add(1, Ordering::SeqCst);
    drop(NEVER.acquire().await);
    0
}

#[step]
async fn wait_too(n: u64) -> u64 {
    EXECUTED.fetch_add(1, Ordering::SeqCst);
    drop(NEVER.acquire().await);
    n
}

#[step]
async fn square(n: u64) -> u64 {
    EXECUTED.fetch_add(1, Ordering::SeqCst);
    n * n
}

#[step]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[step]
async fn sum(numbers: Vec<u64>, more: u64) -> u64 {
    numbers.iter().sum::<u64>() + more
}

#[step(retries = 1, backoff = "1h..1h")]
async fn fail() -> Result<u64, std::io::Error> {
    EXECUTED.fetch_add(1, Ordering::SeqCst);
    Err(std::io::Error::other("not yet"))
}

fn waiting(n: u64) -> Workflow<u64> {
    let gate = wait();
    let after = (0..n).map(|i| add(gate.clone(), i)).collect::<Vec<_>>();
    sum(after, 0)
}

fn executing(n: u64) -> Workflow<u64> {
    sum((0..n).map(wait_too).collect::<Vec<_>>(), 0)
}

fn finished(n: u64) -> Workflow<u64> {
    sum((0..n).map(square).collect::<Vec<_>>(), wait())
}

/// Starts runs, waits until `executed` bodies have begun, and says how many bytes the engine then has in use.
async fn bytes_of(
    runs: u64,
    running: Option<usize>,
    executed: u64,
    workflow: impl Fn() -> Workflow<u64>,
) -> anyhow::Result<isize> {
    let store = keepstep::storage::memory();
    let before = settled().await;
    EXECUTED.store(0, Ordering::SeqCst);
    {
        let builder = Engine::builder()
            .storage(Arc::clone(&store))
            .max_concurrent_steps(1 << 20);
        let builder = match running {
            Some(n) => builder.max_running_runs(n),
            None => builder,
        };
        let engine = builder.build().await?;
        let workflow = workflow();
        let have_begun = async |bodies| {
            while EXECUTED.load(Ordering::SeqCst) < bodies {
                tokio::task::yield_now().await;
            }
        };
        for i in 1..=runs {
            drop(engine.start(format!("run-{i}"), &workflow).await?);
            // Not more at once than need be: lists that were long once keep their room.
            if i.is_multiple_of(100) {
                have_begun(i.min(executed)).await;
            }
        }
        drop(workflow);
        have_begun(executed).await;
        let with_engine = settled().await;
        engine.shutdown().await?;
        drop(engine);
        let store_alone = settled().await;
        assert!(store_alone >= before, "the store has the runs");
        Ok(with_engine - store_alone)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let shrink = |n: u64| if is_test { n / 100 } else { n };
    let before = live();
    let megabyte = std::hint::black_box(vec![0u8; 1 << 20]);
    // Threads of the runtime that begin and end allocate a little besides.
    assert!(live() - before >= 1 << 19, "the allocator counts");
    drop(megabyte);

    let (steps, runs) = (shrink(100_000), shrink(10_000));
    println!("| bytes of | measured | to reach |\n|---|---|---|");
    let print = |what: &str, bytes: isize, n: u64, bar: &str| {
        println!("| {what} | {:.0} | {bar} |", bytes as f64 / n as f64);
    };
    let bytes = bytes_of(1, None, 1, || waiting(steps)).await?;
    print(
        "a step that waits, with an argument of 2 to 5 bytes",
        bytes,
        steps,
        "under 200",
    );
    let bytes = bytes_of(1, None, steps + 1, || finished(steps)).await?;
    print(
        "a result that is still needed, of 2 to 9 bytes, and its step",
        bytes,
        steps,
        "",
    );
    let bytes = bytes_of(1, None, steps, || executing(steps)).await?;
    print("a step whose body waits", bytes, steps, "");
    let bytes = bytes_of(runs, None, runs, wait).await?;
    print("a run whose one body waits", bytes, runs, "");
    let bytes = bytes_of(runs, Some(1), 1, wait).await?;
    print("a pending run", bytes, runs, "");
    let bytes = bytes_of(runs, None, runs, fail).await?;
    print("a run that waits outside memory", bytes, runs, "under 300");
    Ok(())
}
