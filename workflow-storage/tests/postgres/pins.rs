//! Rows that say what a process has pinned, where writes of them overtake each other.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{Batch, BlobId, NodeId, Storage, WriteOutcome};
use tokio_postgres::Client;

use crate::kit::{creation, delete, id, open};
use crate::server;
use crate::wire::Wire;

const NODE: NodeId = NodeId(7);
const LONG: Duration = Duration::from_secs(60);

/// The name of the schema that a URL has.
fn schema(url: &str) -> &str {
    let (_, schema) = url.split_once("schema=").unwrap();
    schema.split('&').next().unwrap()
}

async fn pins(client: &Client, schema: &str) -> i64 {
    let pins = format!("SELECT count(*) FROM \"{schema}\".blob_pin");
    client.query_one(&pins, &[]).await.unwrap().get(0)
}

/// Waits until so many pins are written down.
async fn until_pins(client: &Client, schema: &str, n: i64) {
    let waiting = async {
        while pins(client, schema).await != n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap();
}

/// A run that names a blob, so that no sweep removes it.
async fn name(store: &dyn Storage, blob: BlobId) {
    let mut write = creation("names-it");
    write.blobs = vec![blob];
    let batch = Batch {
        writes: vec![write],
        ..Batch::default()
    };
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Written]);
}

#[tokio::test]
async fn a_pin_is_not_taken_away_by_what_was_to_be_written_before() {
    let wire = Wire::to_the_server().await;
    let store = open(&wire.url).await;
    let (client, _) = server::client(&wire.url).await;
    let schema = schema(&wire.url);
    let blob = store.put_blob("blob".into()).await.unwrap();
    name(&*store, blob).await;
    // What was asked for once is prepared.
    store.maintain().await.unwrap();
    store.renew(NODE, LONG).await.unwrap();
    until_pins(&client, schema, 1).await;

    store.unpin_blob(&blob);
    wire.delay();
    // The connection is lost, and it is written down over another.
    store.maintain().await.unwrap();
    assert_eq!(pins(&client, schema).await, 0);
    store.pin_blob(&blob);
    until_pins(&client, schema, 1).await;
    wire.arrive().await;
    assert_eq!(pins(&client, schema).await, 1);
}

#[tokio::test]
async fn a_sweep_waits_for_the_pins_of_its_process_that_are_being_written() {
    let url = server::url();
    let store = open(&url).await;
    let (mut client, schema) = server::client(&url).await;
    let (looker, _) = server::client(&url).await;
    let blob = store.put_blob("blob".into()).await.unwrap();
    store.renew(NODE, LONG).await.unwrap();
    let process = format!("SELECT process FROM \"{schema}\".blob_pin");
    let process: i64 = client.query_one(&process, &[]).await.unwrap().get(0);
    store.unpin_blob(&blob);
    store.renew(NODE, LONG).await.unwrap();
    assert_eq!(pins(&client, &schema).await, 0);

    // Until this ends, the pin cannot be written.
    let held = client.transaction().await.unwrap();
    let hold = format!("INSERT INTO \"{schema}\".blob_pin VALUES ($1, $2, 'infinity')");
    held.execute(&hold, &[&blob.0.as_slice(), &process])
        .await
        .unwrap();
    store.pin_blob(&blob);
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%\"{schema}\".pin(%'"
    );
    let until_waiting = async || {
        while looker
            .query_one(&waiting, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, until_waiting()).await.unwrap();
    let mut sweeping = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.maintain().await }
    });
    // Renewals of leases do not wait for it, and say the same.
    store.renew(NODE, LONG).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(1), &mut sweeping).await;
    assert!(early.is_err(), "it swept past a pin");
    held.rollback().await.unwrap();
    let swept = tokio::time::timeout(LONG, sweeping).await.unwrap();
    assert_eq!(swept.unwrap().unwrap().blobs_removed, 0);
    assert_eq!(store.blob(&blob).await.unwrap(), "blob");
    assert_eq!(pins(&looker, &schema).await, 1);
}

#[tokio::test]
async fn a_large_run_is_deleted_at_once_and_removed_by_and_by() {
    let url = server::url();
    let store = open(&url).await;
    let (client, schema) = server::client(&url).await;
    let mut write = creation("large");
    write.record.owner = Some(NODE);
    let batch = Batch {
        writes: vec![write.clone(), creation("small")],
        ..Batch::default()
    };
    drop(store.commit(batch).await.unwrap());
    let fill = format!(
        "INSERT INTO \"{schema}\".message_key SELECT r.no, n::text::bytea FROM \"{schema}\".run r, generate_series(1, 23456) n"
    );
    client.execute(&fill, &[]).await.unwrap();
    let blob = store.put_blob("blob".into()).await.unwrap();
    let mut naming = write;
    naming.expect = keepstep_storage::Expect::Epoch(naming.record.epoch);
    naming.blobs = vec![blob];
    let batch = Batch {
        writes: vec![naming.clone()],
        ..Batch::default()
    };
    drop(store.commit(batch).await.unwrap());
    store.unpin_blob(&blob);

    delete(&*store, "large", naming.record.epoch, NODE).await;
    assert_eq!(store.record(&id("large")).await.unwrap(), None);
    let left = format!("SELECT count(*) FROM \"{schema}\".message_key");
    let collected = async {
        while client.query_one(&left, &[]).await.unwrap().get::<_, i64>(0) > 23_456 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, collected).await.unwrap();
    // What another run has stays.
    assert_eq!(
        client.query_one(&left, &[]).await.unwrap().get::<_, i64>(0),
        23_456
    );
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 1);
    let garbage = format!("SELECT count(*) FROM \"{schema}\".garbage");
    assert_eq!(
        client
            .query_one(&garbage, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );
}
