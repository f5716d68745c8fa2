//! Values: large ones go through blobs, and what does not decode says where.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::{Mutation, Recorded};
use keepstep::storage::{Storage, memory};
use serde::{Deserialize, Serialize};

/// Longer than what is kept in a journal.
const LARGE: usize = 200_000;
const LONGEST_ENTRY: usize = 70_000;

#[step]
async fn large(letter: char) -> String {
    letter.to_string().repeat(LARGE)
}

#[step(retries = 0)]
async fn large_error(large: &str) -> Result<String, String> {
    Err(large.to_owned())
}

#[step]
async fn lengths(texts: Vec<String>) -> Vec<usize> {
    texts.iter().map(String::len).collect()
}

#[step]
async fn length_of_caught(text: Result<String, StepError>) -> usize {
    text.map_or_else(|error| error.message.len(), |text| text.len())
}

#[step]
async fn lengths_by_name(texts: BTreeMap<String, String>) -> usize {
    texts.values().map(String::len).sum()
}

#[step]
async fn grows_large(letter: char) -> Workflow<String> {
    Workflow::value(letter.to_string().repeat(LARGE))
}

#[step]
async fn grows_with_large_argument(letter: char) -> Workflow<Vec<usize>> {
    lengths(vec![letter.to_string().repeat(LARGE)])
}

/// How many blobs were stored, having checked that no large value went another way.
fn blobs(store: &Recorded) -> usize {
    let mut blobs = 0;
    for mutation in store.log() {
        match mutation {
            Mutation::PutBlob(_) => blobs += 1,
            Mutation::Commit(batch, _) => {
                for write in batch.writes {
                    let values = write.values.iter().filter_map(|(_, value)| value.as_ref());
                    for bytes in values.chain(&write.entry) {
                        assert!(bytes.len() < LONGEST_ENTRY, "{} bytes", bytes.len());
                    }
                }
            }
            _ => {}
        }
    }
    blobs
}

async fn engine_on(store: &Arc<Recorded>) -> Engine {
    let store = Arc::clone(store) as Arc<dyn Storage>;
    Engine::builder().storage(store).build().await.unwrap()
}

#[tokio::test]
async fn large_values_go_through_blobs() -> keepstep::Result<()> {
    let store = Arc::new(Recorded::new(memory()));
    let engine = engine_on(&store).await;

    // As a result, which is also the run's and a named step's.
    let text = engine.run("result", large('a').name("the a")).await?;
    assert_eq!(text.len(), LARGE);
    assert_eq!(engine.output::<String>("result").await?, text);
    assert_eq!(engine.step_output::<String>("result", "the a").await?, text);
    assert_eq!(engine.run("result", large('a').name("the a")).await?, text);
    assert_eq!(blobs(&store), 1);

    // As arguments: literal, among workflows, and of a catch.
    let literal = "b".repeat(LARGE);
    let workflow = lengths(vec![literal.clone(), "c".to_owned()]);
    assert_eq!(engine.run("literal", workflow).await?, [LARGE, 1]);
    let several = lengths(vec![
        large('a'),
        Workflow::value(literal.clone()),
        large('c'),
    ]);
    assert_eq!(engine.run("several", several).await?, [LARGE; 3]);
    let named = BTreeMap::from([("x".to_owned(), large('x')), ("y".to_owned(), large('y'))]);
    assert_eq!(
        engine.run("named", lengths_by_name(named)).await?,
        2 * LARGE
    );
    let caught = length_of_caught(large('d').catch());
    assert_eq!(engine.run("caught", caught).await?, LARGE);
    assert_eq!(
        engine
            .run("outcome", large('d').catch())
            .await?
            .unwrap()
            .len(),
        LARGE
    );
    let twice = large('e').catch().catch();
    assert_eq!(
        engine.run("twice", twice).await?.unwrap().unwrap().len(),
        LARGE
    );

    // Out of expansions.
    assert_eq!(engine.run("grown", grows_large('f')).await?.len(), LARGE);
    let grown = grows_with_large_argument('g');
    assert_eq!(engine.run("grown argument", grown).await?, [LARGE]);
    blobs(&store);

    // They are there for another engine too.
    drop(engine);
    let engine = engine_on(&store).await;
    assert_eq!(engine.output::<String>("result").await?, text);
    assert_eq!(engine.step_output::<String>("result", "the a").await?, text);
    let outcome: Result<String, StepError> = engine.output("outcome").await?;
    assert_eq!(outcome.unwrap(), "d".repeat(LARGE));
    engine.shutdown().await
}

#[tokio::test]
async fn the_same_large_argument_is_the_same_plan() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let workflow = || lengths(vec!["a".repeat(LARGE)]);
    engine.run("run", workflow()).await?;
    engine.run("run", workflow()).await?;
    let error = engine.run("run", lengths(vec!["b".repeat(LARGE)])).await;
    assert!(matches!(error, Err(Error::IdConflict { .. })), "{error:?}");
    engine.shutdown().await
}

#[tokio::test]
async fn a_large_message_of_an_error_is_caught_up_to_its_bound() -> keepstep::Result<()> {
    let caught = length_of_caught(large_error(large('a')).catch());
    let length = caught.eval().await?;
    assert!((60 << 10..=64 << 10).contains(&length), "{length}");
    // A small one is caught whole.
    let caught = length_of_caught(large_error("a".repeat(60 << 10)).catch());
    assert_eq!(caught.eval().await?, 60 << 10);
    Ok(())
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Report<T> {
    title: String,
    rows: Vec<Row<T>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Row<T> {
    value: T,
}

#[step]
async fn report() -> Report<String> {
    let rows = vec![Row { value: "x".into() }];
    let title = "t".into();
    Report { title, rows }
}

#[tokio::test]
async fn an_output_of_another_type_says_where() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    engine.run("run", report().name("the report")).await?;
    for (error, whose) in [
        (
            engine.output::<Report<u64>>("run").await,
            "the output of run \"run\"",
        ),
        (
            engine.step_output("run", "the report").await,
            "the output of step \"the report\" of run \"run\"",
        ),
    ] {
        match error {
            Err(Error::Undecodable {
                what,
                type_name,
                field,
                ..
            }) => {
                assert_eq!(what, whose);
                assert!(type_name.contains("Report<u64>"), "{type_name}");
                assert_eq!(field, "rows[0].value");
            }
            other => panic!("{other:?}"),
        }
    }
    // It is there all the same; also as what any value is.
    assert_eq!(engine.output::<Report<String>>("run").await?.title, "t");
    let json: serde_json::Value = engine.output("run").await?;
    assert_eq!(
        json,
        serde_json::json!({"title": "t", "rows": [{"value": "x"}]})
    );
    engine.shutdown().await
}

#[tokio::test]
async fn the_large_values_of_a_deleted_run_are_won_back() -> keepstep::Result<()> {
    let store = Arc::new(Recorded::new(memory()));
    let engine = engine_on(&store).await;
    engine.run("kept", lengths(vec![large('a')])).await?;
    engine
        .run("deleted", lengths(vec![large('b'), large('a')]))
        .await?;
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    let mut blobs = Vec::new();
    for write in store.log() {
        if let Mutation::PutBlob(bytes) = write {
            let id = store.put_blob(bytes.clone()).await.unwrap();
            store.unpin_blob(&id);
            blobs.push((id, bytes.contains(&b'b')));
        }
    }
    assert!(blobs.iter().any(|(_, is_of_deleted)| *is_of_deleted));
    engine.delete("deleted").await?;
    engine.maintain().await?;
    for (id, is_of_deleted) in blobs {
        let is_there = store.blob_len(&id).await.unwrap().is_some();
        assert_eq!(is_there, !is_of_deleted);
    }
    let text: String = engine.step_output("kept", "values::large").await?;
    assert_eq!(text, "a".repeat(LARGE));
    engine.shutdown().await
}
