//! Who takes the steps of a pool, how many at once, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keepstep::prelude::*;

use crate::common::World;
use crate::remote::{Here, far, sum};
use crate::{Cluster, soon};

/// How many bodies execute at once, and did at most.
#[derive(Debug, Clone, Default)]
struct Gauge(Arc<(AtomicUsize, AtomicUsize)>);

/// One for each customer.
#[derive(Debug, Clone)]
struct Gauges(Vec<Gauge>);

impl Gauge {
    async fn hold_for(&self, pause: Duration) {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(pause).await;
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

#[step(pool = "gpu", name = "on_gpu", retries = 0)]
async fn on_gpu(
    who: String,
    #[resource] world: &World,
    #[resource] here: &Here,
) -> Result<i64, String> {
    world.note(format!("{who} at {}", here.0));
    world.act(&who).await?;
    Ok(1)
}

#[step(pool = "few", name = "gauged")]
async fn gauged(#[resource] gauge: &Gauge) {
    gauge.hold_for(Duration::from_millis(15)).await;
}

#[step(remote, name = "ranked", priority = 1)]
async fn ranked(who: String, #[resource] world: &World) {
    world.note(who);
}

#[tokio::test]
async fn only_workers_of_a_pool_take_its_steps() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let owner = cluster.another("default").await;
    let gpu = cluster.called("gpu").pools(["gpu"]).build().await?;
    let workflow = sum(vec![on_gpu("a"), far("b"), on_gpu("c")]);
    assert_eq!(soon(owner.run("run", &workflow)).await?, 3);
    let mut log = cluster.world.sorted_log();
    log.retain(|what| what.contains(" at "));
    assert_eq!(log, ["a at gpu", "b at default", "c at gpu"]);
    gpu.shutdown().await?;
    let waiting = owner.start("waits", on_gpu("d")).await?;
    assert_eq!(soon(owner.run("passes", far("e"))).await?, 1);
    assert_eq!(owner.status("waits").await?, Status::Running);
    let _late = cluster
        .called("late")
        .pools(["other", "gpu"])
        .build()
        .await?;
    assert_eq!(soon(waiting).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_pools_limit_holds_over_all_engines() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let gauge = Gauge::default();
    let mut engines = Vec::new();
    for limit in [7, 3, 3] {
        let builder = cluster.builder().resource(gauge.clone());
        let builder = builder.pools(["few"]).pool_limit("few", limit);
        engines.push(builder.build().await?);
    }
    let mut runs = Vec::new();
    for (engine, n) in engines.iter().zip(0..) {
        let steps: Vec<_> = (0..30).map(|_| gauged()).collect();
        runs.push(
            engine
                .start(format!("run{n}"), keepstep::all(steps))
                .await?,
        );
    }
    for run in runs {
        soon(run).await?;
    }
    // The last that was opened has set it.
    assert_eq!(gauge.most(), 3);
    Ok(())
}

#[tokio::test]
async fn a_pools_limit_for_each_key_holds_over_all_engines() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    #[step(pool = "api", name = "call")]
    async fn call(who: usize, #[resource] gauges: &Gauges) {
        gauges.0[who].hold_for(Duration::from_millis(15)).await;
    }
    let gauges = Gauges((0..3).map(|_| Gauge::default()).collect());
    let mut engines = Vec::new();
    for _ in 0..3 {
        let builder = cluster.builder().resource(gauges.clone()).pools(["api"]);
        engines.push(builder.pool_key_limit("api", 1).build().await?);
    }
    let steps = (0..45).map(|n| call(n % 3).concurrency_key(format!("customer-{}", n % 3)));
    soon(engines[0].run("run", keepstep::all(steps))).await?;
    for gauge in &gauges.0 {
        assert_eq!(gauge.most(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn higher_priorities_go_first() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let owner = cluster.owner().await;
    let step = |who: &str, priority: Option<i32>| {
        let step = ranked(who.to_owned());
        match priority {
            Some(priority) => step.priority(priority),
            None => step,
        }
    };
    let steps = [
        step("e", Some(-5)),
        step("d", Some(0)),
        step("b", None),
        step("a", Some(7)),
        step("c", None),
    ];
    let waiting = owner.start("run", keepstep::all(steps.to_vec())).await?;
    soon(cluster.until_offered(5)).await;
    let _worker = cluster.builder().max_concurrent_steps(1).build().await?;
    soon(waiting).await?;
    assert_eq!(cluster.world.log(), ["a", "b", "c", "d", "e"]);
    Ok(())
}

#[tokio::test]
async fn places_are_those_of_the_worker() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let gauge = Gauge::default();
    let none: [&str; 0] = [];
    let owner = cluster.builder().resource(gauge.clone()).pools(none);
    let owner = owner.max_concurrent_steps(1).build().await?;
    let worker = cluster.builder().resource(gauge.clone()).pools(["few"]);
    let _worker = worker.max_concurrent_steps(4).build().await?;
    let steps: Vec<_> = (0..40).map(|_| gauged()).collect();
    soon(owner.run("run", keepstep::all(steps))).await?;
    assert_eq!(gauge.most(), 4);
    Ok(())
}
