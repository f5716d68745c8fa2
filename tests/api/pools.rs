//! Remote steps, pools, limits and priorities on a store that nobody shares: all in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keepstep::prelude::*;

use crate::common::{Do, World};

/// How many bodies execute at once, and did at most.
#[derive(Debug, Clone, Default)]
struct Gauge(Arc<(AtomicUsize, AtomicUsize)>);

/// One for each key.
#[derive(Debug, Clone)]
struct Gauges(Vec<Gauge>);

impl Gauge {
    async fn hold(&self) {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

#[step(pool = "few", retries = 0)]
async fn in_pool(n: usize, #[resource] gauges: &Gauges) -> usize {
    gauges.0[n % gauges.0.len()].hold().await;
    n
}

#[step(pool = "other", retries = 0)]
async fn acts(who: String, #[resource] world: &World) -> Result<i64, String> {
    world.act(&who).await?;
    Ok(1)
}

#[step(remote, priority = 1, retries = 0)]
async fn ranked(who: String, #[resource] world: &World) -> Result<(), String> {
    world.act(&who).await
}

#[step(remote)]
fn fib(n: u64) -> Workflow<u64> {
    if n <= 1 {
        return Workflow::value(n);
    }
    sum(vec![fib(n - 1), fib(n - 2)])
}

#[step]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

#[step(remote)]
async fn put_and_take(data: Vec<u8>) -> Vec<u8> {
    data
}

fn in_pools(n: usize) -> Workflow<Vec<usize>> {
    keepstep::all((0..n).map(in_pool))
}

#[tokio::test]
async fn pools_are_limited_in_one_process_too() -> keepstep::Result<()> {
    let gauges = Gauges(vec![Gauge::default()]);
    let builder = Engine::builder().resource(gauges.clone());
    // It serves every pool, whatever is said.
    let builder = builder.pools(["none"]).pool_limit("few", 3);
    let engine = builder.open("memory:").await?;
    let runs = [
        engine.start("a", in_pools(40)).await?,
        engine.start("b", in_pools(40)).await?,
    ];
    for run in runs {
        assert_eq!(run.await?, (0..40).collect::<Vec<_>>());
    }
    assert_eq!(gauges.0[0].most(), 3);
    engine.shutdown().await
}

#[tokio::test]
async fn each_key_is_limited_in_one_process_too() -> keepstep::Result<()> {
    let gauges = Gauges(vec![Gauge::default(), Gauge::default()]);
    let builder = Engine::builder().resource(gauges.clone());
    let engine = builder.pool_key_limit("few", 2).open("memory:").await?;
    let steps = (0..60).map(|n| in_pool(n).concurrency_key(format!("{}", n % 2)));
    engine.run("run", keepstep::all(steps)).await?;
    assert_eq!((gauges.0[0].most(), gauges.0[1].most()), (2, 2));
    engine.shutdown().await
}

#[tokio::test]
async fn priorities_order_what_waits_for_a_place() -> keepstep::Result<()> {
    let world = World::default();
    let builder = Engine::builder().resource(world.clone());
    let engine = builder.max_concurrent_steps(1).open("memory:").await?;
    // All are offered before the first is taken.
    let steps = [
        ranked("c"),
        ranked("e").priority(0),
        ranked("b").priority(2),
        ranked("d"),
        ranked("a").priority(i32::MAX),
        ranked("f").priority(i32::MIN),
    ];
    engine.run("run", keepstep::all(steps)).await?;
    assert_eq!(world.log(), ["a", "b", "c", "d", "e", "f"]);
    engine.shutdown().await
}

#[tokio::test]
async fn a_limit_of_zero_lets_nothing_begin_until_it_is_lifted() -> keepstep::Result<()> {
    let gauges = Gauges(vec![Gauge::default()]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_string_lossy();
    let builder = Engine::builder().resource(gauges.clone());
    let engine = builder.pool_limit("few", 0).open(&path).await?;
    let waiting = engine.start("run", in_pools(5)).await?;
    let waited = tokio::time::timeout(Duration::from_millis(50), waiting).await;
    assert!(waited.is_err());
    engine.shutdown().await?;
    assert_eq!(gauges.0[0].most(), 0);
    // In one process limits are those of the engine.
    let builder = Engine::builder().resource(gauges.clone());
    let engine = builder.open(&path).await?;
    assert_eq!(engine.run("run", in_pools(5)).await?.len(), 5);
    engine.shutdown().await
}

#[tokio::test]
async fn a_run_with_steps_in_a_pool_is_canceled_and_resumed_as_any_other() -> keepstep::Result<()> {
    let world = World::default();
    world.tell("a", Do::Hold);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_string_lossy();
    let builder = || Engine::builder().resource(world.clone());
    let engine = builder().open(&path).await?;
    let canceled = engine.start("canceled", acts("a")).await?;
    world.until("a").await;
    engine.cancel("canceled").await?;
    assert!(matches!(canceled.await, Err(Error::Canceled { .. })));
    world.until("a dropped").await;
    let suspended = engine.start("suspended", acts("a")).await?;
    world.until_times("a", 2).await;
    engine.suspend("suspended").await?;
    assert!(matches!(suspended.await, Err(Error::Suspended { .. })));
    drop(engine.start("interrupted", acts("a")).await?);
    world.until_times("a", 3).await;
    engine.shutdown().await?;
    world.until_times("a dropped", 3).await;

    world.tell("a", Do::Succeed);
    let engine = builder().open(&path).await?;
    assert_eq!(engine.resume::<i64>("suspended").await?.await?, 1);
    assert_eq!(engine.run("interrupted", acts("a")).await?, 1);
    // In the same engine, too.
    world.tell("b", Do::Hold);
    drop(engine.start("again", acts("b")).await?);
    world.until("b").await;
    engine.suspend("again").await?;
    world.tell("b", Do::Succeed);
    assert_eq!(engine.resume::<i64>("again").await?.await?, 1);
    world.tell("b", Do::Fail);
    assert!(engine.run("failed", acts("b")).await.is_err());
    world.tell("b", Do::Succeed);
    assert_eq!(engine.resume::<i64>("failed").await?.await?, 1);
    engine.shutdown().await
}

#[tokio::test]
async fn remote_steps_expand_and_carry_large_values() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    assert_eq!(engine.run("fib", fib(10)).await?, 55);
    let data = vec![7_u8; 1 << 20];
    let carried = put_and_take(put_and_take(data.clone()));
    assert_eq!(engine.run("large", carried).await?, data);
    engine.maintain().await?;
    assert_eq!(engine.output::<Vec<u8>>("large").await?, data);
    engine.shutdown().await
}

#[tokio::test]
async fn eval_knows_no_pools() -> keepstep::Result<()> {
    assert_eq!(fib(8).eval().await?, 21);
    let urgent = put_and_take(vec![1]).priority(3).concurrency_key("k");
    assert_eq!(urgent.eval().await?, [1]);
    Ok(())
}

#[tokio::test]
async fn a_pool_needs_a_name() {
    for builder in [
        Engine::builder().pools([""]),
        Engine::builder().pool_limit("a\nb", 3),
        Engine::builder().pool_key_limit("x".repeat(201), 3),
    ] {
        let error = builder.open("memory:").await.unwrap_err();
        assert!(matches!(error, Error::InvalidPool { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn every_step_may_be_remote() -> keepstep::Result<()> {
    let builder = Engine::builder().remote_steps(true);
    let engine = builder.max_concurrent_steps(2).open("memory:").await?;
    assert_eq!(engine.run("fib", fib(12)).await?, 144);
    engine.shutdown().await
}
