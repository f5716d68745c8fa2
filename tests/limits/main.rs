//! What the limits are: things work up to them, and beyond them there is a clear error that changes nothing.
//!
//! Limits that take too long to reach here are reached in `benches/speed`.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keepstep::prelude::*;
use keepstep::storage::Storage;
use keepstep::{Error, Filter, StepErrorKind, event};

/// A value of so many bytes, the tag and a length of two bytes behind its marker included.
fn text(bytes: usize) -> String {
    "x".repeat(bytes - 4)
}

#[step]
async fn next(n: u64) -> u64 {
    n + 1
}

#[step]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[step]
async fn length(text: String) -> u64 {
    text.len() as u64
}

#[step]
async fn lengths(texts: Vec<String>) -> u64 {
    texts.iter().map(|text| text.len() as u64).sum()
}

async fn in_memory() -> (Arc<dyn Storage>, Engine) {
    let store = keepstep::storage::memory();
    let engine = Engine::builder().storage(Arc::clone(&store)).build().await;
    (store, engine.unwrap())
}

async fn is_empty(engine: &Engine) -> bool {
    engine.list(Filter::all()).await.unwrap().runs.is_empty()
}

#[tokio::test]
async fn an_id_has_up_to_255_bytes() {
    let (_, engine) = in_memory().await;
    let too_long = engine.run("x".repeat(256), next(0)).await.unwrap_err();
    assert!(matches!(too_long, Error::InvalidRunId(_)), "{too_long:?}");
    assert!(is_empty(&engine).await);
    assert_eq!(engine.run("x".repeat(255), next(0)).await.unwrap(), 1);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_metadata_may_be_long() {
    let (_, engine) = in_memory().await;
    let name = "n".repeat(1 << 20);
    let metadata = serde_json::json!({ "note": "m".repeat(1 << 20) });
    let workflow = add(next(0).name(&name), 1).metadata(metadata.clone());
    assert_eq!(engine.run("named", workflow).await.unwrap(), 2);
    assert_eq!(engine.step_output::<u64>("named", &name).await.unwrap(), 1);
    let stored = engine.metadata("named").await.unwrap();
    assert_eq!(stored.user, Some(metadata));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_may_be_deep() {
    const DEPTH: u64 = 50_000;
    let (_, engine) = in_memory().await;
    let chain = (1..DEPTH).fold(next(0), |last, _| next(last));
    assert_eq!(engine.run("deep", chain).await.unwrap(), DEPTH);
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_plan_of_a_million_levels_is_built_and_dropped() {
    let chain = (1..1_000_000).fold(next(0), |last, _| next(last));
    drop(chain.clone());
    drop(chain);
}

/// As deep as it is told to; at the bottom it fails until it is mended.
#[step(retries = 0)]
async fn dig(depth: u64) -> anyhow::Result<Workflow<u64>> {
    if depth == 0 {
        anyhow::ensure!(IS_MENDED.load(Ordering::SeqCst), "rock");
        return Ok(Workflow::value(0));
    }
    Ok(add(dig(depth - 1), 1))
}

static IS_MENDED: AtomicBool = AtomicBool::new(false);

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_may_be_deep_also_when_it_is_read_back() {
    const DEPTH: u64 = 10_000;
    let (store, engine) = in_memory().await;
    let failed = engine.run("dig", dig(DEPTH)).await.unwrap_err();
    assert!(matches!(failed, Error::Failed { .. }), "{failed:?}");
    drop(engine);
    let engine = Engine::builder().storage(store).build().await.unwrap();
    IS_MENDED.store(true, Ordering::SeqCst);
    assert_eq!(
        engine.resume::<u64>("dig").await.unwrap().await.unwrap(),
        DEPTH
    );
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_may_take_what_fifty_thousand_gave() {
    let (_, engine) = in_memory().await;
    let texts = (0..50_000).map(|_| say()).collect::<Vec<_>>();
    assert_eq!(engine.run("wide", lengths(texts)).await.unwrap(), 150_000);
    engine.shutdown().await.unwrap();
}

#[step]
async fn say() -> String {
    "hey".to_owned()
}

#[step]
async fn write(bytes: usize) -> String {
    text(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_stands_in_the_journal_up_to_64_kibibytes_and_may_be_much_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let engine = Engine::open(path.to_str().unwrap()).await.unwrap();
    let blobs = || {
        let files = walkdir::WalkDir::new(path.join("blobs")).into_iter();
        files
            .flatten()
            .filter(|file| file.file_type().is_file())
            .count()
    };
    // Here each text is once a literal of the plan and once a result.
    for (bytes, files) in [(64 << 10, 0), ((64 << 10) + 1, 1), (64 << 20, 2)] {
        let run = format!("value of {bytes}");
        let workflow = add(length(write(bytes)), length(text(bytes)));
        let sum = engine.run(&run, workflow).await.unwrap();
        assert_eq!(sum as usize, 2 * (bytes - 4));
        assert_eq!(blobs(), files, "{run}");
    }
    engine.shutdown().await.unwrap();
}

/// Keeps what it is told.
#[derive(serde::Serialize, serde::Deserialize)]
struct Diary {
    text: String,
}

#[virtual_actor]
impl Diary {
    pub fn new() -> Self {
        Diary {
            text: String::new(),
        }
    }

    pub async fn keep(&mut self, text: String) -> u64 {
        self.text = text;
        self.text.len() as u64
    }
}

#[tokio::test]
async fn what_a_message_and_an_actors_state_hold_may_be_long() {
    let long = || text(16 << 20);
    let bytes = long().len() as u64;
    let (_, engine) = in_memory().await;
    let run = engine
        .start("letter", length(event::<String>("letter")))
        .await
        .unwrap();
    engine
        .send_event("letter", "letter", &long())
        .await
        .unwrap();
    assert_eq!(run.await.unwrap(), bytes);
    let diary = Diary::on(&engine).get_or_create("d").await.unwrap();
    assert_eq!(diary.keep(long()).await.unwrap(), bytes);
    engine.shutdown().await.unwrap();
}

/// A plan of more than 1 GiB that takes little memory before it is encoded: its literals share theirs.
fn too_large() -> Workflow<u64> {
    let literal = Workflow::value(text(60_000));
    let texts = (0..18_000).map(|i| literal.clone().name(format!("{i}")));
    lengths(texts.collect::<Vec<_>>())
}

#[step(retries = 5)]
async fn return_too_large() -> Workflow<u64> {
    too_large()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_has_up_to_1_gibibyte() {
    let (_, engine) = in_memory().await;
    let refused = engine.run("large", too_large()).await.unwrap_err();
    assert!(matches!(refused, Error::PlanTooLarge), "{refused:?}");
    assert!(is_empty(&engine).await);

    // From a step it is the step's failure, and trying again would not help.
    let failed = engine
        .run("returned", return_too_large())
        .await
        .unwrap_err();
    let Error::Failed { error, .. } = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.kind, StepErrorKind::Unencodable);
    assert_eq!(error.attempts, 1);
    engine.shutdown().await.unwrap();
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Nested {
    inner: Option<Box<Nested>>,
}

fn nested(depth: usize) -> Nested {
    (1..depth).fold(Nested { inner: None }, |inner, _| Nested {
        inner: Some(Box::new(inner)),
    })
}

#[step]
async fn nest(depth: usize) -> Nested {
    nested(depth)
}

#[step]
async fn depth(value: Nested) -> usize {
    let mut depth = 1;
    let mut value = &value;
    while let Some(inner) = &value.inner {
        depth += 1;
        value = inner;
    }
    depth
}

/// With a stack that has room for the type's own recursion.
#[test]
fn a_value_nests_up_to_250_levels() {
    let with_room = std::thread::Builder::new().stack_size(256 << 20);
    let test = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_all()
            .build()
            .unwrap()
            .block_on(nest_and_look());
    };
    with_room.spawn(test).unwrap().join().unwrap();
}

async fn nest_and_look() {
    let (_, engine) = in_memory().await;
    assert_eq!(engine.run("nested", depth(nest(250))).await.unwrap(), 250);
    // The step that made it fails, and it is not stored.
    let failed = engine
        .run("too nested", depth(nest(5_000)))
        .await
        .unwrap_err();
    let Error::Failed { error, .. } = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.kind, StepErrorKind::Unencodable);
    assert!(error.message.contains("256 levels"), "{error}");
    let refused = engine.run("argument", depth(nested(5_000))).await;
    assert!(
        matches!(refused, Err(Error::Unencodable { .. })),
        "{refused:?}"
    );
    let event = engine.start("event", depth(event::<Nested>("n"))).await;
    drop(event.unwrap());
    let refused = engine.send_event("event", "n", &nested(5_000)).await;
    assert!(
        matches!(refused, Err(Error::Unencodable { .. })),
        "{refused:?}"
    );
    engine.shutdown().await.unwrap();
}
