//! A primary that only reads from now on and keeps its connections, and a standby that takes its place.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    Batch, Epoch, Expect, NodeId, Notice, Position, RunKind, RunWrite, Send, Storage, Timestamp,
    WriteOutcome,
};
use tokio_postgres::{Client, NoTls};

use crate::kit::{creation, id, open, record};
use crate::server::{self, Server};

const NODE: NodeId = NodeId(7);
const SOON: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what)
        .await
        .expect("it takes too long")
}

async fn client(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn creation_of(run: &str) -> Batch {
    let mut write = creation(run);
    write.record.owner = Some(NODE);
    Batch {
        writes: vec![write],
        deletes: vec![],
        messages: vec![],
    }
}

async fn create(store: Arc<dyn Storage>, run: String) {
    let committed = soon(store.commit(creation_of(&run))).await.unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Written]);
}

/// Makes a server only read, its connections staying as they are; `until` what it has written.
async fn retire(server: &Server) -> String {
    let client = client(server).await;
    for sql in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let written = "SELECT pg_current_wal_lsn()::text, current_setting('transaction_read_only')";
    loop {
        let row = client.query_one(written, &[]).await.unwrap();
        if row.get::<_, &str>(1) == "on" {
            return row.get(0);
        }
    }
}

/// A primary, and a standby that follows it; none if there is no server of our own.
async fn primary_and_standby() -> Option<(Server, Server)> {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: the server of KEEPSTEP_TEST_POSTGRES is not to be retired");
        return None;
    }
    // Says that it was skipped if there is none.
    drop(server::url());
    let servers = tokio::task::spawn_blocking(|| {
        // A standby that was cut off does not come back by itself.
        let options = "-c fsync=off -c full_page_writes=off -c wal_retrieve_retry_interval=1000000";
        let mut primary = Server::start(options).unwrap();
        let standby = primary.standby(options);
        (primary, standby)
    });
    Some(servers.await.unwrap())
}

/// A store on the one of two servers that writes.
fn url_of(primary: &Server, standby: &Server, schema: &str) -> String {
    let (primary, standby) = (primary.address(), standby.address());
    format!("postgres://postgres@{primary},{standby}/postgres?schema={schema}")
}

/// Waits until a standby has what was written until then.
async fn follow(standby: &Client, written: &str) {
    let has_followed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
    soon(async {
        while !standby
            .query_one(&has_followed, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn after_a_failover_everything_goes_to_the_server_that_writes() {
    let Some((primary, standby)) = primary_and_standby().await else {
        return;
    };
    let url = url_of(&primary, &standby, "moves");
    let store = open(&url).await;
    let hears = async |wanted: Notice| {
        while !soon(store.notices()).await.contains(&wanted) {}
    };
    hears(Notice::Missed).await;
    // Several connections, each of which leads to the old primary.
    let many = |of: &'static str| {
        let store = Arc::clone(&store);
        let commits = (0..8).map(move |n| create(Arc::clone(&store), format!("{of}-{n}")));
        commits.map(tokio::spawn).collect::<Vec<_>>()
    };
    for commit in many("before") {
        commit.await.unwrap();
    }
    store.renew(NODE, SOON).await.unwrap();

    let written = retire(&primary).await;
    // Nobody writes now, and what is asked for waits.
    let waiting = many("between");
    let replica = client(&standby).await;
    follow(&replica, &written).await;
    replica.query_one("SELECT pg_promote()", &[]).await.unwrap();
    for commit in waiting {
        soon(commit).await.unwrap();
    }
    soon(store.renew(NODE, SOON)).await.unwrap();
    for commit in many("after") {
        soon(commit).await.unwrap();
    }
    // What is read is read there, too, and what others do there is heard.
    assert_eq!(record(&*store, "after-7").await.owner, Some(NODE));
    let runs = "SELECT count(*) FROM moves.run";
    assert_eq!(
        replica.query_one(runs, &[]).await.unwrap().get::<_, i64>(0),
        24
    );
    let other = open(&url).await;
    soon(async {
        loop {
            other.want(&id("after-7")).await.unwrap();
            let notices = tokio::time::timeout(Duration::from_millis(200), store.notices());
            let wanted = Notice::Wanted(id("after-7"));
            if notices.await.is_ok_and(|all| all.contains(&wanted)) {
                return;
            }
        }
    })
    .await;
}

/// The next entry of a run, as its owner writes it.
fn next(run: &RunWrite) -> RunWrite {
    let mut next = run.clone();
    next.expect = Expect::Epoch(run.record.epoch);
    let position = run.record.next_entry;
    next.record.next_entry = position.next();
    next.entry = Some(format!("{} {}", run.run, position.0).into());
    next
}

async fn commit(store: &dyn Storage, writes: Vec<RunWrite>) -> Vec<WriteOutcome> {
    let batch = Batch {
        writes,
        ..Batch::default()
    };
    soon(store.commit(batch)).await.unwrap().writes
}

#[tokio::test]
async fn a_run_that_a_failover_threw_back_is_begun_anew_where_the_store_has_it() {
    let Some((primary, standby)) = primary_and_standby().await else {
        return;
    };
    let store = open(&url_of(&primary, &standby, "holes")).await;
    let mut runs: Vec<RunWrite> = ["alone", "in-a-batch", "kept", "with-mail"]
        .map(|run| next(&creation_of(run).writes[0]))
        .to_vec();
    for run in &mut runs {
        run.expect = Expect::New;
    }
    assert_eq!(
        commit(&*store, runs.clone()).await,
        [WriteOutcome::Written; 4]
    );
    store.renew(NODE, SOON).await.unwrap();
    let writer = client(&primary).await;
    let end = "SELECT pg_current_wal_lsn()::text";
    let written: String = writer.query_one(end, &[]).await.unwrap().get(0);
    let replica = client(&standby).await;
    follow(&replica, &written).await;
    // Cut off twice, it is to wait long before it asks again.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'RecoveryRetrieveRetryInterval'";
    let is_cut_off = async {
        loop {
            writer.query_one(cut, &[]).await.unwrap();
            let waiting = replica.query_one(waits, &[]).await.unwrap();
            if waiting.get::<_, i64>(0) == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(is_cut_off).await;

    // What the primary acknowledges now is lost.
    for run in &mut runs {
        if run.run.as_str() != "kept" {
            *run = next(run);
            let written = commit(&*store, vec![run.clone()]).await;
            assert_eq!(written, [WriteOutcome::Written]);
        }
    }
    retire(&primary).await;
    replica.query_one("SELECT pg_promote()", &[]).await.unwrap();

    // Nothing is written over the hole, however it is to be written.
    let fenced = WriteOutcome::Fenced {
        current: Epoch::FIRST,
    };
    let [alone, in_a_batch, kept, with_mail] = &runs[..] else {
        unreachable!()
    };
    assert_eq!(commit(&*store, vec![next(alone)]).await, [fenced]);
    let both = vec![next(in_a_batch), next(kept)];
    assert_eq!(commit(&*store, both).await, [fenced, WriteOutcome::Written]);
    let mail = Batch {
        writes: vec![next(with_mail)],
        messages: vec![Send {
            to: id("kept"),
            key: None,
            sent_at: Timestamp(1),
            body: "hello".into(),
            blobs: vec![],
            only_with: None,
        }],
        ..Batch::default()
    };
    assert_eq!(soon(store.commit(mail)).await.unwrap().writes, [fenced]);

    // Whoever takes them up goes on where the store is.
    let free = store.claim_free(RunKind::Workflow, &[], NODE, SOON, 9);
    let free = soon(free).await.unwrap();
    let names: Vec<&str> = free.iter().map(|run| run.run.as_str()).collect();
    assert_eq!(names, ["alone", "in-a-batch", "with-mail"]);
    for found in free {
        let run = runs.iter().find(|run| run.run == found.run).unwrap();
        assert!(found.record.epoch > run.record.epoch, "{}", run.run);
        assert_eq!(found.record.next_entry, Position(1), "{}", run.run);
        let mut again = run.clone();
        again.record = found.record;
        assert_eq!(
            commit(&*store, vec![next(&again)]).await,
            [WriteOutcome::Written]
        );
        let journal = store.journal(&run.run, Position(0), 9_999).await.unwrap();
        let positions: Vec<u64> = journal.iter().map(|entry| entry.position.0).collect();
        assert_eq!(positions, [0, 1], "{}", run.run);
        // Its former owner is none.
        let outcome = commit(&*store, vec![next(run)]).await;
        assert!(matches!(outcome[..], [WriteOutcome::Fenced { .. }]));
    }
    assert_eq!(record(&*store, "kept").await.owner, Some(NODE));
}

#[tokio::test]
async fn a_host_that_takes_connections_and_is_silent_keeps_nobody_from_the_next() {
    // It takes connections, and nobody reads what is sent.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let url = server::url();
    let (who, rest) = url.split_once('@').unwrap();
    let url = format!("{who}@{address},{rest}&connect_timeout=1");
    let store = soon(open(&url)).await;
    create(Arc::clone(&store), "run".to_owned()).await;
    while !soon(store.notices()).await.contains(&Notice::Missed) {}
    assert_eq!(record(&*store, "run").await.owner, Some(NODE));
}

#[tokio::test]
async fn the_next_host_is_tried_beside_one_that_is_silent() {
    // They take connections, and nobody reads what is sent.
    let silent = [
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let [one, other] = silent.each_ref().map(|host| host.local_addr().unwrap());
    let url = server::url();
    let (who, rest) = url.split_once('@').unwrap();
    // Each of them may take 95 seconds, and does not keep the next waiting for so long.
    let url = format!("{who}@{one},{other},{rest}&connect_timeout=90");
    let store = soon(open(&url)).await;
    create(Arc::clone(&store), "run".to_owned()).await;
    while !soon(store.notices()).await.contains(&Notice::Missed) {}
    assert_eq!(record(&*store, "run").await.owner, Some(NODE));
}
