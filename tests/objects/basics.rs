//! Putting and getting: one copy for all who read, in the store and in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Faulty};
use keepstep::storage::memory;
use keepstep::{Bytes, Filter};
use serde::{Deserialize, Serialize};

#[step]
async fn numbers(n: u32) -> keepstep::Result<ObjectRef<Vec<u32>>> {
    put(&(0..n).collect()).await
}

#[step]
async fn sum(of: ObjectRef<Vec<u32>>) -> keepstep::Result<u64> {
    let numbers = of.get().await?;
    Ok(numbers.iter().map(|n| u64::from(*n)).sum())
}

#[tokio::test]
async fn what_a_step_puts_another_gets() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let total = sum(numbers(100_000));
    assert_eq!(engine.run("total", &total).await?, 4_999_950_000);
    // The reference is short, and stands in the journal.
    assert!(engine.metadata("total").await?.journal_bytes < 1_000);
    assert_eq!(total.eval().await?, 4_999_950_000);
    engine.shutdown().await
}

#[step]
async fn words() -> keepstep::Result<Vec<ObjectRef<String>>> {
    Ok(vec![
        ObjectRef::spawn(async { "hello".to_string() }),
        put(&"world".to_string()).await?,
    ])
}

#[step]
async fn joined(words: Vec<ObjectRef<String>>) -> keepstep::Result<String> {
    let mut joined = Vec::new();
    for word in &words {
        joined.push((*word.get().await?).clone());
    }
    Ok(joined.join(" "))
}

#[tokio::test]
async fn references_to_what_is_there_and_to_work_under_way_go_together() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let greeting = engine.run("greeting", joined(words())).await?;
    assert_eq!(greeting, "hello world");
    assert_eq!(joined(words()).eval().await?, "hello world");
    engine.shutdown().await
}

#[tokio::test]
async fn what_eval_returns_can_be_read() -> keepstep::Result<()> {
    let words = words().eval().await?;
    assert_eq!(*words[0].get().await?, "hello");
    assert_eq!(*words[1].get().await?, "world");
    Ok(())
}

/// Counts how often it is decoded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(from = "Vec<u8>")]
struct Counted(Vec<u8>);

static DECODED: AtomicUsize = AtomicUsize::new(0);

impl From<Vec<u8>> for Counted {
    fn from(bytes: Vec<u8>) -> Self {
        DECODED.fetch_add(1, Ordering::SeqCst);
        Self(bytes)
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<std::sync::Mutex<Vec<Arc<Counted>>>>);

#[step]
async fn look(
    n: u32,
    object: ObjectRef<Counted>,
    #[resource] seen: &Seen,
) -> keepstep::Result<u32> {
    let object = object.get().await?;
    seen.0.lock().unwrap().push(object);
    Ok(n)
}

#[step]
async fn largest(of: Vec<u32>) -> u32 {
    of.into_iter().max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_readers_share_one_decoded_object() -> keepstep::Result<()> {
    // Also one that is larger than the cache.
    for cache in [1 << 20, 0, 1000] {
        let seen = Seen::default();
        let builder = Engine::builder().resource(seen.clone()).object_cache(cache);
        let engine = builder.open("memory:").await?;
        let object = engine.put(&Counted(vec![7; 100_000])).await?;
        DECODED.store(0, Ordering::SeqCst);
        let readers: Vec<_> = (0..10).map(|n| look(n, object.clone())).collect();
        assert_eq!(engine.run("read", largest(readers)).await?, 9);
        let seen = std::mem::take(&mut *seen.0.lock().unwrap());
        assert_eq!(seen.len(), 10);
        assert!(seen.iter().all(|one| Arc::ptr_eq(one, &seen[0])));
        assert_eq!(DECODED.load(Ordering::SeqCst), 1, "cache of {cache}");
        drop(seen);
        object.get().await?;
        let again = if cache > 100_000 { 1 } else { 2 };
        assert_eq!(DECODED.load(Ordering::SeqCst), again, "cache of {cache}");
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn bytes_are_mapped_and_never_copied() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().to_str().unwrap()).await?;
    let content = Bytes::from(vec![3; 1 << 20]);
    let object = engine.put(&content).await?;
    assert_eq!(object.stored_len(), Some(1 << 20));
    let (one, other) = (object.get().await?, object.get().await?);
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(one.as_ptr(), other.slice(..).as_ptr());
    assert!(*one == content);
    // The same bytes by another way are the same object, and the same file.
    let streamed = engine.put_reader(&content[..]).await?;
    assert_eq!(streamed, object);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let address = object.address().unwrap().to_string();
    let is_mapped = maps.lines().any(|line| line.contains(&address[2..]));
    assert!(is_mapped || !cfg!(target_os = "linux"));
    engine.shutdown().await?;
    // What is mapped stays readable.
    assert!(*one == content);
    Ok(())
}

#[tokio::test]
async fn an_object_is_written_once_however_often_it_is_passed() -> keepstep::Result<()> {
    let store = Arc::new(Faulty::new(memory()));
    let engine = Engine::builder().storage(store.clone()).build().await?;
    let object = engine.put(&(0..100_000).collect::<Vec<u32>>()).await?;
    assert_eq!(store.calls(Call::PutBlob), 1);
    for run in 0..5 {
        let total = sum(object.clone());
        engine.run(format!("run {run}"), &total).await?;
        engine.run(format!("run {run}"), &total).await?;
    }
    assert_eq!(store.calls(Call::PutBlob), 1);
    engine.shutdown().await
}

#[tokio::test]
async fn references_are_equal_if_their_objects_are() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let (one, same) = (engine.put(&1).await?, engine.put(&1).await?);
    let other = engine.put(&2).await?;
    assert_eq!(one, same);
    assert_ne!(one, other);
    let distinct: std::collections::HashSet<_> = [&one, &same, &other].into();
    assert_eq!(distinct.len(), 2);
    assert!(format!("{one:?}").contains(&one.address().unwrap().to_string()));
    engine.shutdown().await
}

#[tokio::test]
async fn an_object_of_another_type_is_a_named_error() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let text = engine.put(&"text".to_owned()).await?;
    let bytes = engine.put(&Bytes::from_static(b"bytes")).await?;
    engine.run("text", Workflow::value(text.clone())).await?;
    engine.run("bytes", Workflow::value(bytes.clone())).await?;
    let as_number: ObjectRef<u64> = engine.output("text").await?;
    let error = as_number.get().await.unwrap_err();
    assert!(matches!(
        &error,
        Error::Undecodable {
            type_name: "u64",
            ..
        }
    ));
    assert!(
        error
            .to_string()
            .contains(&text.address().unwrap().to_string())
    );
    let as_text: ObjectRef<String> = engine.output("bytes").await?;
    let error = as_text.get().await.unwrap_err().to_string();
    assert!(error.contains("ObjectRef<Bytes>"), "{error}");
    let as_bytes: ObjectRef<Bytes> = engine.output("text").await?;
    assert!(as_bytes.reader().await.is_err());
    engine.shutdown().await
}

#[tokio::test]
async fn a_reference_survives_json_and_belongs_to_the_engine_of_the_step() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let object = engine.put(&vec![1u32, 2, 3]).await?;
    let json = serde_json::to_string(&object).unwrap();
    let parsed: ObjectRef<Vec<u32>> = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed, object);
    assert_eq!(engine.run("sum", sum(&parsed)).await?, 6);
    for wrong in ["\"\"", "\"blake3-v:00:0\"", "7", "null"] {
        assert!(serde_json::from_str::<ObjectRef<u8>>(wrong).is_err());
    }
    engine.shutdown().await
}

#[tokio::test]
async fn a_reference_to_what_is_not_there_is_refused_and_stores_nothing() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let other = Engine::open("memory:").await?;
    let foreign = other.put(&vec![1u32]).await?;
    let refused = engine.run("sum", sum(&foreign)).await;
    let Err(Error::ObjectNotFound { object }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(Some(object), foreign.address());
    assert!(engine.list(Filter::all()).await?.runs.is_empty());
    // Of a step that returns one, it is the step's failure.
    #[step(retries = 0)]
    async fn made_up() -> ObjectRef<u32> {
        let text = format!("\"blake3-v:{}:0000000000000001\"", "ab".repeat(32));
        serde_json::from_str(&text).unwrap()
    }
    let failed = engine.run("made up", made_up()).await;
    let Err(Error::Failed { error, .. }) = failed else {
        panic!("{failed:?}");
    };
    assert!(error.message.contains("is not in the engine's store"));
    other.shutdown().await?;
    engine.shutdown().await
}

#[tokio::test]
async fn a_workflow_of_the_same_objects_is_the_same_workflow() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let all: BTreeSet<u32> = [1, 2].into();
    let workflow = |object| Workflow::value(vec![object]).name("objects");
    let first = engine.put(&all).await?;
    engine.run("run", workflow(first)).await?;
    let again = engine.put(&all).await?;
    engine.run("run", workflow(again)).await?;
    let other = engine.put(&BTreeSet::from([3])).await?;
    let conflict = engine.run("run", workflow(other)).await;
    assert!(matches!(conflict, Err(Error::IdConflict { .. })));
    engine.shutdown().await
}
