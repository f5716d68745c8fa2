//! A listing has exactly the runs that its query describes, in order, whatever the pages.

use super::kit::*;
use crate::{Epoch, Parent, RunCursor, RunKind, RunQuery, Storage, StoredStatus, Timestamp};

fn pages_of(limit: usize) -> RunQuery {
    RunQuery {
        limit,
        ..RunQuery::default()
    }
}

/// Seven runs, three of them of one time; in the order of their creation.
async fn seven(store: &dyn Storage) -> Vec<String> {
    let runs = [
        (5, "z"),
        (10, "a"),
        (10, "ab"),
        (10, "b"),
        (11, "0"),
        (300, "d"),
        (70_000, "c"),
    ];
    // Not in the order in which they are listed.
    for n in [3, 0, 6, 1, 5, 2, 4] {
        let (created, id) = runs[n];
        Owned::new(id).created_at(created).create(store).await;
    }
    runs.map(|(_, id)| id.to_owned()).to_vec()
}

/// The order is the records' time of creation, not the order of the commits or of the ids.
pub async fn runs_come_in_the_order_of_creation(stores: Stores<'_>) {
    let store = stores.open().await;
    let all = seven(&*store).await;
    assert_eq!(listed(&*store, &pages_of(100)).await, all);

    let page = store.list(&pages_of(100)).await.unwrap();
    let first = &page.runs[0];
    assert_eq!(Some(first.record.clone()), record(&*store, &id("z")).await);
}

/// Runs of the same time are ordered by the bytes of their ids.
pub async fn ties_are_ordered_by_id(stores: Stores<'_>) {
    let store = stores.open().await;
    for id in ["é", "aa", "b", "a", "a/b", "B", "\u{10ffff}"] {
        Owned::new(id).create(&*store).await;
    }
    let expected = ["B", "a", "a/b", "aa", "b", "é", "\u{10ffff}"];
    assert_eq!(listed(&*store, &pages_of(100)).await, expected);
}

/// Newest first is oldest first, backwards, ties included.
pub async fn newest_first_is_the_reverse(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut all = seven(&*store).await;
    all.reverse();
    let query = RunQuery {
        newest_first: true,
        ..RunQuery::default()
    };
    assert_eq!(listed(&*store, &query).await, all);
}

/// Pages of any size, in both directions, have every run once, also where a page ends between runs of one time.
pub async fn pages_have_every_run_once(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut all = seven(&*store).await;
    for newest_first in [false, true] {
        for limit in 1..=8 {
            let query = RunQuery {
                newest_first,
                ..pages_of(limit)
            };
            let found = listed(&*store, &query).await;
            assert_eq!(found, all, "pages of {limit}, newest first: {newest_first}");
        }
        all.reverse();
    }
}

/// A page after which nothing comes has no cursor, also if it is full; a page after which something comes has one.
pub async fn the_last_page_says_so(stores: Stores<'_>) {
    let store = stores.open().await;
    assert_eq!(store.list(&pages_of(1)).await.unwrap().next, None);
    seven(&*store).await;
    assert_eq!(store.list(&pages_of(7)).await.unwrap().next, None);
    let cursor = store.list(&pages_of(6)).await.unwrap().next;
    let last = RunCursor {
        created_at: Timestamp(300),
        run: id("d"),
    };
    assert_eq!(cursor, Some(last));

    // Runs that the query leaves out are not "more".
    let query = RunQuery {
        id_prefix: "z".to_owned(),
        ..pages_of(1)
    };
    assert_eq!(store.list(&query).await.unwrap().next, None);
}

/// Each status, alone and with others.
pub async fn every_status_is_found(stores: Stores<'_>) {
    let store = stores.open().await;
    for (n, status) in StoredStatus::ALL.into_iter().enumerate() {
        for copy in ["x", "y"] {
            let run = Owned::new(&format!("{copy}-{status:?}"))
                .created_at(n as u64)
                .status(status);
            run.create(&*store).await;
        }
    }
    for status in StoredStatus::ALL {
        let expected = [format!("x-{status:?}"), format!("y-{status:?}")];
        assert_eq!(listed(&*store, &of_status(status)).await, expected);
    }
    for limit in 1..5 {
        let query = RunQuery {
            // Neither in their own order nor without repetition.
            statuses: vec![
                StoredStatus::Canceled,
                StoredStatus::Pending,
                StoredStatus::Canceled,
            ],
            ..pages_of(limit)
        };
        assert_eq!(
            listed(&*store, &query).await,
            ["x-Pending", "y-Pending", "x-Canceled", "y-Canceled"]
        );
    }
}

/// A run is listed under the status it has, not also under those it had.
pub async fn a_changed_status_is_found_once(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").status(StoredStatus::Pending);
    run = run.create(&*store).await;
    for now in [
        StoredStatus::Running,
        StoredStatus::Suspended,
        StoredStatus::Running,
        StoredStatus::Successful,
    ] {
        run.record.status = now;
        write(&*store, run.write()).await;
        for status in StoredStatus::ALL {
            let found = listed(&*store, &of_status(status)).await;
            assert_eq!(
                found.len(),
                usize::from(status == now),
                "{status:?} in {now:?}"
            );
        }
        assert_eq!(listed(&*store, &RunQuery::default()).await, ["a"]);
        let every = RunQuery {
            statuses: StoredStatus::ALL.to_vec(),
            ..RunQuery::default()
        };
        assert_eq!(listed(&*store, &every).await, ["a"]);
    }
}

/// `created_from` is the first time that is in, `created_before` the first that is out.
pub async fn creation_times_bound_a_listing(stores: Stores<'_>) {
    let store = stores.open().await;
    let all = seven(&*store).await;
    for (from, before, expected) in [
        (Some(10), None, &all[1..]),
        (None, Some(10), &all[..1]),
        (Some(10), Some(11), &all[1..4]),
        (Some(11), Some(70_000), &all[4..6]),
        (Some(11), Some(70_001), &all[4..]),
        (Some(12), Some(12), &all[..0]),
        (Some(70_001), None, &all[..0]),
        (Some(300), Some(5), &all[..0]),
    ] {
        for limit in [1, 2, 100] {
            let mut query = RunQuery {
                created_from: from.map(Timestamp),
                created_before: before.map(Timestamp),
                ..pages_of(limit)
            };
            assert_eq!(listed(&*store, &query).await, expected, "{query:?}");
            query.newest_first = true;
            let mut backwards = expected.to_vec();
            backwards.reverse();
            assert_eq!(listed(&*store, &query).await, backwards, "{query:?}");
        }
    }
}

/// An id prefix is a prefix of the text, with no character special.
pub async fn an_id_prefix_bounds_a_listing(stores: Stores<'_>) {
    let store = stores.open().await;
    let ids = ["a", "a%", "a_b", "ab", "abc", "b", "é", "éa"];
    for (n, id) in ids.into_iter().enumerate() {
        let run = Owned::new(id).created_at(10 - n as u64);
        run.create(&*store).await;
    }
    for (prefix, mut expected) in [
        ("a", vec!["a", "a%", "a_b", "ab", "abc"]),
        ("ab", vec!["ab", "abc"]),
        ("a%", vec!["a%"]),
        ("a_", vec!["a_b"]),
        ("abcd", vec![]),
        ("é", vec!["é", "éa"]),
        ("c", vec![]),
    ] {
        expected.reverse();
        for limit in [1, 100] {
            let query = RunQuery {
                id_prefix: prefix.to_owned(),
                ..pages_of(limit)
            };
            assert_eq!(listed(&*store, &query).await, expected, "prefix {prefix:?}");
        }
    }
}

/// `not_owned_by` has the runs of others and of nobody.
pub async fn owners_are_told_apart(stores: Stores<'_>) {
    let store = stores.open().await;
    for (id, owner) in [
        ("mine", Some(NODE)),
        ("theirs", Some(OTHER_NODE)),
        ("free", None),
    ] {
        let mut run = Owned::new(id);
        run.record.owner = owner;
        run.create(&*store).await;
    }
    for (node, expected) in [(NODE, ["free", "theirs"]), (OTHER_NODE, ["free", "mine"])] {
        for limit in [1, 100] {
            let query = RunQuery {
                not_owned_by: Some(node),
                ..pages_of(limit)
            };
            assert_eq!(listed(&*store, &query).await, expected);
        }
    }
}

/// Filters hold together, in pages, in both directions.
pub async fn filters_combine(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut expected = Vec::new();
    for n in 0..60_u64 {
        let status = StoredStatus::ALL[n as usize % 6];
        let prefix = ["x", "y"][n as usize / 3 % 2];
        let mut run = Owned::new(&format!("{prefix}{n:02}")).created_at(n / 4);
        run = run.status(status);
        run.record.owner = [None, Some(NODE)][n as usize / 2 % 2];
        let found = matches!(status, StoredStatus::Pending | StoredStatus::Running)
            && prefix == "x"
            && run.record.owner.is_none()
            && (2..13).contains(&(n / 4));
        if found {
            expected.push(run.run.to_string());
        }
        run.create(&*store).await;
    }
    assert!(expected.len() > 2, "the case must find something");
    for newest_first in [false, true] {
        for limit in [1, 2, 100] {
            let query = RunQuery {
                statuses: vec![StoredStatus::Pending, StoredStatus::Running],
                not_owned_by: Some(NODE),
                created_from: Some(Timestamp(2)),
                created_before: Some(Timestamp(13)),
                id_prefix: "x".to_owned(),
                newest_first,
                ..pages_of(limit)
            };
            assert_eq!(listed(&*store, &query).await, expected);
        }
        expected.reverse();
    }
}

/// The children of a run are listed in order, those of another run of the same id are not among them, and what was deleted is not.
pub async fn children_are_listed_by_their_parent(stores: Stores<'_>) {
    let store = stores.open().await;
    seven(&*store).await;
    let of = |parent: &str, incarnation| Parent {
        run: id(parent),
        incarnation,
        step: 4,
    };
    let mut expected = Vec::new();
    for n in 0..20 {
        let name = format!("child{n}");
        let mut child = Owned::new(&name).created_at(1 + n / 2);
        child.record.parent = Some(match n % 4 {
            0 => of("z", 12),
            1 => of("zz", 11),
            _ => of("z", 11),
        });
        child.record.status = StoredStatus::ALL[n as usize % 6];
        let child = child.create(&*store).await;
        if n % 4 > 1 {
            expected.push((child, name));
        }
    }
    let query = |limit| RunQuery {
        children_of: Some((id("z"), 11)),
        ..pages_of(limit)
    };
    expected.sort_by_key(|(child, name)| (child.record.created_at, name.clone()));
    let names = |runs: &[(Owned, String)]| -> Vec<String> {
        runs.iter().map(|(_, name)| name.clone()).collect()
    };
    for limit in [1, 3, 100] {
        assert_eq!(listed(&*store, &query(limit)).await, names(&expected));
    }
    let mut newest_first = query(3);
    newest_first.newest_first = true;
    let mut backwards = names(&expected);
    backwards.reverse();
    assert_eq!(listed(&*store, &newest_first).await, backwards);

    let mut suspended = query(100);
    suspended.statuses = vec![StoredStatus::Suspended, StoredStatus::Failed];
    suspended.created_from = Some(Timestamp(3));
    let mut found = expected.clone();
    found.retain(|(child, _)| {
        suspended.statuses.contains(&child.record.status) && child.record.created_at >= Timestamp(3)
    });
    assert!(found.len() > 1 && found.len() < expected.len());
    assert_eq!(listed(&*store, &suspended).await, names(&found));

    // A change leaves it where it is; a delete takes it away; a parent that goes leaves its children.
    let (changed, _) = &mut expected[2];
    write(&*store, changed.append("entry")).await;
    let (gone, _) = expected.remove(5);
    delete(&*store, &gone.run, gone.record.epoch).await;
    delete(&*store, &id("z"), Epoch::FIRST).await;
    assert_eq!(listed(&*store, &query(100)).await, names(&expected));
    let actors = RunQuery {
        kind: RunKind::Actor,
        ..query(100)
    };
    assert_eq!(listed(&*store, &actors).await.len(), 0);
}

/// A cursor is a place, not a run: the run may be gone or changed when the next page is read.
pub async fn cursors_survive_changes_between_pages(stores: Stores<'_>) {
    let store = stores.open().await;
    seven(&*store).await;
    let query = RunQuery {
        statuses: vec![StoredStatus::Running],
        ..pages_of(3)
    };
    let page = store.list(&query).await.unwrap();
    assert_eq!(page.runs[2].run, id("ab"));

    // The cursor's run goes, the next one changes, one comes before and one right after the cursor.
    let gone = &page.runs[2];
    delete(&*store, &gone.run, gone.record.epoch).await;
    let mut next = Owned::new("b").created_at(10);
    next.record.status = StoredStatus::Suspended;
    write(&*store, next.write()).await;
    Owned::new("aa").created_at(10).create(&*store).await;
    Owned::new("ac").created_at(10).create(&*store).await;

    let rest = RunQuery {
        after: page.next,
        ..query
    };
    assert_eq!(listed(&*store, &rest).await, ["ac", "0", "d", "c"]);
}
