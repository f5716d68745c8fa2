//! A deleted run was never there.

use std::time::Duration;

use super::kit::*;
use crate::{
    Batch, DeleteOutcome, Epoch, MessageId, Position, RunDelete, RunQuery, RunWrite, SendOutcome,
    Storage, ValueKey, WriteOutcome,
};

/// A run with something of everything.
async fn full(store: &dyn Storage, id: &str) -> (Owned, MessageId) {
    let mut run = Owned::new(id).wake_at(9).create(store).await;
    let blob = store.put_blob(noise(9_000, 4)).await.unwrap();
    for n in 0..3 {
        run.appended(store, noise(30_000, n)).await;
    }
    let keys = [
        ValueKey::Output,
        ValueKey::Error,
        ValueKey::Metadata,
        ValueKey::Step("s".to_owned()),
    ];
    let values = RunWrite {
        values: keys.map(|key| (key, Some(noise(30_000, 8)))).to_vec(),
        blobs: vec![blob],
        ..run.write()
    };
    write(store, values).await;
    store.unpin_blob(&blob);
    let consumed = sent(store, message(&run, Some("consumed"), "c")).await;
    write(store, run.consume(&[consumed])).await;
    let kept = sent(store, message(&run, Some("kept"), noise(30_000, 1))).await;
    (run, kept)
}

async fn assert_full(store: &dyn Storage, run: &Owned) {
    assert_eq!(record(store, &run.run).await, Some(run.record.clone()));
    let expected: Vec<_> = (0..3).map(|n| entry(n, noise(30_000, n))).collect();
    assert!(journal(store, &run.run).await == expected);
    for key in [ValueKey::Output, ValueKey::Step("s".to_owned())] {
        assert!(value(store, &run.run, key).await == Some(noise(30_000, 8)));
    }
    assert!(bodies(store, &run.run).await == [noise(30_000, 1)]);
    let outcomes = send(store, vec![message(run, Some("consumed"), "again")]).await;
    assert_eq!(outcomes, [SendOutcome::Duplicate]);
    assert!(due(store, 9, ALL).await.contains(&(9, run.run.to_string())));
}

/// Record, journal, values, inbox, timer, listing.
pub async fn everything_of_a_run_goes(stores: Stores<'_>) {
    let store = stores.open().await;
    let (run, _) = full(&*store, "a").await;
    delete(&*store, &run.run, run.record.epoch).await;

    assert_eq!(record(&*store, &run.run).await, None);
    assert_eq!(journal(&*store, &run.run).await, []);
    let page = store.journal(&run.run, Position(2), ALL).await;
    assert_eq!(page.unwrap(), []);
    for key in [
        ValueKey::Output,
        ValueKey::Error,
        ValueKey::Metadata,
        ValueKey::Step("s".to_owned()),
    ] {
        assert_eq!(value(&*store, &run.run, key).await, None);
    }
    assert_eq!(inbox(&*store, &run.run).await, []);
    assert_eq!(due(&*store, u64::MAX, ALL).await, []);
    assert_eq!(listed(&*store, &RunQuery::default()).await.len(), 0);
    let outcomes = send(&*store, vec![message(&run, None, "too late")]).await;
    assert_eq!(outcomes, [SendOutcome::NotFound]);
    let lease = Duration::from_secs(60);
    let claimed = store.claim(&[run.run], NODE, lease).await.unwrap();
    assert_eq!(claimed, [None]);
}

/// A delete is a write: it needs the run's epoch.
pub async fn only_the_owner_deletes(stores: Stores<'_>) {
    let store = stores.open().await;
    let (run, _) = full(&*store, "a").await;
    for epoch in [Epoch(9), Epoch(0)] {
        let outcomes = try_delete(&*store, vec![deletion(&run.run, epoch)]).await;
        assert_eq!(outcomes, [DeleteOutcome::Fenced]);
    }
    assert_full(&*store, &run).await;
}

/// Deleting what is not there is no error, and does nothing.
pub async fn an_unknown_run_is_not_deleted(stores: Stores<'_>) {
    let store = stores.open().await;
    let unknown = deletion(&id("a"), Epoch::FIRST);
    let outcomes = try_delete(&*store, vec![unknown.clone()]).await;
    assert_eq!(outcomes, [DeleteOutcome::NotFound]);
    let run = Owned::new("a").create(&*store).await;
    delete(&*store, &run.run, Epoch::FIRST).await;
    let outcomes = try_delete(&*store, vec![unknown]).await;
    assert_eq!(outcomes, [DeleteOutcome::NotFound]);
}

/// Many go in one commit with writes and messages of other runs; those that are refused leave the others alone.
pub async fn many_runs_go_in_one_commit(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut runs = Vec::new();
    for n in 0..20 {
        runs.push(full(&*store, &format!("gone{n}")).await.0);
    }
    let (kept, _) = full(&*store, "kept").await;
    let mut goes_on = Owned::new("goes on").create(&*store).await;
    let mut deletes: Vec<_> = runs
        .iter()
        .map(|run| deletion(&run.run, run.record.epoch))
        .collect();
    deletes.insert(3, deletion(&kept.run, Epoch(9)));
    deletes.insert(7, deletion(&id("unknown"), Epoch::FIRST));
    let batch = Batch {
        writes: vec![goes_on.append("entry"), Owned::new("new").creation()],
        deletes,
        messages: vec![
            message(&runs[0], None, "too late"),
            message(&goes_on, None, "message"),
        ],
    };
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Written; 2]);
    let mut expected = vec![DeleteOutcome::Deleted; 20];
    expected.insert(3, DeleteOutcome::Fenced);
    expected.insert(7, DeleteOutcome::NotFound);
    assert_eq!(committed.deletes, expected);
    assert_eq!(committed.messages[0], SendOutcome::NotFound);
    assert!(matches!(committed.messages[1], SendOutcome::Accepted(_)));
    for run in &runs {
        assert_eq!(record(&*store, &run.run).await, None);
        assert_eq!(journal(&*store, &run.run).await, []);
        assert_eq!(inbox(&*store, &run.run).await, []);
    }
    assert_full(&*store, &kept).await;
    assert_eq!(journal(&*store, &goes_on.run).await, [entry(0, "entry")]);
    assert_eq!(bodies(&*store, &goes_on.run).await, ["message"]);
    let mut left = listed(&*store, &RunQuery::default()).await;
    left.sort();
    assert_eq!(left, ["goes on", "kept", "new"]);
}

/// A run goes together with its children, or all of them stay.
pub async fn families_go_together(stores: Stores<'_>) {
    let store = stores.open().await;
    let (parent, _) = full(&*store, "parent").await;
    let (child, _) = full(&*store, "child").await;
    let (apart, _) = full(&*store, "apart").await;
    let (other, _) = full(&*store, "other").await;
    let of = |run: &Owned, family: &Owned| RunDelete {
        family: Some(family.run.clone()),
        ..deletion(&run.run, run.record.epoch)
    };
    let fenced = RunDelete {
        epoch: Epoch(9),
        ..of(&child, &parent)
    };
    let deletes = vec![
        of(&parent, &parent),
        of(&other, &other),
        fenced,
        deletion(&apart.run, apart.record.epoch),
    ];
    let outcomes = try_delete(&*store, deletes).await;
    let expected = [
        DeleteOutcome::Skipped,
        DeleteOutcome::Deleted,
        DeleteOutcome::Fenced,
        DeleteOutcome::Deleted,
    ];
    assert_eq!(outcomes, expected);
    let unknown = RunDelete {
        run: id("unknown"),
        ..of(&child, &parent)
    };
    let deletes = vec![of(&child, &parent), unknown, of(&parent, &parent)];
    let outcomes = try_delete(&*store, deletes).await;
    let expected = [
        DeleteOutcome::Skipped,
        DeleteOutcome::NotFound,
        DeleteOutcome::Skipped,
    ];
    assert_eq!(outcomes, expected);
    assert_full(&*store, &parent).await;
    assert_full(&*store, &child).await;

    let deletes = vec![of(&child, &parent), of(&parent, &parent)];
    let outcomes = try_delete(&*store, deletes).await;
    assert_eq!(outcomes, [DeleteOutcome::Deleted; 2]);
    assert_eq!(listed(&*store, &RunQuery::default()).await.len(), 0);
}

/// Runs whose ids begin with the deleted id, or with which it begins, keep everything.
pub async fn other_runs_stay(stores: Stores<'_>) {
    let store = stores.open().await;
    let (deleted, _) = full(&*store, "ab").await;
    let mut others = Vec::new();
    for id in ["a", "abc", "ab/", "ab\u{10ffff}", "ac", "AB"] {
        others.push(full(&*store, id).await.0);
    }
    let epoch = deleted.record.epoch;
    delete(&*store, &deleted.run, epoch).await;
    for other in &others {
        assert_full(&*store, other).await;
    }
    let mut left = listed(&*store, &RunQuery::default()).await;
    left.sort();
    assert_eq!(left, ["AB", "a", "ab/", "abc", "ab\u{10ffff}", "ac"]);
}

/// A new run of a deleted id finds nothing of the old one, not even what it remembered of messages.
pub async fn the_id_is_free_again(stores: Stores<'_>) {
    let store = stores.open().await;
    let (old, _) = full(&*store, "a").await;
    delete(&*store, &old.run, old.record.epoch).await;

    let mut new = Owned::new("a").created_at(77).create(&*store).await;
    assert_eq!(record(&*store, &new.run).await, Some(new.record.clone()));
    assert_eq!(journal(&*store, &new.run).await, []);
    assert_eq!(value(&*store, &new.run, ValueKey::Output).await, None);
    assert_eq!(inbox(&*store, &new.run).await, []);
    assert_eq!(due(&*store, u64::MAX, ALL).await, []);
    assert_eq!(listed(&*store, &RunQuery::default()).await, ["a"]);

    new.appended(&*store, "new").await;
    assert_eq!(journal(&*store, &new.run).await, [entry(0, "new")]);
    sent(&*store, message(&new, Some("consumed"), "1")).await;
    sent(&*store, message(&new, Some("kept"), "2")).await;
    assert_eq!(bodies(&*store, &new.run).await, ["1", "2"]);
    write(&*store, new.set(ValueKey::Output, Some("new".into()))).await;
    assert_eq!(
        value(&*store, &new.run, ValueKey::Output).await,
        Some("new".into())
    );
}
