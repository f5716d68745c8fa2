//! What was committed is there when the store is opened again.

use std::time::Duration;

use super::kit::*;
use crate::{
    Batch, BlobId, Epoch, MessageId, Position, RunQuery, RunRecord, SendOutcome, Storage,
    StorageError, StoredStatus, ValueKey, WriteOutcome,
};

/// After `close` every call says that the store is closed.
pub async fn a_closed_store_refuses_calls(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    store.close().await.unwrap();

    fn closed<T: std::fmt::Debug>(answer: crate::Result<T>) {
        assert!(
            matches!(answer, Err(StorageError::Closed { .. })),
            "{answer:?}"
        );
    }
    let batch = Batch {
        writes: vec![run.write()],
        ..Batch::default()
    };
    let runs = [run.run.clone()];
    let lease = Duration::from_secs(60);
    closed(store.commit(batch).await);
    closed(store.record(&run.run).await);
    closed(store.list(&RunQuery::default()).await);
    closed(store.journal(&run.run, Position(0), 9).await);
    closed(store.value(&run.run, &ValueKey::Output).await);
    closed(
        store
            .due(crate::RunKind::Workflow, None, crate::Timestamp::MAX, 9)
            .await,
    );
    closed(store.inbox(&run.run, None, 9).await);
    closed(store.claim(&runs, NODE, lease).await);
    closed(store.release(&[(run.run.clone(), Epoch::FIRST)]).await);
    closed(store.commit(deletion(&run.run, Epoch::FIRST).into()).await);
    closed(store.put_blob("x".into()).await);
    closed(store.blob(&BlobId([0; 32])).await);
    closed(store.maintain().await);
}

/// Two that share a store may both close it.
pub async fn closing_twice_is_fine(stores: Stores<'_>) {
    let store = stores.open().await;
    store.close().await.unwrap();
    let again = store.close().await;
    assert!(
        matches!(again, Ok(()) | Err(StorageError::Closed { .. })),
        "{again:?}"
    );
}

/// A store with something of everything.
struct Filled {
    run: Owned,
    message: MessageId,
    blob: BlobId,
}

async fn fill(store: &dyn Storage) -> Filled {
    let mut run = Owned::new("run").wake_at(70).create(store).await;
    for n in 0..5 {
        run.appended(store, noise(3_000 * n as usize, n)).await;
    }
    let truncation = run.truncate(Position(1));
    write(store, truncation).await;
    write(store, run.set(ValueKey::Output, Some(noise(100_000, 7)))).await;
    let consumed = sent(store, message(&run, Some("consumed"), "c")).await;
    write(store, run.consume(&[consumed])).await;
    let message = sent(store, message(&run, Some("kept"), noise(9_000, 3))).await;
    let blob = store.put_blob(noise(200_000, 5)).await.unwrap();
    write(store, run.refer(&[blob])).await;
    let lease = Duration::from_secs(60);
    let claimed = store.claim(&[run.run.clone()], NODE, lease).await.unwrap();
    run.record = claimed[0].clone().unwrap();
    Filled { run, message, blob }
}

async fn assert_filled(store: &dyn Storage, filled: &Filled) {
    let run = &filled.run.run;
    assert_eq!(record(store, run).await, Some(filled.run.record.clone()));
    let expected: Vec<_> = (1..5)
        .map(|n| entry(n, noise(3_000 * n as usize, n)))
        .collect();
    assert!(journal(store, run).await == expected);
    assert!(value(store, run, ValueKey::Output).await == Some(noise(100_000, 7)));
    let inbox = inbox(store, run).await;
    assert_eq!((inbox.len(), inbox[0].id), (1, filled.message));
    assert!(inbox[0].body == noise(9_000, 3));
    assert!(store.blob(&filled.blob).await.unwrap() == noise(200_000, 5));
    assert_eq!(due(store, 99, ALL).await, [(70, "run".to_owned())]);
    assert_eq!(listed(store, &RunQuery::default()).await, ["run"]);

    // The stored epoch fences as before.
    let mut stale = filled.run.clone();
    stale.record.epoch = Epoch::FIRST;
    let current = filled.run.record.epoch;
    assert_eq!(
        try_write(store, stale.write()).await,
        WriteOutcome::Fenced { current }
    );
}

/// Closed in order and opened again, three times.
pub async fn everything_is_there_after_closing(stores: Stores<'_>) {
    let store = stores.open().await;
    let filled = fill(&*store).await;
    store.close().await.unwrap();
    drop(store);
    for _ in 0..3 {
        let store = stores.open().await;
        assert_filled(&*store, &filled).await;
        store.close().await.unwrap();
    }
}

/// A commit is durable when it returns: nobody has to close the store.
pub async fn everything_is_there_after_dropping(stores: Stores<'_>) {
    let store = stores.open().await;
    let filled = fill(&*store).await;
    drop(store);
    let store = stores.open().await;
    assert_filled(&*store, &filled).await;
}

/// Listings, timers and owners are found as before, and change as before.
pub async fn indexes_are_there_after_reopening(stores: Stores<'_>) {
    let store = stores.open().await;
    for (n, status) in StoredStatus::ALL.into_iter().enumerate() {
        let run = Owned::new(&format!("{status:?}")).created_at(10 - n as u64);
        run.status(status).wake_at(5).create(&*store).await;
    }
    let released = id("Pending");
    let release = [(released, Epoch::FIRST)];
    store.release(&release).await.unwrap();
    store.close().await.unwrap();

    let store = stores.open().await;
    let all: Vec<_> = StoredStatus::ALL.iter().rev().collect();
    let all: Vec<_> = all.iter().map(|status| format!("{status:?}")).collect();
    assert_eq!(listed(&*store, &RunQuery::default()).await, all);
    let not_mine = RunQuery {
        not_owned_by: Some(NODE),
        ..RunQuery::default()
    };
    assert_eq!(listed(&*store, &not_mine).await, ["Pending"]);
    assert_eq!(due(&*store, 5, ALL).await.len(), 2);

    let mut run = Owned::new("Running").created_at(9);
    run.record = record(&*store, &run.run).await.unwrap();
    run.record = RunRecord {
        status: StoredStatus::Failed,
        ..run.record
    };
    write(&*store, run.write()).await;
    assert_eq!(due(&*store, 5, ALL).await, [(5, "Pending".to_owned())]);
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Failed)).await,
        ["Failed", "Running"]
    );
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Running))
            .await
            .len(),
        0
    );
}

/// A message that arrived before the store was closed does not arrive again after.
pub async fn keys_of_consumed_messages_are_remembered(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let consumed = sent(&*store, message(&run, Some("consumed"), "1")).await;
    sent(&*store, message(&run, Some("kept"), "2")).await;
    write(&*store, run.consume(&[consumed])).await;
    store.close().await.unwrap();

    let store = stores.open().await;
    let messages = ["consumed", "kept", "new"].map(|key| message(&run, Some(key), "again"));
    let outcomes = send(&*store, messages.to_vec()).await;
    assert_eq!(
        outcomes[..2],
        [SendOutcome::Duplicate, SendOutcome::Duplicate]
    );
    assert!(matches!(outcomes[2], SendOutcome::Accepted(_)));
    assert_eq!(bodies(&*store, &run.run).await, ["2", "again"]);
}

/// Numbers that were given are not given again, also if nothing is left of their messages.
pub async fn message_numbers_go_on(stores: Stores<'_>) {
    let mut last = None;
    let run = Owned::new("a");
    for opening in 0..3 {
        let store = stores.open().await;
        if opening == 0 {
            write(&*store, run.creation()).await;
        }
        for _ in 0..2 {
            let id = sent(&*store, message(&run, None, "x")).await;
            assert!(last < Some(id), "{id:?} came after {last:?}");
            write(&*store, run.consume(&[id])).await;
            last = Some(id);
        }
        store.close().await.unwrap();
    }
}

/// Deletion is as durable as everything else.
pub async fn a_deleted_run_stays_deleted(stores: Stores<'_>) {
    let store = stores.open().await;
    let filled = fill(&*store).await;
    let other = Owned::new("runs").create(&*store).await;
    let (run, epoch) = (&filled.run.run, filled.run.record.epoch);
    delete(&*store, run, epoch).await;
    drop(store);

    let store = stores.open().await;
    assert_eq!(record(&*store, run).await, None);
    assert_eq!(journal(&*store, run).await, []);
    assert_eq!(due(&*store, u64::MAX, ALL).await, []);
    assert_eq!(listed(&*store, &RunQuery::default()).await, ["runs"]);
    assert_eq!(record(&*store, &other.run).await, Some(other.record));
    let new = Owned::new("run").create(&*store).await;
    assert_eq!(inbox(&*store, &new.run).await, []);
    assert_eq!(value(&*store, &new.run, ValueKey::Output).await, None);
}

/// What maintenance leaves opens again with everything in it.
pub async fn a_maintained_store_opens(stores: Stores<'_>) {
    let store = stores.open().await;
    let filled = fill(&*store).await;
    for n in 0..10 {
        let run = Owned::new(&format!("gone{n}")).create(&*store).await;
        write(&*store, run.set(ValueKey::Output, Some(noise(90_000, n)))).await;
        delete(&*store, &run.run, run.record.epoch).await;
    }
    store.maintain().await.unwrap();
    drop(store);

    let store = stores.open().await;
    assert_filled(&*store, &filled).await;
    store.maintain().await.unwrap();
    store.close().await.unwrap();
    let store = stores.open().await;
    assert_filled(&*store, &filled).await;
}
