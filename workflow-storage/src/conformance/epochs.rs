//! Only the owner of a run's present epoch writes to it.

use std::slice;
use std::time::Duration;

use super::kit::*;
use crate::{Epoch, SendOutcome, Storage, StoredStatus, ValueKey, WriteOutcome};

/// A run that its owner lost to a later claim, as that owner still knows it.
async fn overtaken(store: &dyn Storage, run: &str) -> (Owned, Owned) {
    let stale = Owned::new(run).create(store).await;
    let claimed = store
        .claim(slice::from_ref(&stale.run), NODE, Duration::from_secs(60))
        .await
        .unwrap();
    let current = Owned {
        run: stale.run.clone(),
        record: claimed[0].clone().unwrap(),
    };
    assert!(current.record.epoch > stale.record.epoch);
    (stale, current)
}

/// The other runs of a batch do not suffer from one that is fenced.
pub async fn a_stale_write_is_refused_alone(stores: Stores<'_>) {
    let store = stores.open().await;
    let (mut stale, current) = overtaken(&*store, "lost").await;
    let mut before = Owned::new("before").create(&*store).await;
    let mut after = Owned::new("zafter").create(&*store).await;
    let writes = vec![
        before.append("1"),
        stale.append("stale"),
        after.append("2"),
        Owned::new("new").creation(),
    ];
    let (outcomes, _) = commit(&*store, writes, vec![]).await;
    let fenced = WriteOutcome::Fenced {
        current: current.record.epoch,
    };
    assert_eq!(
        outcomes,
        [
            WriteOutcome::Written,
            fenced,
            WriteOutcome::Written,
            WriteOutcome::Written
        ]
    );
    assert_eq!(journal(&*store, &before.run).await, [entry(0, "1")]);
    assert_eq!(journal(&*store, &after.run).await, [entry(0, "2")]);
    assert!(record(&*store, &id("new")).await.is_some());
    assert_eq!(journal(&*store, &stale.run).await, []);
}

/// Nothing that a refused write says happens: neither in the run nor in an index.
pub async fn a_fenced_write_leaves_no_trace(stores: Stores<'_>) {
    let store = stores.open().await;
    let (mut stale, mut current) = overtaken(&*store, "run").await;
    current.appended(&*store, "kept").await;
    let kept = sent(&*store, message(&current, None, "kept")).await;
    let set = current.set(ValueKey::Output, Some("kept".into()));
    write(&*store, set).await;

    stale.record.status = StoredStatus::Failed;
    stale.record.wake_at = Some(crate::Timestamp(5));
    let mut refused = stale.append("stale");
    refused.truncate = true;
    refused.record.first_entry = crate::Position(1);
    refused.values = vec![
        (ValueKey::Output, None),
        (ValueKey::Error, Some("stale".into())),
    ];
    refused.consumed = vec![kept];
    let outcome = try_write(&*store, refused).await;
    let current_epoch = current.record.epoch;
    assert_eq!(
        outcome,
        WriteOutcome::Fenced {
            current: current_epoch
        }
    );

    let run = &current.run;
    assert_eq!(record(&*store, run).await, Some(current.record.clone()));
    assert_eq!(journal(&*store, run).await, [entry(0, "kept")]);
    assert_eq!(
        value(&*store, run, ValueKey::Output).await,
        Some("kept".into())
    );
    assert_eq!(value(&*store, run, ValueKey::Error).await, None);
    assert_eq!(bodies(&*store, run).await, ["kept"]);
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Failed))
            .await
            .len(),
        0
    );
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Running)).await,
        ["run"]
    );
    assert_eq!(due(&*store, u64::MAX, ALL).await, []);
}

/// An epoch that the run does not have yet is as wrong as one it had.
pub async fn a_write_from_the_future_is_refused(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    run.record.epoch = Epoch(2);
    assert_eq!(
        try_write(&*store, run.append("future")).await,
        WriteOutcome::Fenced {
            current: Epoch::FIRST
        }
    );
    assert_eq!(journal(&*store, &run.run).await, []);
}

/// Messages carry no epoch: those beside a refused write arrive.
pub async fn refused_writes_do_not_hold_up_messages(stores: Stores<'_>) {
    let store = stores.open().await;
    let (stale, _) = overtaken(&*store, "lost").await;
    let (outcomes, sent) = commit(
        &*store,
        vec![stale.write()],
        vec![message(&stale, None, "still here")],
    )
    .await;
    assert!(matches!(outcomes[..], [WriteOutcome::Fenced { .. }]));
    assert!(matches!(sent[..], [SendOutcome::Accepted(_)]));
    assert_eq!(bodies(&*store, &stale.run).await, ["still here"]);
}
