//! Runs that end, or stop, in every way there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::{Adapter, Batch, Blobs, RunId, Send, Storage, Timestamp};

use crate::map::{Map, Pairs};

#[step]
async fn one() -> u64 {
    1
}

#[step]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[step(codec = "bincode")]
async fn packed(a: u64) -> (u64, String) {
    (a, "packed".to_owned())
}

#[step(checkpoint = false)]
async fn volatile(a: (u64, String)) -> Option<String> {
    Some(a.1)
}

#[step]
async fn gather(
    all: Vec<u64>,
    text: Option<String>,
    map: BTreeMap<String, u64>,
) -> serde_json::Value {
    serde_json::json!({"all": all, "text": text, "map": map, "f": 1.5})
}

#[step(retries = 1, backoff = "1ms..2ms")]
async fn fails() -> Result<u64, String> {
    Err("no".to_owned())
}

#[step(retries = 2, backoff = "1h..2h")]
async fn fails_slowly() -> Result<u64, String> {
    Err("not yet".to_owned())
}

#[step]
async fn recover(result: Result<u64, StepError>) -> u64 {
    result.unwrap_or(7)
}

#[step]
async fn fib(n: u64) -> Workflow<u64> {
    if n <= 1 {
        return Workflow::value(n);
    }
    add(fib(n - 1), fib(n - 2))
}

#[step]
async fn large() -> String {
    "x".repeat(60_000)
}

#[step]
async fn round(n: u64, large: String) -> Workflow<u64> {
    if n == 0 {
        return add(large.len() as u64, 1);
    }
    round(n - 1, self::large()).name("round")
}

#[step]
async fn blob() -> String {
    "y".repeat(100_000)
}

#[step]
async fn len(text: String) -> u64 {
    text.len() as u64
}

#[step]
async fn words() -> keepstep::Result<Vec<ObjectRef<String>>> {
    let hello = ObjectRef::spawn(async { "hello".to_owned() });
    Ok(vec![hello, put(&"world".to_owned()).await?])
}

#[step]
async fn join(words: Vec<ObjectRef<String>>) -> keepstep::Result<String> {
    let mut joined = String::new();
    for word in words {
        joined += &word.get().await?;
    }
    Ok(joined)
}

/// Runs them all on one store, and gives its pairs. Some are from the middle of runs.
pub async fn run_all() -> Pairs {
    let map = Map::default();
    let store = Adapter::open(map.clone(), Blobs::in_memory(), "seeds").unwrap();
    let store: Arc<dyn Storage> = Arc::new(store);
    let engine = Engine::builder()
        .storage(Arc::clone(&store))
        .build()
        .await
        .unwrap();

    engine.run("value", Workflow::value(5u8)).await.unwrap();
    engine.run("sum/1", add(100, one())).await.unwrap();
    engine.run("fib/5", fib(5).name("fib")).await.unwrap();
    let gathered = gather(
        vec![one(), add(1, 2)],
        volatile(packed(3)).retries(2),
        BTreeMap::from([("a".to_owned(), one().name("a")), ("b".to_owned(), one())]),
    );
    let metadata = serde_json::json!({"who": "somebody"});
    engine
        .run("gather", gathered.metadata(metadata))
        .await
        .unwrap();
    engine
        .run("caught", recover(fails().catch()))
        .await
        .unwrap();
    engine.run("failed", add(one(), fails())).await.unwrap_err();
    engine.run("large", len(blob())).await.unwrap();
    engine
        .run("objects", join(words().name("words")))
        .await
        .unwrap();
    let object = engine.put(&"again".to_owned()).await.unwrap();
    engine
        .run("parent", child("child", join(vec![object])))
        .await
        .unwrap();
    let mut handles = vec![
        engine
            .start("waits", add(one(), fails_slowly()))
            .await
            .unwrap(),
        engine
            .start("stops", add(one(), fails_slowly()))
            .await
            .unwrap(),
        engine
            .start("ends", add(one(), fails_slowly()))
            .await
            .unwrap(),
    ];
    for id in ["waits", "stops", "ends"] {
        // Until its first attempt is stored.
        while engine.metadata(id).await.unwrap().wake_at.is_none() {
            tokio::task::yield_now().await;
        }
    }
    engine.suspend("stops").await.unwrap();
    engine.cancel("ends").await.unwrap();
    engine.run("rounds", round(60, large())).await.unwrap();
    let handle = engine
        .start("half", round(1_000_000, large()))
        .await
        .unwrap();
    // Until its journal has been compacted a few times.
    while engine.metadata("half").await.unwrap().progress.done < 200 {
        tokio::task::yield_now().await;
    }
    engine.suspend("half").await.unwrap();
    drop(handle);
    handles.clear();

    let message = |key: Option<&str>| Send {
        to: RunId::new("waits").unwrap(),
        key: key.map(str::to_owned),
        sent_at: Timestamp(1),
        body: "a message".into(),
        blobs: vec![],
        only_with: None,
    };
    let messages = vec![message(None), message(Some("once"))];
    store
        .commit(Batch {
            messages,
            ..Batch::default()
        })
        .await
        .unwrap();
    let pairs = map.0.lock().unwrap().clone();
    engine.shutdown().await.unwrap();
    pairs
}
