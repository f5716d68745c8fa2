//! Loops by tail call run in bounded memory and storage.

use keepstep::prelude::*;
use keepstep::storage::{Position, RunId};

use crate::common::{Do, Lab, World};

#[step(retries = 0)]
async fn countdown(n: u64, total: u64) -> Workflow<u64> {
    match n {
        0 => Workflow::value(total),
        n => countdown(n - 1, total + n),
    }
}

/// A loop whose state is a result: each round takes what a step of the round before gave.
#[step(retries = 0)]
async fn gather(n: u64, text: String) -> Workflow<usize> {
    match n {
        0 => Workflow::value(text.len()),
        n => gather(n - 1, next_text(text)),
    }
}

#[step(retries = 0)]
async fn next_text(text: String) -> String {
    format!("{}{}", &text[1..], (text.len() % 10))
}

#[tokio::test]
async fn ten_thousand_rounds_leave_a_short_journal() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let n = 10_000;
    assert_eq!(engine.run("run", countdown(n, 0)).await?, n * (n + 1) / 2);
    let metadata = engine.metadata("run").await?;
    assert_eq!(metadata.progress.done, n + 1);
    // A megabyte is not worth compacting.
    assert!(
        metadata.journal_bytes < 1 << 21,
        "{}",
        metadata.journal_bytes
    );
    // The state that is left does not grow with the rounds.
    assert!(engine.graph("run").await?.nodes.len() as u64 <= n + 1);
    engine.shutdown().await
}

#[tokio::test]
async fn the_beginning_of_a_long_journal_is_let_go() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let text = "x".repeat(2_000);
    assert_eq!(engine.run("run", gather(2_000, text)).await?, 2_000);
    let id = RunId::new("run").unwrap();
    let record = lab.store.record(&id).await.unwrap().unwrap();
    // 2,000 rounds have each written more than 2,000 bytes.
    assert!(record.journal_bytes < 3 << 20, "{}", record.journal_bytes);
    assert!(record.first_entry > Position(0));
    let entries = lab
        .store
        .journal(&id, Position(0), usize::MAX)
        .await
        .unwrap();
    assert_eq!(entries[0].position, record.first_entry);
    let stored: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    assert_eq!(stored as u64, record.journal_bytes);
    engine.shutdown().await
}

#[step(retries = 0)]
async fn rounds(n: u64, text: String, #[resource] world: &World) -> Result<Workflow<u64>, String> {
    world.note(format!("round {n}"));
    if n.is_multiple_of(500) {
        world.act(&format!("stop {n}")).await?;
    }
    Ok(match n {
        0 => Workflow::value(text.len() as u64),
        n => rounds(n - 1, text),
    })
}

#[tokio::test]
async fn a_loop_goes_on_from_its_last_round() -> keepstep::Result<()> {
    let lab = Lab::new();
    let text = "x".repeat(2_000);
    let workflow = rounds(2_000, &text).name("the loop");
    let mut seen = 0;
    for stop in [1_500, 1_000, 500, 0] {
        let who = format!("stop {stop}");
        lab.world.tell(&who, Do::Hold);
        let engine = lab.engine().await;
        drop(engine.start("run", &workflow).await?);
        lab.world.until(&who).await;
        lab.crash(engine).await;
        lab.world.tell(&who, Do::Succeed);
        seen += lab
            .world
            .log()
            .iter()
            .filter(|noted| noted.starts_with("round"))
            .count();
    }
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", &workflow).await?, 2_000);
    seen += lab
        .world
        .log()
        .iter()
        .filter(|noted| noted.starts_with("round"))
        .count();
    // Each round ran once, and those that a crash cut short once more.
    assert_eq!(seen, 2_001 + 4);
    // The name is that of the whole loop.
    assert_eq!(engine.step_output::<u64>("run", "the loop").await?, 2_000);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_a_loop_is_caught_outside_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("stop 500", Do::Fail);
    let engine = lab.engine().await;
    let error = engine
        .run("run", rounds(600, "x").catch())
        .await?
        .unwrap_err();
    assert_eq!(error.message, "stop 500 failed");
    // The step that was called, and the tail call that stands in for it.
    assert_eq!(error.path.len(), 2);
    assert!(error.path[0].ends_with("::rounds"), "{:?}", error.path);
    assert!(
        error.path[1].ends_with("::rounds (tail call 99)"),
        "{:?}",
        error.path
    );
    engine.shutdown().await
}
