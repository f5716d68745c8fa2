//! Connections that are cut off without a sign: nothing comes any more, and nobody closes them.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    Batch, Epoch, Expect, NodeId, Notice, Position, RunKind, Storage, WriteOutcome,
};

use crate::kit::{creation, id, open, record};
use crate::line::Line;
use crate::server;

const NODE: NodeId = NodeId(7);
/// Much less than a call takes that waits for its answer, and more than one that is asked again, however slow the
/// machine.
const SOON: Duration = Duration::from_secs(30);

/// Appends an entry to a run, or creates it with one.
fn batch(run: &str, entry: u64) -> Batch {
    let mut write = creation(run);
    if entry > 0 {
        write.expect = Expect::Epoch(write.record.epoch);
    }
    write.record.next_entry = Position(entry + 1);
    write.entry = Some(format!("entry {entry}").into());
    Batch {
        writes: vec![write],
        deletes: vec![],
        messages: vec![],
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what)
        .await
        .expect("it takes too long")
}

/// A store whose connections have been used for everything.
async fn store() -> (Line, Arc<dyn Storage>) {
    let line = Line::to(&server::url()).await;
    let store = open(&line.url).await;
    drop(store.commit(batch("run", 0)).await.unwrap());
    drop(claim(&*store).await);
    store.renew(NODE, SOON).await.unwrap();
    (line, store)
}

async fn claim(store: &dyn Storage) -> Vec<String> {
    let free = store.claim_free(RunKind::Workflow, &[], NODE, SOON, 9);
    let free = free.await.unwrap();
    free.iter().map(|run| run.run.to_string()).collect()
}

#[tokio::test]
async fn what_is_asked_over_a_silent_connection_is_asked_again_and_done_once() {
    let (line, store) = store().await;
    for (answers_only, n) in [(false, 1), (true, 2)] {
        // The claim raised the epoch.
        let mut next = batch("run", n);
        next.writes[0].record = record(&*store, "run").await;
        next.writes[0].expect = Expect::Epoch(next.writes[0].record.epoch);
        next.writes[0].record.next_entry = Position(n + 1);
        line.swallow(".commit(", answers_only);
        let committed = soon(store.commit(next)).await.unwrap();
        assert_eq!(committed.writes, [WriteOutcome::Written], "{answers_only}");

        let free = format!("free-{n}");
        store.commit(batch(&free, 0)).await.unwrap();
        line.swallow(".claim_free(", answers_only);
        assert_eq!(soon(claim(&*store)).await, [free]);

        line.swallow(".renew(", answers_only);
        soon(store.renew(NODE, SOON)).await.unwrap();
    }
    let journal = store.journal(&id("run"), Position(0), 9_999).await.unwrap();
    assert_eq!(journal.len(), 3);
    assert!(record(&*store, "run").await.epoch > Epoch::FIRST);
}

#[tokio::test]
async fn connections_that_are_all_silent_at_once_are_made_anew() {
    let (line, store) = store().await;
    let calls = || (0..4).map(|n| format!("one-{n}"));
    let commits = calls().map(|run| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(batch(&run, 0)).await })
    });
    for commit in commits.collect::<Vec<_>>() {
        commit.await.unwrap().unwrap();
    }
    line.swallow("", false);
    let read = tokio::spawn({
        let store = Arc::clone(&store);
        async move { record(&*store, "run").await }
    });
    let commits = calls().map(|run| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(batch(&format!("{run}-more"), 0)).await })
    });
    for commit in commits.collect::<Vec<_>>() {
        let committed = soon(commit).await.unwrap().unwrap();
        assert_eq!(committed.writes, [WriteOutcome::Written]);
    }
    soon(store.renew(NODE, SOON)).await.unwrap();
    assert_eq!(soon(claim(&*store)).await.len(), 8);
    assert_eq!(soon(read).await.unwrap().owner, Some(NODE));
}

#[tokio::test]
async fn who_listens_over_a_silent_connection_looks_and_listens_anew() {
    let (line, store) = store().await;
    let other = open(&line.url).await;
    let hears = async |wanted: Notice| {
        while !soon(store.notices()).await.contains(&wanted) {}
    };
    hears(Notice::Missed).await;
    // It listens: what another process asks for is heard.
    other.want(&id("run")).await.unwrap();
    hears(Notice::Wanted(id("run"))).await;

    line.swallow("LISTEN", false);
    other.want(&id("run")).await.unwrap();
    // Whatever it was may have been missed, and is looked for.
    hears(Notice::Missed).await;
    let heard = async {
        loop {
            other.want(&id("run")).await.unwrap();
            let notices = tokio::time::timeout(Duration::from_millis(200), store.notices());
            if notices
                .await
                .is_ok_and(|all| all.contains(&Notice::Wanted(id("run"))))
            {
                return;
            }
        }
    };
    soon(heard).await;
}

#[tokio::test]
async fn what_takes_long_is_waited_for_and_not_asked_for_again() {
    let (line, store) = store().await;
    let (client, schema) = server::client(&line.url).await;
    let schema = schema.split('&').next().unwrap();
    let own = record(&*store, "run").await;
    let mut next = batch("run", 1);
    next.writes[0].record = own.clone();
    next.writes[0].expect = Expect::Epoch(own.epoch);
    next.writes[0].record.next_entry = Position(2);
    let (mut blocker, _) = server::client(&line.url).await;
    let held = blocker.transaction().await.unwrap();
    let hold = format!("SELECT FROM \"{schema}\".run FOR UPDATE");
    held.query(&hold, &[]).await.unwrap();

    let committing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.commit(next).await }
    });
    let works = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%\"{schema}\".run r SET next_entry%' \
         AND pid <> pg_backend_pid()"
    );
    let n_works = async || -> i64 { client.query_one(&works, &[]).await.unwrap().get(0) };
    // After each second of silence it is asked over a new connection whether the server works on it.
    let mut made = line.n_made.subscribe();
    let before = *made.borrow();
    soon(made.wait_for(|made| *made >= before + 3))
        .await
        .unwrap();
    assert_eq!(n_works().await, 1);
    assert!(!committing.is_finished());
    held.commit().await.unwrap();
    let committed = soon(committing).await.unwrap().unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Written]);
    assert_eq!(n_works().await, 0);
}
