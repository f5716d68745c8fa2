//! Due are the active runs whose time has come.

use super::kit::*;
use crate::{RunId, RunKind, StoredStatus, Timestamp};

fn pairs(pairs: &[(u64, &str)]) -> Vec<(u64, String)> {
    pairs.iter().map(|&(at, id)| (at, id.to_owned())).collect()
}

/// The order is that of numbers, also of those that differ in length.
pub async fn due_runs_come_earliest_first(stores: Stores<'_>) {
    let store = stores.open().await;
    let times = [1, 0, u64::MAX, 255, 256, 65_536, 1 << 40, 257];
    for at in times {
        Owned::new(&format!("r{at}"))
            .wake_at(at)
            .create(&*store)
            .await;
    }
    Owned::new("no timer").create(&*store).await;
    let mut expected = times.map(|at| (at, format!("r{at}")));
    expected.sort();
    assert_eq!(due(&*store, u64::MAX, ALL).await, expected);
}

/// A run is due at its time and after, not before.
pub async fn due_is_up_to_and_with_the_time(stores: Stores<'_>) {
    let store = stores.open().await;
    Owned::new("a").wake_at(100).create(&*store).await;
    Owned::new("b").wake_at(101).create(&*store).await;
    assert_eq!(due(&*store, 99, ALL).await, []);
    assert_eq!(due(&*store, 100, ALL).await, pairs(&[(100, "a")]));
    assert_eq!(
        due(&*store, 101, ALL).await,
        pairs(&[(100, "a"), (101, "b")])
    );
}

/// With a limit come the earliest; several runs may have one time.
pub async fn due_is_bounded(stores: Stores<'_>) {
    let store = stores.open().await;
    for (at, id) in [(3, "a"), (1, "c"), (2, "b"), (2, "bb"), (2, "ba")] {
        Owned::new(id).wake_at(at).create(&*store).await;
    }
    assert_eq!(due(&*store, 9, 1).await, pairs(&[(1, "c")]));
    let four = due(&*store, 9, 4).await;
    assert_eq!(four.len(), 4);
    assert!(four[1..].iter().all(|(at, _)| *at == 2), "{four:?}");
    assert_eq!(due(&*store, 9, 5).await[4], (3, "a".to_owned()));
}

/// Who has seen some of them goes on after the last one, also within a time that several have.
pub async fn due_goes_on_after_a_run(stores: Stores<'_>) {
    let store = stores.open().await;
    for (at, id) in [(3, "a"), (1, "c"), (2, "b"), (2, "bb"), (2, "ba")] {
        Owned::new(id).wake_at(at).create(&*store).await;
    }
    let all = due(&*store, 9, ALL).await;
    assert_eq!(all.len(), 5);
    for seen in 0..all.len() {
        let (at, id) = &all[seen];
        let after = (Timestamp(*at), RunId::new(id).unwrap());
        let page = |until, limit| {
            let after = Some(&after);
            store.due(RunKind::Workflow, after, Timestamp(until), limit)
        };
        let rest: Vec<_> = page(9, ALL).await.unwrap();
        let rest: Vec<_> = rest
            .into_iter()
            .map(|(at, run)| (at.0, run.as_str().to_owned()))
            .collect();
        assert_eq!(rest, all[seen + 1..]);
        assert_eq!(page(9, 1).await.unwrap().len(), rest.len().min(1));
        // Nothing is due any more before where it goes on.
        assert_eq!(page(at - 1, ALL).await.unwrap(), []);
    }
    // It need not be there itself.
    let gone = (Timestamp(2), RunId::new("b0").unwrap());
    let after = store.due(RunKind::Workflow, Some(&gone), Timestamp(9), 1);
    assert_eq!(after.await.unwrap()[0].1.as_str(), "ba");
}

/// A run that stops being active stops being due, and is due again when it goes on.
pub async fn only_active_runs_are_due(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").wake_at(5).create(&*store).await;
    for status in StoredStatus::ALL.into_iter().chain(StoredStatus::ALL) {
        run.record.status = status;
        write(&*store, run.write()).await;
        let expected = if status.is_active() {
            pairs(&[(5, "a")])
        } else {
            vec![]
        };
        assert_eq!(due(&*store, 9, ALL).await, expected, "{status:?}");
    }
    let suspended = Owned::new("b").wake_at(5).status(StoredStatus::Suspended);
    suspended.create(&*store).await;
    assert_eq!(due(&*store, 9, ALL).await, []);
}

/// A run has one time: the last.
pub async fn a_changed_time_replaces_the_old(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").wake_at(50).create(&*store).await;
    for at in [70, 20, 20, 300] {
        run.record.wake_at = Some(Timestamp(at));
        write(&*store, run.write()).await;
        assert_eq!(due(&*store, 1_000, ALL).await, pairs(&[(at, "a")]));
        assert_eq!(due(&*store, at - 1, ALL).await, []);
    }
}

/// A run may cease to have a time, and get one again.
pub async fn a_removed_time_is_gone(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").wake_at(50).create(&*store).await;
    Owned::new("ab").wake_at(50).create(&*store).await;
    run.record.wake_at = None;
    write(&*store, run.write()).await;
    assert_eq!(due(&*store, 99, ALL).await, pairs(&[(50, "ab")]));
    run.record.wake_at = Some(Timestamp(60));
    write(&*store, run.write()).await;
    assert_eq!(due(&*store, 99, ALL).await, pairs(&[(50, "ab"), (60, "a")]));
}

/// Runs of every owner, and of none, are due.
pub async fn owners_do_not_matter(stores: Stores<'_>) {
    let store = stores.open().await;
    for (at, owner) in [(1, Some(NODE)), (2, Some(OTHER_NODE)), (3, None)] {
        let mut run = Owned::new(&format!("r{at}")).wake_at(at);
        run.record.owner = owner;
        run.create(&*store).await;
    }
    let released = Owned::new("r4").wake_at(4).create(&*store).await;
    let release = [(released.run.clone(), released.record.epoch)];
    store.release(&release).await.unwrap();
    let expected = pairs(&[(1, "r1"), (2, "r2"), (3, "r3"), (4, "r4")]);
    assert_eq!(due(&*store, 9, ALL).await, expected);
}
