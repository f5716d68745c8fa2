//! Connections that are lost, and servers that crash: a commit whose answer was lost is done once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keepstep_storage::{
    Batch, Expect, Position, RunKind, Send, SendOutcome, Storage, StorageError, WriteOutcome,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{creation, id, open, record};
use crate::server::{self, Server};

/// Stands between a store and its server, and cuts connections when it is told.
struct Wire {
    address: SocketAddr,
    /// How many answers are kept from the store, and its connection cut instead.
    cuts: Arc<AtomicU32>,
}

impl Wire {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((store, _)) = listener.accept().await {
                tokio::spawn(pass(store, server, Arc::clone(&told)));
            }
        });
        Self { address, cuts }
    }

    /// The server does what it is asked for next, so often, and the answer is lost.
    fn cut(&self, times: u32) {
        self.cuts.store(times, Ordering::SeqCst);
    }
}

async fn pass(mut store: TcpStream, server: SocketAddr, cuts: Arc<AtomicU32>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut asked, mut answered) = ([0; 65536], [0; 65536]);
    let mut has_asked = false;
    loop {
        tokio::select! {
            n = store.read(&mut asked) => match n {
                Ok(n) if n > 0 => {
                    // Only what is asked from here on: a connection that is being made is left alone.
                    has_asked = cuts.load(Ordering::SeqCst) > 0 && is_execution(&asked[..n]);
                    server.write_all(&asked[..n]).await.unwrap();
                }
                _ => return,
            },
            n = server.read(&mut answered) => match n {
                Ok(n) if n > 0 => {
                    let left = |n: u32| n.checked_sub(1);
                    if has_asked && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
                        return;
                    }
                    store.write_all(&answered[..n]).await.unwrap();
                }
                _ => return,
            },
        }
    }
}

/// Whether it asks for a prepared statement with parameters to be executed, as everything is that a store does.
fn is_execution(asked: &[u8]) -> bool {
    asked.first() == Some(&b'B')
}

async fn behind_a_wire() -> (Wire, Arc<dyn Storage>) {
    let url = server::url();
    let (_, rest) = url.split_once('@').unwrap();
    let (address, rest) = rest.split_once('/').unwrap();
    let wire = Wire::to(address.parse().unwrap()).await;
    let url = format!(
        "postgres://postgres@{}/{rest}&sslmode=disable",
        wire.address
    );
    let store = open(&url).await;
    // What was asked for once is prepared, and one answer comes with one execution.
    drop(store.commit(batch("warm", 0)).await.unwrap());
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
        body: "hello".into(),
        blobs: vec![],
        only_with: None,
    };
    Batch {
        writes: vec![write],
        messages: vec![message],
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_done_once_and_says_what_became_of_it() {
    let (wire, store) = behind_a_wire().await;
    for (entry, cuts) in [(0, 1), (1, 1), (2, 3), (3, 0)] {
        wire.cut(cuts);
        let committed = store.commit(batch("run", entry)).await.unwrap();
        assert_eq!(committed.writes, [WriteOutcome::Written]);
        assert!(matches!(committed.messages[..], [SendOutcome::Accepted(id)] if id.0 == entry));
        assert_eq!(wire.cuts.load(Ordering::SeqCst), 0, "nothing was cut");
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

    let unknown = store.delete(&id("unknown"), free[0].record.epoch).await;
    assert!(!unknown.unwrap());
    wire.cut(1);
    assert!(
        store
            .delete(&id("free"), free[0].record.epoch)
            .await
            .unwrap()
    );
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
    let (wire, store) = behind_a_wire().await;
    drop(store);
    let url = server::url();
    let (_, rest) = url.split_once('@').unwrap();
    let (_, rest) = rest.split_once('/').unwrap();
    let url = format!(
        "postgres://postgres@{}/{rest}&sslmode=disable&patience=1",
        wire.address
    );
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
