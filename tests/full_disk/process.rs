//! What the process does whose disk is full: it runs a workflow with results of many sizes, tries again while the disk is
//! still full, and goes on when there is room.

use std::path::Path;

use keepstep::prelude::*;
use keepstep::{NodeState, Result};

use crate::ledger::Ledger;

pub(crate) const STORE: &str = "KEEPSTEP_TEST_STORE";
pub(crate) const LEDGER: &str = "KEEPSTEP_TEST_LEDGER";
/// How much room the process makes itself once it has seen that the disk is full; it ends if this is not set.
pub(crate) const ROOM: &str = "KEEPSTEP_TEST_ROOM";

const RUN: &str = "run";
/// How many results there are.
const PIECES: usize = 25;
/// What is kept in a journal, in one page of it and in many, and what is kept in a file of its own.
const SIZES: [usize; 5] = [300, 100_000, 3_000, 60_000, 20_000];

#[step]
async fn piece(n: usize, #[resource] ledger: &Ledger) -> String {
    ledger.write(&format!("begin {}", context().step_id()));
    let letter = char::from(b'a' + n as u8);
    let mut text = letter.to_string().repeat(SIZES[n % SIZES.len()]);
    // No two are the same blob.
    text.push_str(&n.to_string());
    text
}

#[step]
async fn length(text: &str, #[resource] ledger: &Ledger) -> usize {
    ledger.write(&format!("begin {}", context().step_id()));
    text.len()
}

#[step]
async fn sum(lengths: Vec<usize>, #[resource] ledger: &Ledger) -> usize {
    ledger.write(&format!("begin {}", context().step_id()));
    lengths.iter().sum()
}

fn workflow() -> Workflow<usize> {
    let mut lengths: Vec<Workflow<usize>> = Vec::new();
    for n in 0..PIECES {
        // Some one after the other, some at once.
        let piece = match lengths.last() {
            Some(last) if n % 4 != 0 => piece(n).after(last),
            _ => piece(n),
        };
        lengths.push(length(piece));
    }
    sum(lengths)
}

fn output() -> usize {
    let length = |n: usize| SIZES[n % SIZES.len()] + n.to_string().len();
    (0..PIECES).map(length).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process whose disk is full"]
async fn process() {
    let ledger = Ledger::append_to(Path::new(&std::env::var(LEDGER).unwrap()));
    if go_on(&ledger).await.is_ok() {
        ledger.write("successful");
        return;
    }
    // Nothing has changed: the same again, or the same error.
    let _ = go_on(&ledger).await;
    if let Ok(room) = std::env::var(ROOM) {
        std::fs::write(std::env::var("KEEPSTEP_QUOTA").unwrap(), room).unwrap();
        go_on(&ledger).await.unwrap();
        ledger.write("successful");
    }
}

/// Opens the store and runs the workflow, as far as it gets. Whatever goes wrong, the full disk is why.
async fn go_on(ledger: &Ledger) -> Result<()> {
    let builder = Engine::builder().resource(ledger.clone());
    let opened = builder.open(std::env::var(STORE).unwrap()).await;
    let engine = opened.inspect_err(|error| blame(ledger, error))?;
    let before = look(&engine, ledger).await;
    let outcome = engine.run(RUN, workflow()).await;
    match &outcome {
        Ok(found) => {
            assert_eq!(*found, output());
            assert_eq!(engine.status(RUN).await?, Status::Successful);
            assert_eq!(engine.output::<usize>(RUN).await?, output());
        }
        Err(error) => {
            blame(ledger, error);
            match engine.status(RUN).await {
                Ok(status) => assert_eq!(status, Status::Resumable),
                // It was never begun.
                Err(Error::NotFound { .. }) => assert_eq!(before, None),
                // sled reads nothing after a write that failed.
                Err(error) => blame(ledger, &error),
            }
        }
    }
    // A store that takes no writes may say so once more.
    if let Err(error) = engine.shutdown().await {
        blame(ledger, &error);
        assert!(outcome.is_err(), "{error:?}");
    }
    outcome.map(drop)
}

/// Writes down which steps' results are durable. Reading does not need room.
async fn look(engine: &Engine, ledger: &Ledger) -> Option<Status> {
    let status = match engine.status(RUN).await {
        Err(Error::NotFound { .. }) => return None,
        status => status.unwrap(),
    };
    // A write that failed may be there all the same, and be the run's last.
    assert!(
        matches!(status, Status::Resumable | Status::Successful),
        "{status}"
    );
    ledger.write("opened");
    for node in engine.graph(RUN).await.unwrap().nodes {
        if node.state == Some(NodeState::Done) {
            ledger.write(&format!("durable {}", node.id));
        }
    }
    Some(status)
}

/// The error and what is behind it must name the full disk.
fn blame(ledger: &Ledger, error: &dyn std::error::Error) {
    let mut whole = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        whole = format!("{whole}: {cause}");
        next = cause.source();
    }
    ledger.write(&format!("full {whole}"));
    assert!(whole.contains("No space left on device"), "{whole}");
}
