//! Steps run at other workers than the owner of their run: who takes what, what is lost with whom, and what is told.

use std::time::{Duration, Instant};

use keepstep::prelude::*;
use keepstep::storage::TaskId;
use keepstep::{Engine, EngineBuilder};
use serde::{Deserialize, Serialize};

use crate::common::{Do, World};
use crate::{Cluster, soon};

/// Which engine a body runs at.
#[derive(Clone)]
pub(crate) struct Here(pub(crate) &'static str);

#[step(remote, name = "far", retries = 0)]
pub(crate) async fn far(
    who: String,
    #[resource] world: &World,
    #[resource] here: &Here,
) -> Result<i64, String> {
    world.note(format!("{who} at {}", here.0));
    world.act(&who).await?;
    Ok(1)
}

#[step(name = "sum")]
pub(crate) async fn sum(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[step(remote, name = "far_growing", retries = 0)]
async fn far_growing(n: u32) -> Workflow<u32> {
    match n {
        0 => Workflow::value(0),
        n => plus_one(far_growing(n - 1)),
    }
}

#[step(remote, name = "plus_one")]
fn plus_one(n: u32) -> u32 {
    n + 1
}

#[step(remote, name = "flaky", retries = 2, backoff = "20ms..20ms")]
async fn flaky(who: String, #[resource] world: &World) -> Result<u32, String> {
    world.act(&who).await?;
    Ok(keepstep::context().attempt())
}

#[step(remote, name = "slow", retries = 0, timeout = "100ms")]
async fn slow(#[resource] world: &World) -> Result<(), String> {
    world.act("slow").await
}

#[step(remote, name = "noticing")]
async fn noticing(#[resource] world: &World) {
    let token = keepstep::context().cancellation_token();
    world.note("began");
    token.cancelled().await;
    world.note("noticed");
    std::future::pending::<()>().await;
}

#[step(remote, name = "large")]
async fn large(data: &[u8], text: &str) -> Vec<u8> {
    [data, text.as_bytes()].concat()
}

#[step(name = "length")]
async fn length(data: Vec<u8>) -> usize {
    data.len()
}

/// Acts as what is done at its engine.
#[step(remote, name = "where_it_is", retries = 0)]
async fn where_it_is(#[resource] world: &World, #[resource] here: &Here) -> Result<String, String> {
    world.act(here.0).await?;
    Ok(here.0.to_owned())
}

/// A number that the program of today does not read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Never(u32);

impl From<Never> for u32 {
    fn from(never: Never) -> Self {
        never.0
    }
}

impl TryFrom<u32> for Never {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        Err(format!("{number} is never right"))
    }
}

#[step(remote, name = "undecodable")]
async fn undecodable(_n: Never) {}

/// As [`Never`], and it is counted how often it is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Unread(u32);

static N_READS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

impl From<Unread> for u32 {
    fn from(unread: Unread) -> Self {
        unread.0
    }
}

impl TryFrom<u32> for Unread {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        N_READS.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Err(format!("{number} is never right"))
    }
}

#[step(remote, name = "unreadable")]
async fn unreadable(_n: Unread) {}

#[step(name = "near")]
async fn near(who: String, #[resource] world: &World, #[resource] here: &Here) -> i64 {
    world.note(format!("{who} at {}", here.0));
    1
}

impl Cluster {
    pub(crate) fn called(&self, name: &'static str) -> EngineBuilder {
        self.builder().resource(Here(name))
    }

    /// One that owns runs and executes nothing remote.
    pub(crate) async fn owner(&self) -> Engine {
        let none: [&str; 0] = [];
        self.called("owner").pools(none).build().await.unwrap()
    }

    pub(crate) async fn another(&self, name: &'static str) -> Engine {
        self.called(name).build().await.unwrap()
    }

    /// Waits until so many steps were offered, of which none is finished.
    pub(crate) async fn until_offered(&self, n: u64) {
        let store = keepstep::storage::open(&self.url).await.unwrap();
        let tasks: Vec<_> = (1..=n).map(TaskId).collect();
        let queue = store.tasks().unwrap();
        while queue.look(&tasks).await.unwrap().len() < tasks.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One that submits and neither owns nor executes.
    async fn submits(&self) -> Engine {
        self.called("submitter")
            .worker(false)
            .build()
            .await
            .unwrap()
    }
}

fn fars(n: usize) -> Workflow<i64> {
    sum((0..n).map(|n| far(format!("{n:02}"))).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_remote_step_runs_where_there_is_a_place() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let owner = cluster.owner().await;
    let waiting = owner.start("run", fars(20)).await?;
    let _worker = cluster.another("worker").await;
    assert_eq!(soon(waiting).await?, 20);
    let log = cluster.world.sorted_log();
    assert_eq!(log.len(), 40);
    assert!(log.iter().all(|what| !what.contains("owner")), "{log:?}");
    // The same again is what was stored.
    assert_eq!(soon(owner.run("run", fars(20))).await?, 20);
    assert!(cluster.world.log().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_remote_step_is_told_of_and_not_found_by_chance() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    soon(owner.run("warm up", fars(1))).await?;
    let start = Instant::now();
    for n in 0..10 {
        soon(owner.run(format!("run{n}"), fars(1))).await?;
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn every_step_is_remote_if_the_engine_says_so() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let none: [&str; 0] = [];
    let owner = cluster.called("owner").pools(none).remote_steps(true);
    let owner = owner.build().await?;
    let worker = cluster.another("worker").await;
    let workflow = sum(vec![near("a"), near("b")]);
    // It may be the worker that owns the run, if it is started there.
    assert_eq!(soon(owner.run("run", &workflow)).await?, 2);
    assert_eq!(cluster.world.sorted_log(), ["a at worker", "b at worker"]);
    // Without it, a step stays with the owner of its run.
    worker.shutdown().await?;
    let plain = cluster.owner().await;
    assert_eq!(soon(plain.run("run2", &workflow)).await?, 2);
    assert_eq!(cluster.world.sorted_log(), ["a at owner", "b at owner"]);
    Ok(())
}

#[tokio::test]
async fn an_owner_that_crashed_leaves_its_results_to_the_next() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("held", Do::Hold);
    let none: [&str; 0] = [];
    let doomed = cluster
        .called("doomed")
        .pools(none)
        .lease(Duration::from_secs(1));
    let doomed = doomed.build().await?;
    let worker = cluster.another("worker").await;
    let workflow = sum(vec![far("a"), far("held")]);
    drop(doomed.start("run", &workflow).await?);
    soon(cluster.world.until("held")).await;
    // Nobody is there to journal what it comes to.
    drop(doomed);
    cluster.world.tell("held", Do::Succeed);
    assert_eq!(soon(worker.run("run", &workflow)).await?, 2);
    let mut log = cluster.world.sorted_log();
    log.retain(|what| !what.contains(" at "));
    assert_eq!(log, ["a", "held"]);
    Ok(())
}

#[tokio::test]
async fn what_a_lost_worker_had_is_taken_by_another() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let owner = cluster.owner().await;
    let doomed = cluster.called("doomed").max_running_runs(1);
    let doomed = doomed.lease(Duration::from_secs(1)).build().await?;
    let waiting = owner.start("run", far("a")).await?;
    soon(cluster.world.until("a at doomed")).await;
    drop(doomed);
    let _other = cluster.another("other").await;
    soon(cluster.world.until("a at other")).await;
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(waiting).await?, 1);
    Ok(())
}

/// A worker in a thread of its own, which stands still as a process does that was stopped.
#[tokio::test]
async fn a_worker_that_stood_still_for_too_long_changes_nothing() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("frozen", Do::Hold);
    cluster.world.tell("other", Do::Hold);
    let owner = cluster.owner().await;
    let (thaw, frozen) = std::sync::mpsc::channel::<()>();
    let (freeze, freezing) = tokio::sync::oneshot::channel::<()>();
    let (end, ending) = tokio::sync::oneshot::channel::<()>();
    // By this clock it renews its leases where its steps run, and not on a thread of its own.
    let clock = keepstep::Clock::tokio();
    let builder = cluster.called("frozen").clock(clock);
    let builder = builder.lease(Duration::from_secs(1));
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async move {
            let engine = builder.build().await.unwrap();
            freezing.await.unwrap();
            // Nothing else happens in this thread meanwhile.
            frozen.recv().unwrap();
            ending.await.unwrap();
            drop(engine);
        })
    });
    let waiting = owner.start("run", where_it_is()).await?;
    soon(cluster.world.until("frozen")).await;
    freeze.send(()).unwrap();
    let _other = cluster.another("other").await;
    soon(cluster.world.until("other")).await;
    thaw.send(()).unwrap();
    // It notices that others may have what it was doing.
    soon(cluster.world.until("frozen dropped")).await;
    cluster.world.tell("frozen", Do::Succeed);
    cluster.world.tell("other", Do::Succeed);
    assert_eq!(soon(waiting).await?, "other");
    end.send(()).unwrap();
    soon(tokio::task::spawn_blocking(|| stopped.join().unwrap()))
        .await
        .unwrap();
    assert_eq!(owner.output::<String>("run").await?, "other");
    Ok(())
}

#[tokio::test]
async fn a_canceled_run_stops_its_remote_steps() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    let plain = owner.start("plain", far("a")).await?;
    let token = owner.start("token", noticing()).await?;
    soon(cluster.world.until("a")).await;
    soon(cluster.world.until("began")).await;
    soon(owner.cancel("plain")).await?;
    soon(owner.cancel("token")).await?;
    assert!(matches!(soon(plain).await, Err(Error::Canceled { .. })));
    assert!(matches!(soon(token).await, Err(Error::Canceled { .. })));
    soon(cluster.world.until("a dropped")).await;
    soon(cluster.world.until("noticed")).await;
    Ok(())
}

#[tokio::test]
async fn what_nothing_needs_any_more_is_withdrawn() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("loser", Do::Hold);
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    let raced = keepstep::race(far("loser"), far("winner"));
    let waiting = owner.start("race", raced).await?;
    soon(waiting).await?;
    soon(cluster.world.until("loser dropped")).await;
    // One that fails takes its siblings with it.
    cluster.world.tell("bad", Do::Hold);
    let failing = owner.start("failing", sum(vec![far("loser"), far("bad")]));
    let failing = failing.await?;
    soon(cluster.world.until_times("loser", 2)).await;
    cluster.world.tell("bad", Do::Fail);
    assert!(matches!(soon(failing).await, Err(Error::Failed { .. })));
    soon(cluster.world.until_times("loser dropped", 2)).await;
    Ok(())
}

#[tokio::test]
async fn a_suspended_run_keeps_what_was_finished_for_it() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("b", Do::Hold);
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    let waiting = owner.start("run", sum(vec![far("a"), far("b")])).await?;
    soon(cluster.world.until("b")).await;
    soon(cluster.world.until("a")).await;
    soon(owner.suspend("run")).await?;
    assert!(matches!(soon(waiting).await, Err(Error::Suspended { .. })));
    soon(cluster.world.until("b dropped")).await;
    cluster.world.tell("b", Do::Succeed);
    assert_eq!(soon(owner.resume::<i64>("run").await?).await?, 2);
    let log = cluster.world.sorted_log();
    assert_eq!(log.iter().filter(|what| *what == "b").count(), 2, "{log:?}");
    Ok(())
}

#[tokio::test]
async fn a_remote_step_may_return_a_workflow() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    assert_eq!(soon(owner.run("run", far_growing(12))).await?, 12);
    Ok(())
}

#[tokio::test]
async fn a_remote_step_that_fails_is_tried_again() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::FailTimes(2));
    cluster.world.tell("b", Do::Fail);
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    assert_eq!(soon(owner.run("run", flaky("a"))).await?, 3);
    let error = soon(owner.run("fails", flaky("b"))).await.unwrap_err();
    assert!(format!("{error:?}").contains("b failed"), "{error:?}");
    assert_eq!(cluster.world.log(), ["a", "a", "a", "b", "b", "b"]);
    cluster.world.tell("c", Do::Panic);
    let error = soon(owner.run("panics", flaky("c").retries(0)))
        .await
        .unwrap_err();
    assert!(format!("{error:?}").contains("c panicked"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn the_time_of_a_remote_step_is_counted_from_when_it_begins() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("slow", Do::Hold);
    let owner = cluster.owner().await;
    let waiting = owner.start("run", slow()).await?;
    // Longer than it may take.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(owner.status("run").await?, Status::Running);
    let _worker = cluster.another("worker").await;
    let error = soon(waiting).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("longer than 100ms"),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn large_arguments_and_results_travel_in_blobs() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (owner, worker) = (cluster.owner().await, cluster.another("worker").await);
    let data = vec![7_u8; 3 << 20];
    let grown = large(large(data, "ab".to_owned()), "cd".to_owned());
    let workflow = length(grown.name("grown"));
    assert_eq!(soon(owner.run("run", workflow)).await?, (3 << 20) + 4);
    worker.maintain().await?;
    let grown = owner.step_output::<Vec<u8>>("run", "grown").await?;
    assert_eq!(grown.len(), (3 << 20) + 4);
    owner.delete("run").await?;
    Ok(())
}

#[tokio::test]
async fn a_call_that_the_worker_cannot_decode_suspends_the_run() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    // An argument would be read when the run is started; who sends an event does not know what reads it.
    let number = keepstep::event::<Never>("number");
    let waiting = owner.start("run", undecodable(number)).await?;
    owner.send_event("run", "number", &Never(7)).await?;
    let error = soon(waiting).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("7 is never right"),
        "{error:?}"
    );
    // It is tried again when it is resumed, and not answered from what was there.
    let error = soon(owner.resume::<()>("run").await?).await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_call_that_no_worker_can_decode_is_declined_by_each_once() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let owner = cluster.owner().await;
    let mut workers = vec![cluster.another("a").await];
    let n_reads = async |run: &str| {
        let number = keepstep::event::<Unread>("number");
        let waiting = owner.start(run, unreadable(number)).await?;
        N_READS.store(0, std::sync::atomic::Ordering::SeqCst);
        owner.send_event(run, "number", &Unread(7)).await?;
        let error = soon(waiting).await.unwrap_err();
        assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
        Ok::<_, Error>(N_READS.load(std::sync::atomic::Ordering::SeqCst))
    };
    // To say what is wrong with it, a worker may read it more than once.
    let by_one = n_reads("by one").await?;
    for name in ["b", "c"] {
        workers.push(cluster.another(name).await);
    }
    let by_all = n_reads("by all").await?;
    assert!(
        (by_one..=3 * by_one).contains(&by_all),
        "{by_one}, {by_all}"
    );
    Ok(())
}

#[tokio::test]
async fn a_step_that_ends_its_workers_suspends_its_run() -> keepstep::Result<()> {
    for max_interruptions in [1, 3] {
        let cluster = Cluster::new();
        cluster.world.tell("a", Do::Hold);
        let owner = cluster.owner().await;
        let waiting = owner.start("run", far("a")).await?;
        let worker = async |name| {
            let builder = cluster.called(name).lease(Duration::from_secs(1));
            let builder = builder.max_interruptions(max_interruptions);
            // It executes steps and owns no run.
            builder.max_running_runs(1).build().await.unwrap()
        };
        for _ in 0..max_interruptions {
            let doomed = worker("doomed").await;
            soon(cluster.world.until("a at doomed")).await;
            soon(cluster.world.until("a")).await;
            drop(doomed);
            soon(cluster.world.until("a dropped")).await;
            cluster.world.log();
        }
        let _last = worker("last").await;
        let error = soon(waiting).await.unwrap_err();
        let Error::Suspended { reason, .. } = error else {
            panic!("{error}");
        };
        let expected = keepstep::SuspendReason::Interrupted {
            step: "far".to_owned(),
            times: max_interruptions,
        };
        assert_eq!(reason, expected);
        assert!(cluster.world.log().is_empty());
        // It counts anew when a person resumes it.
        cluster.world.tell("a", Do::Succeed);
        assert_eq!(soon(owner.resume::<i64>("run").await?).await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn workers_take_only_steps_that_their_program_has() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let owner = cluster.owner().await;
    let _old = cluster.called("old").without_step("far").build().await?;
    let waiting = owner.start("run", fars(3)).await?;
    assert_eq!(soon(owner.run("other", far_growing(3))).await?, 3);
    assert_eq!(owner.status("run").await?, Status::Running);
    let _new = cluster.another("new").await;
    assert_eq!(soon(waiting).await?, 3);
    // A worker without a resource that a step needs is no worker for it.
    let _bare = cluster.builder().build().await?;
    assert_eq!(soon(owner.run("run2", fars(20))).await?, 20);
    let log = cluster.world.log();
    assert!(log.iter().all(|what| !what.contains("at old")), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn an_engine_that_only_submits_takes_no_steps() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let submitter = cluster.submits().await;
    let waiting = submitter.start("run", fars(5)).await?;
    let _worker = cluster.another("worker").await;
    assert_eq!(soon(waiting).await?, 5);
    let log = cluster.world.log();
    assert!(
        log.iter().all(|what| !what.contains("submitter")),
        "{log:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_worker_that_shuts_down_hands_its_steps_over() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let (owner, leaving) = (cluster.owner().await, cluster.another("leaving").await);
    let waiting = owner.start("run", far("a")).await?;
    soon(cluster.world.until("a at leaving")).await;
    let _staying = cluster.another("staying").await;
    let start = Instant::now();
    soon(leaving.shutdown()).await?;
    soon(cluster.world.until("a at staying")).await;
    // Much less than a lease.
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(waiting).await?, 1);
    Ok(())
}

#[tokio::test]
async fn many_remote_steps_of_many_runs_run_once() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let mut engines = Vec::new();
    for name in ["a", "b", "c"] {
        let builder = cluster.called(name).max_concurrent_steps(16);
        engines.push(builder.build().await?);
    }
    let mut runs = Vec::new();
    for n in 0..30 {
        let steps = (0..30).map(|step| far(format!("{n}/{step}")));
        let workflow = sum(steps.collect::<Vec<_>>());
        runs.push(engines[n % 3].start(format!("run{n}"), workflow).await?);
    }
    for run in runs {
        assert_eq!(soon(run).await?, 30);
    }
    let mut log = cluster.world.sorted_log();
    log.retain(|what| !what.contains(" at "));
    let n = log.len();
    log.dedup();
    assert_eq!((n, log.len()), (900, 900));
    Ok(())
}

#[tokio::test]
async fn a_run_may_have_more_remote_steps_than_are_offered_at_a_time() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (owner, _worker) = (cluster.owner().await, cluster.another("worker").await);
    let steps = (0..12_000).map(plus_one);
    let outputs = soon(owner.run("run", keepstep::all(steps))).await?;
    assert_eq!(outputs, (1..=12_000).collect::<Vec<_>>());
    Ok(())
}
