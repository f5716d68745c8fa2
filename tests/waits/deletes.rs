//! Parents and their children are deleted together: whatever the parent has forgotten, however many they are, and through a crash
//! after each write.

use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::{Recorded, replay};
use keepstep::storage::{Position, RunId, Storage, memory};
use keepstep::{Filter, RunSummary};

use crate::common::{Do, Lab, World};

#[step(retries = 0)]
async fn work(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

#[step]
async fn join(parts: Vec<String>) -> usize {
    parts.len()
}

/// A loop, each round of which has a child of its own. Only the last rounds are in the journal.
#[step(retries = 0)]
async fn rounds(n: u64, _last: String) -> Workflow<u64> {
    match n {
        0 => Workflow::value(0),
        n => rounds(n - 1, child(format!("of round {n}"), work("x".repeat(500)))),
    }
}

async fn runs(engine: &Engine) -> Vec<RunSummary> {
    engine.list(Filter::all().limit(10_000)).await.unwrap().runs
}

#[tokio::test(start_paused = true)]
async fn children_that_a_compacted_journal_does_not_name_go_with_their_parent()
-> keepstep::Result<()> {
    const ROUNDS: u64 = 60;
    let lab = Lab::new();
    let engine = lab.builder().compact_above(1).build().await?;
    engine.run("parent", rounds(ROUNDS, String::new())).await?;
    let id = RunId::new("parent").unwrap();
    let record = lab.store.record(&id).await?.unwrap();
    assert!(record.first_entry > Position(0));
    assert_eq!(runs(&engine).await.len() as u64, ROUNDS + 1);
    engine.run("of round", work("apart")).await?;
    engine.delete("parent").await?;
    let left: Vec<String> = runs(&engine).await.into_iter().map(|run| run.id).collect();
    assert_eq!(left, ["of round"]);
    // Nothing keeps the id, or those of the children, from being used again.
    engine.run("parent", rounds(2, String::new())).await?;
    engine.delete("of round 1").await?;
    engine.delete("parent").await?;
    assert_eq!(runs(&engine).await.len(), 1);
    engine.shutdown().await
}

/// The parent of many children, one of which has a child itself. One child is suspended, and so is the parent; or one has failed,
/// and so has the parent.
async fn family(lab: &Lab, n_children: usize, ends: Do) -> keepstep::Result<()> {
    lab.world.tell("last", ends);
    let engine = lab.engine().await;
    let child_of = |n: usize| child(format!("child/{n}"), work("first"));
    let mut parts: Vec<Workflow<String>> = (2..n_children).map(child_of).collect();
    parts.push(child("child/0", child("grandchild", work("first"))));
    let last = work("last").after(&join(parts));
    let run = engine.start("parent", child("child/1", last)).await?;
    if ends == Do::Hold {
        lab.world.until("last").await;
        engine.suspend("parent").await?;
        engine.suspend("child/1").await?;
        drop(run);
    } else {
        let failed = run.await;
        assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    }
    assert_eq!(runs(&engine).await.len(), n_children + 2);
    lab.crash(engine).await;
    Ok(())
}

/// Deletes a family, and crashes after each write of that: nothing is done again whatever is called, until it is deleted.
async fn every_prefix(n_children: usize, ends: Do, is_atomic: bool) -> keepstep::Result<()> {
    let recorded = Arc::new(Recorded::new(memory()));
    let lab = Lab::on(recorded.clone());
    family(&lab, n_children, ends).await?;
    let before = recorded.log().len();
    let engine = lab.engine().await;
    engine.delete("parent").await?;
    assert_eq!(runs(&engine).await.len(), 0);
    lab.crash(engine).await;
    let log = recorded.log();
    let n_writes = log.len() - before;
    assert_eq!(n_writes == 1, is_atomic, "{n_writes} writes");
    for writes in before..=log.len() {
        let store = memory();
        replay(&log[..writes], &*store).await?;
        let lab = Lab::on(Arc::clone(&store) as Arc<dyn Storage>);
        let engine = lab.builder().resume_on_open(true).build().await?;
        let left = runs(&engine).await.len();
        let is_whole = left == n_children + 2;
        let status = match engine.status("parent").await {
            Ok(status) => Some(status),
            Err(Error::NotFound { .. }) => None,
            Err(error) => panic!("{error} after {writes} writes"),
        };
        if is_atomic {
            assert_eq!(status.is_some(), is_whole, "after {writes} writes");
        }
        assert_eq!(status.is_none(), left == 0, "{left} after {writes} writes");
        // What has lost a part of its family goes on no more, whoever asks for that.
        if status.is_some() && !is_whole {
            assert_eq!(status, Some(Status::Canceled), "after {writes} writes");
            let resumed = engine.resume::<String>("parent").await;
            assert!(matches!(resumed, Err(Error::Canceled { .. })));
        }
        for (_, resumed) in engine.resume_all().await? {
            drop(resumed?.await);
        }
        assert_eq!(lab.world.log(), [""; 0], "after {writes} writes");
        if status.is_some() {
            engine.delete("parent").await?;
        }
        assert_eq!(runs(&engine).await.len(), 0, "after {writes} writes");
        // All of their ids are free.
        assert_eq!(
            engine.run("parent", child("child/1", work("new"))).await?,
            "new"
        );
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_leaves_a_family_whole_or_gone() -> keepstep::Result<()> {
    every_prefix(12, Do::Hold, true).await?;
    every_prefix(12, Do::Fail, true).await
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_leaves_of_a_large_family_does_nothing_any_more() -> keepstep::Result<()> {
    every_prefix(900, Do::Hold, false).await?;
    every_prefix(900, Do::Fail, false).await
}
