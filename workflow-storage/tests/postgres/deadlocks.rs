//! Everything locks rows in one order, so that no two transactions wait for each other.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    Batch, BlobId, Epoch, Expect, NodeId, Offer, RunId, RunKind, RunWrite, Storage, StoredStatus,
    TaskResult, Wanted,
};
use tokio_postgres::{Client, NoTls};

use crate::kit::{creation, id, open};
use crate::server::{self, Server};

const NODE: NodeId = NodeId(7);
const LONG: Duration = Duration::from_secs(60);

/// A server of our own, which finds a deadlock at once, and a store on it.
async fn store() -> Option<(Server, Client, Arc<dyn Storage>)> {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: deadlocks of the server of KEEPSTEP_TEST_POSTGRES may be of others");
        return None;
    }
    // Says that it was skipped if there is none.
    drop(server::url());
    // What is synced to no disk holds its locks for so short a time that nobody meets them: here, a commit waits.
    let options = "-c full_page_writes=off -c fsync=off -c commit_delay=2000 -c commit_siblings=0 -c deadlock_timeout=20ms";
    let server = tokio::task::spawn_blocking(|| Server::start(options).unwrap());
    let server = server.await.unwrap();
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let store = open(&server.url()).await;
    Some((server, client, store))
}

/// How many the server found. A connection says so when it has nothing to do.
async fn deadlocks(client: &Client) -> i64 {
    let found = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    client.query_one(found, &[]).await.unwrap().get(0)
}

async fn commit(store: &dyn Storage, writes: Vec<RunWrite>) {
    let batch = Batch {
        writes,
        ..Batch::default()
    };
    drop(store.commit(batch).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_one_node_wait_in_one_order() {
    let Some((_server, client, store)) = store().await else {
        return;
    };
    let runs: Vec<RunId> = (0..20).map(|n| id(&format!("run-{n:02}"))).collect();
    let created = runs.iter().map(|run| creation(run.as_str()));
    commit(&*store, created.collect()).await;
    store.renew(NODE, LONG).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (store, runs) = (Arc::clone(&store), runs.clone());
        tasks.spawn(async move {
            for round in 0..60 {
                let claimed = if n % 2 == 0 {
                    let all = store.claim(&runs, NODE, LONG).await.unwrap();
                    let named = runs.iter().cloned().zip(all);
                    named
                        .filter_map(|(run, record)| Some((run, record?.epoch)))
                        .collect()
                } else {
                    let free = store.claim_free(RunKind::Workflow, &[], NODE, LONG, 7);
                    let free = free.await.unwrap();
                    let named = free.into_iter().map(|run| (run.run, run.record.epoch));
                    named.collect::<Vec<_>>()
                };
                if round % 4 == 3 {
                    store.renew(NODE, LONG).await.unwrap();
                }
                store.release(&claimed).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(deadlocks(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_and_the_end_of_their_run_wait_in_one_order() {
    let Some((_server, client, store)) = store().await else {
        return;
    };
    let mut blobs: Vec<BlobId> = Vec::new();
    for n in 0..8_u8 {
        blobs.push(store.put_blob(vec![n; 100].into()).await.unwrap());
    }
    store.renew(NODE, LONG).await.unwrap();
    let queue = store.tasks().unwrap();
    for round in 0..60 {
        let run = format!("run-{round}");
        let mut write = creation(&run);
        write.record.owner = Some(NODE);
        commit(&*store, vec![write.clone()]).await;
        let offers = (0..2).map(|step| Offer {
            run: id(&run),
            epoch: Epoch::FIRST,
            incarnation: 1,
            step,
            attempt: 1,
            step_name: "step".to_owned(),
            step_version: 1,
            pool: "default".to_owned(),
            priority: 0,
            key: None,
            payload: "payload".into(),
        });
        drop(queue.offer(&offers.collect::<Vec<_>>()).await.unwrap());
        let wanted = Wanted {
            node: NODE,
            lease: LONG,
            pools: None,
            steps: &[("step".to_owned(), 1)],
            limit: 9,
        };
        let taken = queue.take(&wanted).await.unwrap();
        assert_eq!(taken.len(), 2);
        // Two results, and the end of the run, which name the same blobs, in three orders.
        let result = |n: usize| {
            let mut named = blobs.clone();
            named.rotate_left(round % 8);
            if n == 1 {
                named.reverse();
            }
            [TaskResult {
                held: taken[n].held,
                bytes: "result".into(),
                stands: true,
                declines: false,
                blobs: named,
            }]
        };
        write.expect = Expect::Epoch(Epoch::FIRST);
        write.record.status = StoredStatus::Successful;
        write.blobs.clone_from(&blobs);
        let (one, other) = (result(0), result(1));
        let ((), first, second) = tokio::join!(
            commit(&*store, vec![write]),
            queue.finish(NODE, &one),
            queue.finish(NODE, &other)
        );
        drop((first.unwrap(), second.unwrap()));
    }
    assert_eq!(deadlocks(&client).await, 0);
}
