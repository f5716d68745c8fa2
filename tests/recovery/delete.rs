//! Deleting: only what is not active, with everything that belongs to it.

use std::sync::Arc;
use std::time::Duration;

use keepstep::Filter;
use keepstep::prelude::*;
use keepstep::storage::fault::{Effect, Fault, Faulty, On};
use keepstep::storage::memory;
use serde_json::json;

use crate::common::{Do, Lab, act, join, leaf};

async fn assert_gone(engine: &Engine, id: &str) {
    for error in [
        engine.status(id).await.err(),
        engine.output::<i64>(id).await.err(),
        engine.step_output::<i64>(id, "act").await.err(),
        engine.metadata(id).await.err(),
        engine.graph(id).await.err(),
        engine.resume::<i64>(id).await.err(),
        engine.delete(id).await.err(),
    ] {
        assert!(matches!(error, Some(Error::NotFound { .. })), "{error:?}");
    }
    assert!(
        engine
            .list(Filter::all().id_prefix(id))
            .await
            .unwrap()
            .runs
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn an_active_run_cannot_be_deleted() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.builder().max_running_runs(1).build().await?;
    let first = engine.start("running", leaf("held").build()).await?;
    let second = engine.start("pending", leaf("a").build()).await?;
    for (id, is) in [("running", Status::Running), ("pending", Status::Pending)] {
        match engine.delete(id).await {
            Err(Error::StillActive { status, .. }) => assert_eq!(status, is),
            other => panic!("{other:?}"),
        }
    }
    lab.world.tell("held", Do::Succeed);
    assert_eq!((first.await?, second.await?), (1, 1));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_is_not_active_is_deleted_and_its_id_is_free() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    drop(engine.start("resumable", leaf("held").build()).await?);
    lab.world.until("held").await;
    lab.crash(engine).await;
    let engine = lab.engine().await;
    let named = join("b", [leaf("a")]).build().metadata(json!({"a": 1}));
    engine.run("good", named).await?;
    engine.run("bad", leaf("bad").build()).await.unwrap_err();
    for id in ["canceled", "suspended"] {
        drop(engine.start(id, leaf("held").build()).await?);
    }
    lab.world.until_times("held", 3).await;
    engine.cancel("canceled").await?;
    engine.suspend("suspended").await?;
    lab.world.log();

    for id in ["good", "bad", "canceled", "suspended", "resumable"] {
        engine.delete(id).await?;
        assert_gone(&engine, id).await;
    }
    for id in ["good", "bad", "canceled", "suspended", "resumable"] {
        // Nothing of the earlier run is found in the new one.
        assert_eq!(engine.run(id, act("new", vec![1])).await?, 2);
        let metadata = engine.metadata(id).await?;
        assert!(metadata.user.is_none() && metadata.error.is_none());
        assert!(metadata.suspended.is_none());
        let old = engine.step_output::<i64>(id, "b").await.unwrap_err();
        assert!(matches!(old, Error::StepNotFound { .. }), "{old:?}");
    }
    assert_eq!(lab.world.log(), ["new"; 5]);
    engine.shutdown().await
}

/// How many calls write to the store while the first of them is held up and everybody else asks for something meanwhile.
async fn writes_of<F>(store: &Faulty, calls: impl IntoIterator<Item = F>) -> u64
where
    F: Future<Output = keepstep::Result<()>> + Send + 'static,
{
    let before = store.calls(On::AnyWrite);
    store.inject(Fault::next(On::AnyWrite, Effect::Delay));
    let calls: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    store.until_held(1).await;
    // Time is paused: it goes on once all of them wait.
    tokio::time::sleep(Duration::from_millis(1)).await;
    store.release_held();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    store.calls(On::AnyWrite) - before
}

#[tokio::test(start_paused = true)]
async fn runs_that_are_deleted_side_by_side_share_commits() -> keepstep::Result<()> {
    const N: usize = 500;
    let store = Arc::new(Faulty::new(memory()));
    let engine = Lab::on(store.clone()).engine().await;
    let ids: Vec<String> = (0..N).map(|n| format!("run/{n}")).collect();
    for id in &ids {
        engine.run(id, leaf("a").build()).await?;
    }
    let delete = |id: &String| {
        let (engine, id) = (engine.clone(), id.clone());
        async move { engine.delete(id).await }
    };
    let writes = writes_of(&store, ids.iter().map(delete)).await;
    assert!((1..=8).contains(&writes), "{writes} writes for {N} deletes");
    assert_eq!(engine.list(Filter::all()).await?.runs.len(), 0);

    // One after the other they pay for one write each.
    for id in &ids[..20] {
        engine.run(id, leaf("a").build()).await?;
    }
    let before = store.calls(On::AnyWrite);
    for id in &ids[..20] {
        engine.delete(id).await?;
    }
    assert_eq!(store.calls(On::AnyWrite) - before, 20);
    engine.shutdown().await
}

/// Whatever else is done to many runs that are not in execution: they are claimed together, and written together.
#[tokio::test(start_paused = true)]
async fn runs_that_are_stopped_or_resumed_side_by_side_share_claims() -> keepstep::Result<()> {
    const N: usize = 200;
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    let engine = lab.engine().await;
    let sleeper = || sleep(Duration::from_secs(3600));
    let ids: Vec<String> = (0..N).map(|n| format!("run/{n}")).collect();
    for id in &ids {
        drop(engine.start(id, sleeper()).await?);
    }
    let of_all = |call: fn(Engine, String) -> BoxFuture| {
        let engine = engine.clone();
        ids.iter()
            .map(move |id| call(engine.clone(), id.clone()))
            .collect::<Vec<_>>()
    };
    // All of them have left memory.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let suspend: fn(Engine, String) -> BoxFuture =
        |engine, id| Box::pin(async move { engine.suspend(id).await });
    let writes = writes_of(&store, of_all(suspend)).await;
    assert!(
        (1..=8).contains(&writes),
        "{writes} writes for {N} suspends"
    );
    let resume: fn(Engine, String) -> BoxFuture =
        |engine, id| Box::pin(async move { engine.resume::<()>(id).await.map(drop) });
    let writes = writes_of(&store, of_all(resume)).await;
    assert!((1..=8).contains(&writes), "{writes} writes for {N} resumes");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let cancel: fn(Engine, String) -> BoxFuture =
        |engine, id| Box::pin(async move { engine.cancel(id).await });
    let writes = writes_of(&store, of_all(cancel)).await;
    assert!((1..=8).contains(&writes), "{writes} writes for {N} cancels");
    for id in &ids {
        assert_eq!(engine.status(id).await?, Status::Canceled);
    }
    engine.shutdown().await
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = keepstep::Result<()>> + Send>>;
