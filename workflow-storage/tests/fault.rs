//! Faults happen at the call that was named, do what they say, and no more.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::fault::{Call, Effect, Fault, Faulty, Mutation, On, Recorded, replay};
use keepstep_storage::{
    Batch, Build, DeleteOutcome, Epoch, Expect, NodeId, Position, RunDelete, RunId, RunKind,
    RunRecord, RunWrite, Send, StepCounts, Storage, StorageError, StoredStatus, Timestamp, memory,
};

fn id(id: &str) -> RunId {
    RunId::new(id).unwrap()
}

fn creation(run: &str) -> RunWrite {
    RunWrite {
        run: id(run),
        expect: Expect::New,
        record: RunRecord {
            kind: RunKind::Workflow,
            status: StoredStatus::Running,
            owner: None,
            epoch: Epoch::FIRST,
            incarnation: 1,
            workflow: "step".to_owned(),
            plan_hash: [0; 32],
            created_at: Timestamp(1),
            started_at: None,
            ended_at: None,
            wake_at: None,
            first_entry: Position(0),
            next_entry: Position(1),
            journal_bytes: 5,
            steps: StepCounts::default(),
            parent: None,
            build: Build::default(),
            n_orphaned: 0,
        },
        entry: Some("entry".into()),
        truncate: false,
        values: Vec::new(),
        blobs: Vec::new(),
        consumed: Vec::new(),
        only_with: None,
    }
}

fn batch(runs: &[&str]) -> Batch {
    Batch {
        writes: runs.iter().map(|run| creation(run)).collect(),
        messages: runs.iter().map(|run| message(run)).collect(),
        ..Batch::default()
    }
}

fn message(to: &str) -> Send {
    Send {
        to: id(to),
        key: Some("key".to_owned()),
        sent_at: Timestamp(1),
        body: "hello".into(),
        blobs: vec![],
        only_with: None,
    }
}

fn delete(run: &str, epoch: Epoch) -> Batch {
    let delete = RunDelete {
        run: id(run),
        epoch,
        node: NodeId(1),
        family: None,
    };
    delete.into()
}

async fn is_there(store: &dyn Storage, run: &str) -> bool {
    store.record(&id(run)).await.unwrap().is_some()
}

fn faulty(fault: Fault) -> Arc<Faulty> {
    let store = Faulty::new(memory());
    store.inject(fault);
    Arc::new(store)
}

/// Commits runs "1", "2", … of which the commit of "2" goes wrong; which answers were errors and which runs are there.
async fn three_commits(effect: Effect) -> ([bool; 3], [bool; 3]) {
    let store = faulty(Fault::at(Call::Commit, 2, effect));
    let (mut failed, mut there) = ([false; 3], [false; 3]);
    for (n, run) in ["1", "2", "3"].into_iter().enumerate() {
        failed[n] = store.commit(batch(&[run])).await.is_err();
    }
    for (n, run) in ["1", "2", "3"].into_iter().enumerate() {
        there[n] = is_there(&**store.inner(), run).await;
    }
    (failed, there)
}

#[tokio::test]
async fn the_named_call_fails_and_the_others_do_not() {
    let (failed, there) = three_commits(Effect::Fail).await;
    assert_eq!(failed, [false, true, false]);
    assert_eq!(there, [true, false, true]);

    let (failed, there) = three_commits(Effect::FailAfter).await;
    assert_eq!(failed, [false, true, false]);
    assert_eq!(there, [true, true, true]);

    for effect in [Effect::Poison, Effect::Crash] {
        let (failed, there) = three_commits(effect).await;
        assert_eq!(failed, [false, true, true]);
        assert_eq!(there, [true, false, false]);
    }
}

#[tokio::test]
async fn a_torn_commit_has_some_runs_whole() {
    let store = faulty(Fault::next(
        Call::Commit,
        Effect::tear(|run| run.as_str() != "b"),
    ));
    assert!(store.commit(batch(&["a", "b", "c"])).await.is_err());
    for (run, there) in [("a", true), ("b", false), ("c", true)] {
        assert_eq!(is_there(&*store, run).await, there);
        let journal = store.journal(&id(run), Position(0), 100).await.unwrap();
        assert_eq!(journal.len(), usize::from(there));
        let inbox = store.inbox(&id(run), None, 9).await.unwrap();
        assert_eq!(inbox.len(), usize::from(there));
    }
}

#[tokio::test]
async fn a_torn_claim_takes_some_runs() {
    let store = faulty(Fault::next(
        Call::Claim,
        Effect::tear(|run| run.as_str() == "b"),
    ));
    store.commit(batch(&["a", "b"])).await.unwrap();
    let lease = Duration::from_secs(1);
    let claim = store.claim(&[id("a"), id("b")], NodeId(1), lease).await;
    assert!(claim.is_err());
    let owner = async |run| store.record(&id(run)).await.unwrap().unwrap().owner;
    assert_eq!(owner("a").await, None);
    assert_eq!(owner("b").await, Some(NodeId(1)));
}

#[tokio::test]
async fn calls_are_counted_by_kind_and_from_the_injection_on() {
    let store = Faulty::new(memory());
    store.commit(batch(&["a"])).await.unwrap();
    store.record(&id("a")).await.unwrap();
    store.put_blob("x".into()).await.unwrap();
    store.inject(Fault::at(On::AnyWrite, 2, Effect::Fail));
    store.record(&id("a")).await.unwrap();
    store.put_blob("y".into()).await.unwrap();
    assert!(store.commit(delete("a", Epoch::FIRST)).await.is_err());
    store.inject(Fault::next(On::Any, Effect::Fail));
    assert!(store.record(&id("a")).await.is_err());
    let committed = store.commit(delete("a", Epoch::FIRST)).await.unwrap();
    assert_eq!(committed.deletes, [DeleteOutcome::Deleted]);

    let counts = [Call::Commit, Call::PutBlob, Call::Read];
    assert_eq!(counts.map(|call| store.calls(call)), [3, 2, 3]);
    assert_eq!(store.calls(On::AnyWrite), 5);
    assert_eq!(store.calls(On::Any), 8);
}

#[tokio::test]
async fn a_fault_has_the_error_it_was_given() {
    let full = StorageError::Closed {
        location: "given".to_owned(),
    };
    let fault = Fault::next(Call::Commit, Effect::Fail).with_error(full);
    let answer = faulty(fault).commit(Batch::default()).await;
    assert!(matches!(answer, Err(StorageError::Closed { location }) if location == "given"));
    let fault = Fault::next(Call::Commit, Effect::Fail);
    let answer = faulty(fault).commit(Batch::default()).await;
    assert!(matches!(answer, Err(StorageError::Io { .. })));
}

#[tokio::test]
async fn a_poisoned_store_is_read_only_until_it_heals() {
    let store = faulty(Fault::next(Call::Commit, Effect::Poison));
    assert!(store.commit(batch(&["a"])).await.is_err());
    let answer = store.commit(batch(&["a"])).await;
    assert!(matches!(answer, Err(StorageError::Poisoned { .. })));
    assert!(store.put_blob("x".into()).await.is_err());
    assert!(!is_there(&*store, "a").await);
    store.heal();
    store.commit(batch(&["a"])).await.unwrap();
    assert!(is_there(&*store, "a").await);
}

#[tokio::test]
async fn a_crashed_store_answers_nothing() {
    let store = faulty(Fault::at(On::Any, 2, Effect::Crash));
    store.commit(batch(&["a"])).await.unwrap();
    assert!(store.record(&id("a")).await.is_err());
    assert!(store.commit(batch(&["b"])).await.is_err());
    assert!(store.close().await.is_err());
    assert!(is_there(&**store.inner(), "a").await);
}

#[tokio::test]
async fn held_calls_wait_for_their_release() {
    for (effect, done_while_held) in [(Effect::Delay, false), (Effect::DelayAfter, true)] {
        let store = faulty(Fault::next(Call::Commit, effect));
        let held = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.commit(batch(&["held"])).await }
        });
        store.until_held(1).await;
        assert_eq!(is_there(&**store.inner(), "held").await, done_while_held);
        // Others pass.
        store.commit(batch(&["other"])).await.unwrap();
        assert!(!held.is_finished());
        store.release_held();
        held.await.unwrap().unwrap();
        assert!(is_there(&*store, "held").await);
    }
}

#[tokio::test]
async fn a_frozen_store_holds_every_call() {
    let store = faulty(Fault::next(Call::Commit, Effect::Freeze));
    let commit = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.commit(batch(&["a"])).await }
    });
    store.until_held(1).await;
    let read = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.record(&id("a")).await }
    });
    store.until_held(2).await;
    // A caller that gives up is not held any more.
    read.abort();
    assert!(read.await.unwrap_err().is_cancelled());
    store.release_held();
    commit.await.unwrap().unwrap();
    assert!(is_there(&*store, "a").await);
}

#[tokio::test]
async fn every_prefix_of_a_record_replays() {
    let store = Recorded::new(memory());
    let lease = Duration::from_secs(1);
    store.put_blob("blob".into()).await.unwrap();
    store.commit(batch(&["a", "b"])).await.unwrap();
    store
        .claim(&[id("a"), id("x")], NodeId(1), lease)
        .await
        .unwrap();
    store.release(&[(id("a"), Epoch(2))]).await.unwrap();
    let mut consuming = creation("b");
    consuming.expect = Expect::Epoch(Epoch::FIRST);
    consuming.entry = None;
    let inbox = store.inbox(&id("b"), None, 9).await.unwrap();
    consuming.consumed = inbox.iter().map(|message| message.id).collect();
    let writes = vec![consuming];
    let messages = vec![message("b")];
    let batch = Batch {
        writes,
        messages,
        ..Batch::default()
    };
    store.commit(batch).await.unwrap();
    store.commit(delete("a", Epoch(3))).await.unwrap();
    store.record(&id("a")).await.unwrap();

    let log = store.log();
    assert_eq!(log.len(), 6);
    for writes in 0..=log.len() {
        let crashed = memory();
        replay(&log[..writes], &*crashed).await.unwrap();
        assert_eq!(is_there(&*crashed, "a").await, (2..6).contains(&writes));
        assert_eq!(is_there(&*crashed, "b").await, writes >= 2);
        let owner = crashed.record(&id("a")).await.unwrap();
        let owner = owner.and_then(|record| record.owner);
        assert_eq!(owner, (writes == 3).then_some(NodeId(1)));
        let inbox = crashed.inbox(&id("b"), None, 9).await.unwrap();
        assert_eq!(inbox.len(), usize::from((2..5).contains(&writes)));
    }
    let answer = replay(&log, &*store.inner().clone()).await;
    assert!(matches!(answer, Err(StorageError::Corrupt { .. })));
}

#[tokio::test]
async fn failed_calls_are_not_recorded() {
    let store = Recorded::new(faulty(Fault::next(Call::Commit, Effect::Fail)));
    assert!(store.commit(batch(&["a"])).await.is_err());
    store.commit(batch(&["b"])).await.unwrap();
    let log = store.log();
    assert!(matches!(&log[..], [Mutation::Commit(batch, _)] if batch.writes[0].run == id("b")));
}
