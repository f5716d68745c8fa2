//! A journal is what was appended, in order, less what was truncated.

use super::kit::*;
use crate::{Position, ReadRun, RunId, Storage};

async fn page(store: &dyn Storage, run: &Owned, from: u64, max_bytes: usize) -> Vec<u64> {
    let page = store.journal(&run.run, Position(from), max_bytes).await;
    page.unwrap().iter().map(|entry| entry.position.0).collect()
}

/// Entries are numbered from 0 without holes, also past the numbers that fit in one byte.
pub async fn entries_come_in_order(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    for n in 0..300 {
        run.appended(&*store, n.to_string()).await;
    }
    let expected: Vec<_> = (0..300).map(|n| entry(n, n.to_string())).collect();
    assert_eq!(journal(&*store, &run.run).await, expected);
    assert_eq!(page(&*store, &run, 254, ALL).await.first(), Some(&254));
}

/// An entry is one entry, however the store has to cut it.
pub async fn entries_of_all_sizes_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    let mut expected = Vec::new();
    for (n, size) in SIZES.into_iter().enumerate() {
        let bytes = noise(size, n as u64);
        run.appended(&*store, bytes.clone()).await;
        expected.push(entry(n as u64, bytes));
        // Between them small ones, so that no part of one is taken for a part of the next.
        run.appended(&*store, "").await;
    }
    let read = journal(&*store, &run.run).await;
    assert_eq!(read.len(), 2 * SIZES.len());
    for (n, pair) in read.chunks(2).enumerate() {
        assert!(
            pair[0].bytes == expected[n].bytes,
            "entry of {} bytes",
            SIZES[n]
        );
        assert_eq!(pair[0].position.0, 2 * n as u64);
        assert_eq!(pair[1], entry(2 * n as u64 + 1, ""));
    }
}

/// A page has as many entries as fit, to the byte.
pub async fn pages_hold_what_fits(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    for n in 0..6 {
        run.appended(&*store, noise(10, n)).await;
    }
    assert_eq!(page(&*store, &run, 0, 25).await, [0, 1]);
    assert_eq!(page(&*store, &run, 0, 30).await, [0, 1, 2]);
    assert_eq!(page(&*store, &run, 0, 31).await, [0, 1, 2]);
    assert_eq!(page(&*store, &run, 4, 1_000).await, [4, 5]);
    assert_eq!(page(&*store, &run, 0, usize::MAX).await, [0, 1, 2, 3, 4, 5]);
}

/// Several runs read at once are as each of them is, and those that are not there are missed in their places.
pub async fn several_runs_are_read_at_once(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut ids = Vec::new();
    for name in ["b", "a", "none", "c"] {
        ids.push(RunId::new(name).unwrap());
        if name == "none" {
            continue;
        }
        let mut run = Owned::new(name).create(&*store).await;
        for n in 0..4 {
            run.appended(&*store, noise(10, n)).await;
        }
        if name == "c" {
            run.record.first_entry = Position(2);
            let mut write = run.write();
            write.truncate = true;
            self::write(&*store, write).await;
        }
    }
    for max_bytes in [0, 25, ALL] {
        let read = store.read_runs(&ids, max_bytes).await.unwrap();
        assert_eq!(read.len(), ids.len());
        for (id, read) in ids.iter().zip(read) {
            let Some(record) = store.record(id).await.unwrap() else {
                assert_eq!(read, None, "{id}");
                continue;
            };
            let journal = store.journal(id, record.first_entry, max_bytes);
            let journal = journal.await.unwrap();
            assert!(!journal.is_empty());
            assert_eq!(read, Some(ReadRun { record, journal }), "{id}");
        }
    }
    assert_eq!(store.read_runs(&[], ALL).await.unwrap(), []);
}

/// An entry that is larger than a page is a page, but does not ride along on another.
pub async fn a_page_has_at_least_one_entry(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    run.appended(&*store, noise(10, 0)).await;
    run.appended(&*store, noise(100_000, 1)).await;
    run.appended(&*store, noise(10, 2)).await;
    assert_eq!(page(&*store, &run, 0, 0).await, [0]);
    assert_eq!(page(&*store, &run, 0, 1_000).await, [0]);
    assert_eq!(page(&*store, &run, 1, 1_000).await, [1]);
    assert_eq!(page(&*store, &run, 2, 1_000).await, [2]);
}

/// Reading starts at the position, and past the end there is nothing.
pub async fn reading_starts_where_asked(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    for n in 0..3 {
        run.appended(&*store, n.to_string()).await;
    }
    assert_eq!(page(&*store, &run, 1, ALL).await, [1, 2]);
    assert_eq!(page(&*store, &run, 3, ALL).await, []);
    assert_eq!(page(&*store, &run, u64::MAX, ALL).await, []);
}

/// Truncation removes the entries before the first, cut ones whole, and no others.
pub async fn truncation_removes_the_old_entries(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    for n in 0..4 {
        run.appended(&*store, noise(50_000, n)).await;
    }
    // As a run compacts itself: the entry that replaces the old ones comes with their removal.
    let mut compacting = run.append("summary");
    run.record.first_entry = Position(3);
    compacting.record.first_entry = Position(3);
    compacting.truncate = true;
    write(&*store, compacting).await;

    let kept = [entry(3, noise(50_000, 3)), entry(4, "summary")];
    assert!(journal(&*store, &run.run).await == kept);
    run.appended(&*store, "next").await;
    assert_eq!(page(&*store, &run, 0, ALL).await, [3, 4, 5]);

    // Nothing more to remove is fine too.
    let again = run.truncate(Position(3));
    write(&*store, again).await;
    assert_eq!(page(&*store, &run, 0, ALL).await, [3, 4, 5]);
}

/// A journal may be emptied, and its numbers go on.
pub async fn truncation_may_remove_everything(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    for n in 0..3 {
        run.appended(&*store, noise(5_000, n)).await;
    }
    let all = run.truncate(Position(3));
    write(&*store, all).await;
    assert_eq!(journal(&*store, &run.run).await, []);
    run.appended(&*store, "on").await;
    assert_eq!(journal(&*store, &run.run).await, [entry(3, "on")]);
}

/// A run whose id begins with another's id has a journal of its own, truncation included.
pub async fn journals_do_not_mix(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut runs = Vec::new();
    for id in ["a", "ab", "a/0", "b", "a\u{10ffff}"] {
        let mut run = Owned::new(id).create(&*store).await;
        run.appended(&*store, format!("{id} 0")).await;
        run.appended(&*store, format!("{id} 1")).await;
        runs.push(run);
    }
    let truncation = runs[0].truncate(Position(2));
    write(&*store, truncation).await;
    assert_eq!(journal(&*store, &runs[0].run).await, []);
    for run in &runs[1..] {
        let expected = [0, 1].map(|n| entry(n, format!("{} {n}", run.run)));
        assert_eq!(journal(&*store, &run.run).await, expected);
    }
}
