//! How long objects stay: as long as a run names them or a reference is in memory, and no longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{Storage, memory};
use keepstep::{BlobId, Clock};

async fn is_there(store: &Arc<dyn Storage>, id: &BlobId) -> bool {
    store.blob_len(id).await.unwrap().is_some()
}

async fn engine_on(store: &Arc<dyn Storage>) -> Engine {
    let builder = Engine::builder().storage(Arc::clone(store));
    builder.clock(Clock::tokio()).build().await.unwrap()
}

#[step]
async fn len(of: ObjectRef<Vec<u8>>) -> keepstep::Result<usize> {
    Ok(of.get().await?.len())
}

#[tokio::test]
async fn a_reference_in_memory_keeps_its_object_whatever_runs_come_and_go() -> keepstep::Result<()>
{
    let store = memory();
    let engine = engine_on(&store).await;
    let object = engine.put(&vec![1u8; 100]).await?;
    let id = object.address().unwrap();
    for run in 0..3 {
        let run = run.to_string();
        assert_eq!(engine.run(&run, len(&object)).await?, 100);
        engine.delete(&run).await?;
        assert_eq!(engine.maintain().await?.blobs_removed, 0);
    }
    let clone = object.clone();
    drop(object);
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    // So does a workflow that is not started yet.
    let workflow = len(clone);
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    drop(workflow);
    assert_eq!(engine.maintain().await?.blobs_removed, 1);
    assert!(!is_there(&store, &id).await);
    engine.shutdown().await
}

#[tokio::test]
async fn an_output_that_is_in_memory_outlives_its_run() -> keepstep::Result<()> {
    let store = memory();
    let engine = engine_on(&store).await;
    let object = engine.put(&vec![1u8; 100]).await?;
    let id = object.address().unwrap();
    let output = engine.run("first", Workflow::value(vec![object])).await?;
    engine.delete("first").await?;
    engine.maintain().await?;
    assert_eq!(engine.run("second", len(&output[0])).await?, 100);
    drop(output);
    engine.maintain().await?;
    assert_eq!(engine.output::<usize>("second").await?, 100);
    assert!(is_there(&store, &id).await);
    // Nothing else has it: it goes with the run.
    engine.delete("second").await?;
    assert!(!is_there(&store, &id).await);
    engine.shutdown().await
}

static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

#[step(retries = 3, backoff = "1s..1s")]
async fn puts_and_fails() -> anyhow::Result<ObjectRef<Vec<u32>>> {
    let attempt = ATTEMPTS.fetch_add(1, Ordering::SeqCst);
    let object = put(&vec![attempt; 10]).await?;
    put(&vec![attempt + 100; 10]).await?;
    anyhow::ensure!(attempt == 3, "not yet");
    Ok(object)
}

#[tokio::test(start_paused = true)]
async fn what_failed_attempts_put_is_swept_without_reopening() -> keepstep::Result<()> {
    let store = memory();
    let engine = engine_on(&store).await;
    let object = engine.run("run", puts_and_fails()).await?;
    // Three attempts put two, and the last one another that it did not return.
    assert_eq!(engine.maintain().await?.blobs_removed, 7);
    assert_eq!(*object.get().await?, [3; 10]);
    drop(object);
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    engine.shutdown().await
}

/// A result that is long, and is put into a blob by itself.
#[step(retries = 0)]
async fn long() -> Vec<u8> {
    vec![1; 100_000]
}

#[tokio::test(start_paused = true)]
async fn a_long_result_that_was_not_committed_is_swept_without_reopening() -> keepstep::Result<()> {
    let inner = memory();
    let store: Arc<Faulty> = Arc::new(Faulty::new(Arc::clone(&inner)));
    let engine = engine_on(&(store.clone() as Arc<dyn Storage>)).await;
    // The first commit creates the run, the second one has the result.
    store.inject(Fault::at(Call::Commit, 2, Effect::Fail));
    let interrupted = engine.run("run", long()).await;
    assert!(matches!(interrupted, Err(Error::Interrupted { .. })));
    drop(interrupted);
    let mut removed = 0;
    while removed == 0 {
        // The run's task may not be gone yet.
        tokio::task::yield_now().await;
        removed += engine.maintain().await?.blobs_removed;
    }
    assert_eq!(engine.run("run", long()).await?, [1; 100_000]);
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    engine.shutdown().await
}

#[tokio::test]
async fn what_a_crash_left_unnamed_is_swept_after_it() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let engine = Engine::open(path).await?;
    let named = engine.put(&vec![1u8; 100]).await?;
    engine.run("run", len(&named)).await?;
    let garbage = engine.put(&vec![2u8; 100]).await?;
    engine.shutdown().await?;
    // References of a closed engine keep nothing, and say so.
    let closed = named.get().await;
    assert!(matches!(closed, Err(Error::Storage(_))), "{closed:?}");

    let engine = Engine::open(path).await?;
    assert_eq!(engine.maintain().await?.blobs_removed, 1);
    assert_eq!(engine.run("run", len(&named)).await?, 100);
    let gone = engine.run("other", len(&garbage)).await;
    assert!(
        matches!(gone, Err(Error::ObjectNotFound { .. })),
        "{gone:?}"
    );
    engine.shutdown().await
}

#[tokio::test]
async fn a_run_that_would_name_a_missing_object_stops_and_harms_no_other() -> keepstep::Result<()> {
    let store = memory();
    let engine = engine_on(&store).await;
    // The blob goes behind the engine's back: nothing pins it any more, although a reference is there.
    let object = engine.put(&vec![1u8; 100]).await?;
    let id = object.address().unwrap();
    store.unpin_blob(&id);
    store.maintain().await.unwrap();
    let refused = engine.run("run", len(&object)).await;
    assert!(matches!(refused, Err(Error::ObjectNotFound { object }) if object == id));
    assert!(matches!(
        engine.status("run").await,
        Err(Error::NotFound { .. })
    ));
    let run = engine
        .start("waits", event::<ObjectRef<Vec<u8>>>("object"))
        .await?;
    let refused = engine.send_event("waits", "object", &object).await;
    assert!(matches!(refused, Err(Error::ObjectNotFound { .. })));
    let other = engine.put(&vec![2u8; 100]).await?;
    engine.send_event("waits", "object", &other).await?;
    assert_eq!(run.await?, other);
    engine.shutdown().await
}
