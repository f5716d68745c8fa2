//! Maintenance wins back space, and nothing but space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::kit::*;
use crate::{Position, RunQuery, Storage, ValueKey};

/// After much was written and removed again, what was not removed is there.
pub async fn maintenance_keeps_what_is_there(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut kept = Owned::new("kept").wake_at(5).create(&*store).await;
    kept.appended(&*store, noise(20_000, 1)).await;
    write(&*store, kept.set(ValueKey::Output, Some(noise(9_000, 2)))).await;
    sent(&*store, message(&kept, Some("key"), "hello")).await;
    for n in 0..20 {
        let mut run = Owned::new(&format!("kept{n}")).create(&*store).await;
        run.appended(&*store, noise(50_000, n)).await;
        delete(&*store, &run.run, run.record.epoch).await;
    }
    for n in 0..20 {
        kept.appended(&*store, noise(5_000, n)).await;
    }
    let truncation = kept.truncate(Position(20));
    write(&*store, truncation).await;

    for _ in 0..2 {
        store.maintain().await.unwrap();
        assert_eq!(record(&*store, &kept.run).await, Some(kept.record.clone()));
        let last = kept.record.next_entry.0 - 1;
        let journal = journal(&*store, &kept.run).await;
        assert_eq!(journal[0], entry(20, noise(5_000, 19)));
        assert_eq!(journal.last().map(|entry| entry.position.0), Some(last));
        assert_eq!(
            value(&*store, &kept.run, ValueKey::Output).await,
            Some(noise(9_000, 2))
        );
        assert_eq!(bodies(&*store, &kept.run).await, ["hello"]);
        assert_eq!(due(&*store, 9, ALL).await, [(5, "kept".to_owned())]);
        assert_eq!(listed(&*store, &RunQuery::default()).await, ["kept"]);
        kept.appended(&*store, "and on").await;
    }
}

/// Commits made while maintenance goes on are there after it.
pub async fn maintenance_keeps_what_is_written_meanwhile(stores: Stores<'_>) {
    let store = stores.open().await;
    for n in 0..30 {
        let run = Owned::new(&format!("ballast{n}")).create(&*store).await;
        write(&*store, run.set(ValueKey::Output, Some(noise(60_000, n)))).await;
        if n % 2 == 0 {
            delete(&*store, &run.run, run.record.epoch).await;
        }
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move { write_until(&*store, &done).await }
    });
    for _ in 0..3 {
        store.maintain().await.unwrap();
    }
    done.store(true, Ordering::Release);
    let run = writer.await.unwrap();

    let entries = journal(&*store, &run.run).await;
    let positions: Vec<_> = entries.iter().map(|entry| entry.position.0).collect();
    assert_eq!(
        positions,
        (0..run.record.next_entry.0).collect::<Vec<_>>(),
        "the journal has holes"
    );
    for n in (1..30).step_by(2) {
        let read = value(&*store, &id(&format!("ballast{n}")), ValueKey::Output).await;
        assert!(read == Some(noise(60_000, n)), "ballast {n}");
    }
    assert_eq!(listed(&*store, &RunQuery::default()).await.len(), 16);
}

async fn write_until(store: &dyn Storage, done: &AtomicBool) -> Owned {
    let mut run = Owned::new("writer").create(store).await;
    while !done.load(Ordering::Acquire) {
        run.appended(store, noise(6_000, run.record.next_entry.0))
            .await;
    }
    run
}

/// There is nothing to win back in an empty store.
pub async fn maintenance_of_an_empty_store_is_fine(stores: Stores<'_>) {
    let store = stores.open().await;
    let maintained = store.maintain().await.unwrap();
    assert_eq!(maintained.blobs_removed, 0);
    Owned::new("a").create(&*store).await;
    assert_eq!(listed(&*store, &RunQuery::default()).await, ["a"]);
}
