//! Connections that are lost, and servers that crash: a commit whose answer was lost is done once.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    Batch, Epoch, Expect, NodeId, Position, RunKind, Send, SendOutcome, Storage, StorageError,
    Timestamp, WriteOutcome,
};

use crate::kit::{creation, delete, id, open, record};
use crate::server::{self, Server};
use crate::wire::Wire;

/// Who owns runs here.
const NODE: NodeId = NodeId(7);

async fn behind_a_wire() -> (Wire, Arc<dyn Storage>) {
    let wire = Wire::to_the_server().await;
    let store = open(&wire.url).await;
    // What was asked for once is prepared, and one answer comes with one execution.
    drop(store.commit(batch("warm", 0)).await.unwrap());
    drop(store.commit(creation_of("warm-step")).await.unwrap());
    drop(store.commit(step("warm-step", 1)).await.unwrap());
    (wire, store)
}

/// Appends an entry to a run, or creates it with one, and sends it a message without a key.
fn batch(run: &str, entry: u64) -> Batch {
    let mut write = creation(run);
    if entry > 0 {
        write.expect = Expect::Epoch(write.record.epoch);
    }
    write.record.next_entry = Position(entry + 1);
    write.entry = Some(format!("entry {entry}").into());
    let message = Send {
        to: id(run),
        key: None,
        sent_at: Timestamp(1),
        body: "hello".into(),
        blobs: vec![],
        only_with: None,
    };
    Batch {
        writes: vec![write],
        messages: vec![message],
        ..Batch::default()
    }
}

/// Creates a run that this process owns, with an entry.
fn creation_of(run: &str) -> Batch {
    let mut write = creation(run);
    write.record.owner = Some(NODE);
    write.record.next_entry = Position(1);
    write.entry = Some("entry 0".into());
    Batch {
        writes: vec![write],
        ..Batch::default()
    }
}

/// Appends an entry, and nothing else, as a run does that has nothing beside it.
fn step(run: &str, entry: u64) -> Batch {
    let mut batch = creation_of(run);
    let write = &mut batch.writes[0];
    write.expect = Expect::Epoch(write.record.epoch);
    write.record.next_entry = Position(entry + 1);
    write.record.steps.done = entry;
    write.entry = Some(format!("entry {entry}").into());
    batch
}

async fn entries(store: &dyn Storage, run: &str) -> Vec<String> {
    let first = record(store, run).await.first_entry;
    let journal = store.journal(&id(run), first, 1 << 20).await.unwrap();
    let texts = journal.iter().map(|entry| entry.bytes.to_vec());
    texts.map(|text| String::from_utf8(text).unwrap()).collect()
}

#[tokio::test]
async fn a_step_whose_answer_was_lost_is_written_once_and_told_to_be() {
    let (wire, store) = behind_a_wire().await;
    store.commit(creation_of("run")).await.unwrap();
    for (entry, cuts) in [(1, 1), (2, 3), (3, 0)] {
        wire.cut(cuts);
        let committed = store.commit(step("run", entry)).await.unwrap();
        assert_eq!(committed.writes, [WriteOutcome::Written]);
        assert_eq!(wire.left(), 0, "nothing was cut");
    }
    let all = ["entry 0", "entry 1", "entry 2", "entry 3"];
    assert_eq!(entries(&*store, "run").await, all);
    assert_eq!(
        record(&*store, "run").await,
        step("run", 3).writes[0].record
    );

    // What is refused is refused again, and why is said.
    let epoch = Epoch(Epoch::FIRST.0 + 1);
    let mut taken = step("run", 4);
    taken.writes[0].record.epoch = epoch;
    store.commit(taken).await.unwrap();
    for cuts in [0, 1, 2] {
        wire.cut(cuts);
        let committed = store.commit(step("run", 5)).await.unwrap();
        let fenced = WriteOutcome::Fenced { current: epoch };
        assert_eq!(committed.writes, [fenced]);
        wire.cut(cuts);
        let committed = store.commit(step("unknown", 1)).await.unwrap();
        assert_eq!(committed.writes, [WriteOutcome::NotFound]);
    }
    assert_eq!(entries(&*store, "run").await.len(), 5);
}

#[tokio::test]
async fn a_commit_that_arrives_after_later_ones_is_refused() {
    let (wire, store) = behind_a_wire().await;
    for one in [step, batch] {
        let run = if one("run", 1).messages.is_empty() {
            "steps"
        } else {
            "with-mail"
        };
        store.commit(creation_of(run)).await.unwrap();
        for entry in [1, 2] {
            wire.delay();
            let committed = store.commit(one(run, entry)).await.unwrap();
            assert_eq!(committed.writes, [WriteOutcome::Written]);
            if entry == 2 {
                // Compacted, so that no entry of that number is in the way.
                let mut last = one(run, 3);
                last.writes[0].record.first_entry = Position(3);
                last.writes[0].truncate = true;
                store.commit(last).await.unwrap();
            }
            let before = record(&*store, run).await;
            wire.arrive().await;
            assert_eq!(record(&*store, run).await, before);
        }
        assert_eq!(entries(&*store, run).await, ["entry 3"]);
    }
    let mail = store.inbox(&id("with-mail"), None, 99).await.unwrap();
    assert_eq!(mail.len(), 3);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_done_once_and_says_what_became_of_it() {
    let (wire, store) = behind_a_wire().await;
    for (entry, cuts) in [(0, 1), (1, 1), (2, 3), (3, 0)] {
        wire.cut(cuts);
        let committed = store.commit(batch("run", entry)).await.unwrap();
        assert_eq!(committed.writes, [WriteOutcome::Written]);
        assert!(matches!(committed.messages[..], [SendOutcome::Accepted(id)] if id.0 == entry));
        assert_eq!(wire.left(), 0, "nothing was cut");
    }
    assert_eq!(store.inbox(&id("run"), None, 99).await.unwrap().len(), 4);
    let journal = store.journal(&id("run"), Position(0), 9_999).await.unwrap();
    assert_eq!(journal.len(), 4);

    // Refusals are told again, too.
    wire.cut(1);
    let committed = store.commit(batch("run", 0)).await.unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Exists]);
}

#[tokio::test]
async fn claims_and_deletions_whose_answers_were_lost_are_known_all_the_same() {
    let (wire, store) = behind_a_wire().await;
    let node = keepstep_storage::NodeId(7);
    let lease = Duration::from_secs(60);
    // Once, so that everything is prepared.
    let free = store
        .claim_free(RunKind::Workflow, &[], node, lease, 9)
        .await;
    assert_eq!(free.unwrap().len(), 1);
    drop(store.commit(batch("free", 0)).await.unwrap());
    wire.cut(1);
    let free = store
        .claim_free(RunKind::Workflow, &[], node, lease, 9)
        .await;
    let free = free.unwrap();
    assert_eq!(free.len(), 1);
    assert_eq!(free[0].record, record(&*store, "free").await);

    wire.cut(1);
    delete(&*store, "free", free[0].record.epoch, node).await;
    assert_eq!(store.record(&id("free")).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_loses_nothing_that_was_committed() {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: the server of KEEPSTEP_TEST_POSTGRES is not to be killed");
        return;
    }
    // Says that it was skipped if there is none.
    drop(server::url());
    let mut server = Server::start("-c fsync=on").unwrap();
    let store = open(&format!("{}?schema=crash&patience=60", server.url())).await;
    assert_eq!(
        store.describe().durability,
        keepstep_storage::Durability::PowerLoss
    );
    let writer = Arc::clone(&store);
    let (told, mut heard) = tokio::sync::watch::channel(0);
    let writing = tokio::spawn(async move {
        for entry in 0..200 {
            let committed = writer.commit(batch("run", entry)).await.unwrap();
            assert_eq!(committed.writes, [WriteOutcome::Written], "entry {entry}");
            told.send(entry).unwrap();
        }
    });
    heard.wait_for(|entry| *entry >= 50).await.unwrap();
    let killed = tokio::task::spawn_blocking(move || {
        server.kill();
        server.restart("-c fsync=on");
        server
    });
    let _server = killed.await.unwrap();
    writing.await.unwrap();
    let journal = store
        .journal(&id("run"), Position(0), 999_999)
        .await
        .unwrap();
    assert_eq!(journal.len(), 200);
    assert_eq!(store.inbox(&id("run"), None, 999).await.unwrap().len(), 200);
}

#[tokio::test]
async fn a_server_that_stays_away_is_an_error_after_a_while() {
    let wire = Wire::to_the_server().await;
    let url = format!("{}&patience=1", wire.url);
    let store = open(&url).await;
    drop(store.commit(batch("warm", 0)).await.unwrap());
    wire.cut(u32::MAX);
    let error = store.commit(batch("run", 0)).await.unwrap_err();
    assert!(
        matches!(error, StorageError::Unavailable { .. }),
        "{error:?}"
    );
    wire.cut(0);
    // It may have been done, and what is stored says so.
    let stored = store.record(&id("run")).await.unwrap();
    let outcome = store.commit(batch("run", 0)).await.unwrap().writes[0];
    match stored {
        Some(_) => assert_eq!(outcome, WriteOutcome::Exists),
        None => assert_eq!(outcome, WriteOutcome::Written),
    }
}

/// What servers say when the same may succeed a little later: a serialization failure, a deadlock, a statement that took too long,
/// a lock that is not to be had, a shutdown, a server that has become a replica.
const FOR_NOW: [&str; 6] = ["40001", "40P01", "57014", "55P03", "57P01", "25006"];

#[tokio::test]
async fn what_the_server_refuses_for_now_is_done_once_a_little_later() {
    let url = server::url();
    let store = open(&url).await;
    store.commit(batch("run", 0)).await.unwrap();
    let (client, schema) = server::client(&url).await;
    let refuse = |code: &str, times: u32| {
        format!(
            "CREATE SEQUENCE IF NOT EXISTS {schema}.tries;
            SELECT setval('{schema}.tries', 1, false);
            CREATE OR REPLACE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('{schema}.tries') <= {times} THEN
                    RAISE EXCEPTION 'not now' USING ERRCODE = '{code}';
                END IF;
                RETURN NULL;
            END $$;
            DROP TRIGGER IF EXISTS refuse ON {schema}.entry;
            CREATE TRIGGER refuse AFTER INSERT ON {schema}.entry EXECUTE FUNCTION {schema}.refuse();"
        )
    };
    for (code, entry) in FOR_NOW.into_iter().zip(1..) {
        client.batch_execute(&refuse(code, 2)).await.unwrap();
        let committed = store.commit(batch("run", entry)).await.unwrap();
        assert_eq!(committed.writes, [WriteOutcome::Written], "{code}");
        let tries = format!("SELECT last_value FROM {schema}.tries");
        let tries: i64 = client.query_one(&tries, &[]).await.unwrap().get(0);
        assert_eq!(tries, 3, "{code}");
    }
    let journal = store
        .journal(&id("run"), Position(0), 1 << 20)
        .await
        .unwrap();
    assert_eq!(journal.len(), 1 + FOR_NOW.len());

    // What is wrong for good is said at once.
    client.batch_execute(&refuse("42501", 9)).await.unwrap();
    let error = store.commit(batch("run", 7)).await.unwrap_err();
    assert!(matches!(error, StorageError::Backend { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("not now"), "{error:?}");
}
