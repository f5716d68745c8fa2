//! A primary that only reads from now on and keeps its connections, and a standby that takes its place.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{Batch, NodeId, Notice, Storage, WriteOutcome};
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

#[tokio::test]
async fn after_a_failover_everything_goes_to_the_server_that_writes() {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: the server of KEEPSTEP_TEST_POSTGRES is not to be retired");
        return;
    }
    // Says that it was skipped if there is none.
    drop(server::url());
    let servers = tokio::task::spawn_blocking(|| {
        let options = "-c fsync=off -c full_page_writes=off";
        let mut primary = Server::start(options).unwrap();
        let standby = primary.standby(options);
        (primary, standby)
    });
    let (primary, standby) = servers.await.unwrap();
    let url = format!(
        "postgres://postgres@{},{}/postgres?schema=moves",
        primary.address(),
        standby.address()
    );
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
    let has_followed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
    soon(async {
        while !replica
            .query_one(&has_followed, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
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
