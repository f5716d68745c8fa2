//! Workflow ids: which are taken, and what the same id means again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keepstep::Filter;
use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;
use keepstep::storage::memory;

use crate::common::{Do, Lab, World, act, join, leaf};

#[step]
async fn count(names: HashMap<String, Vec<HashMap<String, u8>>>) -> usize {
    names.len()
}

#[step]
async fn sum(numbers: HashMap<String, i64>) -> i64 {
    numbers.values().sum()
}

#[step(retries = 1, backoff = "1h")]
async fn patient(#[resource] world: &World) -> Result<i64, String> {
    world.act("patient").await.map(|()| 1)
}

#[tokio::test]
async fn an_invalid_id_stores_nothing() -> keepstep::Result<()> {
    let store = Arc::new(Recorded::new(memory()));
    let engine = Engine::builder().storage(store.clone()).build().await?;
    let long = "x".repeat(256);
    let long_letters = "ż".repeat(128);
    for id in ["", "a\nb", "\0", "\u{7f}", "\u{85}", &long, &long_letters] {
        let errors = [
            engine.run(id, Workflow::value(1)).await.err(),
            engine.status(id).await.err(),
            engine.output::<i64>(id).await.err(),
            engine.resume::<i64>(id).await.err(),
            engine.cancel(id).await.err(),
            engine.delete(id).await.err(),
        ];
        for error in errors {
            assert!(matches!(error, Some(Error::InvalidRunId(_))), "{error:?}");
        }
    }
    assert!(store.log().is_empty());
    engine.shutdown().await
}

#[tokio::test]
async fn any_other_text_is_an_id() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let long = "x".repeat(255);
    let ids = ["a", " ", "/", "zażółć/🦀 #?%", "..", &long];
    for (id, n) in ids.into_iter().zip(0..) {
        assert_eq!(engine.run(id, Workflow::value(n)).await?, n);
    }
    for (id, n) in ids.into_iter().zip(0..) {
        assert_eq!(engine.output::<i32>(id).await?, n);
        engine.delete(id).await?;
    }
    assert!(engine.list(Filter::all()).await?.runs.is_empty());
    engine.shutdown().await
}

/// Starts with another workflow under the id of a run, which must change nothing.
async fn assert_conflict(engine: &Engine, id: &str) {
    let error = engine.start(id, Workflow::value(7)).await.unwrap_err();
    assert!(matches!(error, Error::IdConflict { .. }), "{error:?}");
    let status = engine.status(id).await.unwrap();
    let error = engine.run(id, leaf("other").build()).await.unwrap_err();
    assert!(matches!(error, Error::IdConflict { .. }), "{error:?}");
    assert_eq!(engine.status(id).await.unwrap(), status);
}

#[tokio::test(start_paused = true)]
async fn the_same_id_attaches_to_a_run_that_runs() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("b", [leaf("a")]).build();
    let first = engine.start("run", &workflow).await?;
    lab.world.until("a").await;
    assert_eq!(engine.status("run").await?, Status::Running);
    assert_conflict(&engine, "run").await;
    let second = engine.start("run", &workflow).await?;
    let third = engine.resume::<i64>("run").await?;
    lab.world.tell("a", Do::Succeed);
    assert_eq!((first.await?, second.await?, third.await?), (2, 2, 2));
    assert_eq!(lab.world.log(), ["a", "b"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_same_id_attaches_to_a_run_that_is_pending() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let engine = lab
        .builder()
        .max_running_runs(1)
        .max_pending_runs(1)
        .build();
    let engine = engine.await?;
    let running = engine.start("running", leaf("a").build()).await?;
    let pending = engine.start("pending", leaf("b").build()).await?;
    assert_eq!(engine.status("pending").await?, Status::Pending);
    assert_conflict(&engine, "pending").await;
    // It needs no further place in the queue, which is full.
    let again = engine.start("pending", leaf("b").build()).await?;
    lab.world.tell("a", Do::Succeed);
    assert_eq!((running.await?, pending.await?, again.await?), (1, 1, 1));
    assert_eq!(lab.world.log(), ["a", "b"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_same_id_attaches_to_a_run_that_waits_for_a_time() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("patient", Do::FailTimes(1));
    let engine = lab.engine().await;
    let first = engine.start("run", patient()).await?;
    lab.world.until("patient").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.status("run").await?, Status::Running);
    assert!(engine.metadata("run").await?.wake_at.is_some());
    assert_conflict(&engine, "run").await;
    let second = engine.start("run", patient()).await?;
    drop(first);
    assert_eq!(second.await?, 1);
    assert_eq!(lab.world.log(), ["patient", "patient"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_same_id_goes_on_with_a_run_that_is_suspended() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    let handle = engine.start("run", &workflow).await?;
    lab.world.until("b").await;
    engine.suspend("run").await?;
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error:?}");
    assert_conflict(&engine, "run").await;
    lab.world.tell("b", Do::Succeed);
    assert_eq!(engine.run("run", &workflow).await?, 3);
    assert_eq!(lab.world.log(), ["a", "b", "b dropped", "b", "c"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_same_id_goes_on_with_a_run_that_is_resumable() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let engine = lab.engine().await;
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    drop(engine.start("run", &workflow).await?);
    lab.world.until("b").await;
    lab.crash(engine).await;

    let engine = lab.engine().await;
    assert_eq!(engine.status("run").await?, Status::Resumable);
    assert_conflict(&engine, "run").await;
    lab.world.tell("b", Do::Succeed);
    assert_eq!(engine.run("run", &workflow).await?, 3);
    assert_eq!(lab.world.log(), ["a", "b", "b dropped", "b", "c"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_same_id_gives_what_an_ended_run_left() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let good = join("b", [leaf("a")]).build();
    let bad = leaf("bad").build();
    lab.world.tell("bad", Do::Fail);
    let slow = leaf("slow").build();
    lab.world.tell("slow", Do::Hold);
    assert_eq!(engine.run("good", &good).await?, 2);
    engine.run("bad", &bad).await.unwrap_err();
    drop(engine.start("slow", &slow).await?);
    lab.world.until("slow").await;
    engine.cancel("slow").await?;
    lab.world.log();

    for life in 0..2 {
        let engine = if life == 0 {
            engine.clone()
        } else {
            lab.engine().await
        };
        assert_eq!(engine.run("good", &good).await?, 2);
        assert_eq!(engine.start("good", &good).await?.await?, 2);
        match engine.run("bad", &bad).await {
            Err(Error::Failed { error, .. }) => assert_eq!(error.message, "bad failed"),
            other => panic!("{other:?}"),
        }
        let error = engine.run("slow", &slow).await.unwrap_err();
        assert!(matches!(error, Error::Canceled { .. }), "{error:?}");
        for id in ["good", "bad", "slow"] {
            assert_conflict(&engine, id).await;
        }
    }
    assert_eq!(lab.world.log(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn the_order_of_a_hash_map_is_no_difference() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    // Every map has another order of its own.
    let inner = || (0..20).map(|n| (format!("inner {n}"), n)).collect();
    let values = || {
        (0..20)
            .map(|n| (format!("outer {n}"), vec![inner()]))
            .collect::<HashMap<_, _>>()
    };
    assert_eq!(engine.run("values", count(values())).await?, 20);
    let workflows = || {
        let entries = (0..20).map(|n| (format!("name {n}"), Workflow::value(n)));
        entries.collect::<HashMap<_, _>>()
    };
    assert_eq!(engine.run("workflows", sum(workflows())).await?, 190);
    for _ in 0..20 {
        assert_eq!(engine.run("values", count(values())).await?, 20);
        assert_eq!(engine.run("workflows", sum(workflows())).await?, 190);
    }
    let mut other = workflows();
    other.insert("name 0".into(), Workflow::value(1));
    let error = engine.run("workflows", sum(other)).await.unwrap_err();
    assert!(matches!(error, Error::IdConflict { .. }), "{error:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn anything_that_changes_a_plan_is_a_conflict() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let one = || act("one", Vec::<i64>::new());
    let base = || act("base", vec![one()]);
    engine.run("run", base()).await?;
    engine.run("run", base()).await?;
    let shared = one();
    for other in [
        base().name("named"),
        base().after(&one()),
        act("base", vec![shared.clone(), shared]),
        act("base", vec![act("two", Vec::<i64>::new())]),
        act("base", vec![1]),
    ] {
        let error = engine.run("run", other).await.unwrap_err();
        assert!(matches!(error, Error::IdConflict { .. }), "{error:?}");
    }
    // How it is run may change between two deployments.
    for same in [
        base().retries(1),
        base().timeout(Duration::from_secs(9)),
        base().metadata(serde_json::json!({"deployment": 2})),
    ] {
        assert_eq!(engine.run("run", same).await?, 2);
    }
    assert_eq!(lab.world.log(), ["one", "base"]);
    engine.shutdown().await
}

#[tokio::test]
async fn many_callers_at_once_start_one_run() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let callers = (0..50).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.run("run", join("b", [leaf("a")]).build()).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await.unwrap()?, 2);
    }
    assert_eq!(lab.world.log(), ["a", "b"]);
    engine.shutdown().await
}
