//! The smaller suite, for an [`OrderedMap`].

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::kit::noise;
use crate::{Op, OrderedMap, StorageError};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Checks a map that is empty, and closes it.
pub fn ordered_map(map: &dyn OrderedMap) {
    assert!(map.max_value_bytes() >= 1_024, "values must be of some use");
    an_empty_map_is_empty(map);
    the_last_change_of_a_key_counts(map);
    values_of_all_sizes_come_back(map);
    ranges_are_those_of_a_btree_map(map);
    compaction_loses_nothing(map);
    a_closed_map_refuses_calls(map);
}

fn put(key: &[u8], value: impl Into<Bytes>) -> Op {
    Op::Put(key.to_vec(), value.into())
}

fn remove(key: &[u8]) -> Op {
    Op::Remove(key.to_vec())
}

fn pairs(map: &dyn OrderedMap, range: (Bound<&[u8]>, Bound<&[u8]>), reverse: bool) -> Pairs {
    let mut pairs = Vec::new();
    map.range(range, reverse, &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    pairs
}

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

fn clear(map: &dyn OrderedMap) {
    let keys = pairs(map, ALL, false);
    map.apply(keys.into_iter().map(|(key, _)| Op::Remove(key)).collect())
        .unwrap();
    an_empty_map_is_empty(map);
}

fn an_empty_map_is_empty(map: &dyn OrderedMap) {
    assert_eq!(map.get(b"a").unwrap(), None);
    assert_eq!(pairs(map, ALL, false), []);
    assert_eq!(pairs(map, ALL, true), []);
    map.apply(vec![]).unwrap();
    map.apply(vec![remove(b"a")]).unwrap();
}

/// Changes of one batch happen in its order.
fn the_last_change_of_a_key_counts(map: &dyn OrderedMap) {
    map.apply(vec![put(b"old", "1"), put(b"gone", "1")])
        .unwrap();
    map.apply(vec![
        put(b"a", "1"),
        remove(b"a"),
        put(b"b", "1"),
        put(b"b", "2"),
        remove(b"old"),
        put(b"old", "2"),
        put(b"gone", "2"),
        remove(b"gone"),
    ])
    .unwrap();
    assert_eq!(map.get(b"a").unwrap(), None);
    assert_eq!(map.get(b"b").unwrap(), Some("2".into()));
    assert_eq!(map.get(b"old").unwrap(), Some("2".into()));
    assert_eq!(map.get(b"gone").unwrap(), None);
    clear(map);
}

fn values_of_all_sizes_come_back(map: &dyn OrderedMap) {
    let most = map.max_value_bytes().min(1 << 20);
    for size in [0, 1, 1_000, most - 1, most] {
        map.apply(vec![put(b"v", noise(size, 1))]).unwrap();
        assert!(
            map.get(b"v").unwrap() == Some(noise(size, 1)),
            "{size} bytes"
        );
        assert!(
            pairs(map, ALL, false)[0].1 == noise(size, 1),
            "{size} bytes"
        );
    }
    clear(map);
}

fn ranges_are_those_of_a_btree_map(map: &dyn OrderedMap) {
    let keys: [&[u8]; 9] = [
        b"\0",
        b"\0\0",
        b"a",
        b"a\0",
        b"a\xff",
        b"ab",
        b"b",
        b"\xff",
        b"\xff\xff",
    ];
    let model: BTreeMap<_, _> = keys.iter().map(|key| (key.to_vec(), noise(8, 3))).collect();
    map.apply(keys.iter().rev().map(|key| put(key, noise(8, 3))).collect())
        .unwrap();

    let ends = [
        &b"\0"[..],
        b"a",
        b"a\0",
        b"aa",
        b"b",
        b"\xff\xff",
        b"\xff\xff\xff",
    ];
    let bounds = ends
        .iter()
        .flat_map(|&end| [Bound::Included(end), Bound::Excluded(end)])
        .chain([Bound::Unbounded]);
    for from in bounds.clone() {
        for to in bounds.clone() {
            let is_in = |key: &[u8]| {
                let after = match from {
                    Bound::Included(from) => key >= from,
                    Bound::Excluded(from) => key > from,
                    Bound::Unbounded => true,
                };
                let before = match to {
                    Bound::Included(to) => key <= to,
                    Bound::Excluded(to) => key < to,
                    Bound::Unbounded => true,
                };
                after && before
            };
            let mut expected: Pairs = model
                .iter()
                .filter(|(key, _)| is_in(key))
                .map(|(key, value)| (key.clone(), value.to_vec()))
                .collect();
            assert_eq!(pairs(map, (from, to), false), expected, "{from:?} {to:?}");
            expected.reverse();
            assert_eq!(pairs(map, (from, to), true), expected, "{from:?} {to:?}");
        }
    }

    let mut seen = 0;
    map.range(ALL, false, &mut |_, _| {
        seen += 1;
        match seen {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })
    .unwrap();
    assert_eq!(seen, 3, "a visitor that breaks is shown no more");
    clear(map);
}

fn compaction_loses_nothing(map: &dyn OrderedMap) {
    map.compact().unwrap();
    let size = map.max_value_bytes().min(4_000);
    let key = |n: u32| n.to_be_bytes();
    for batch in 0..10 {
        let batch = (0..100).map(|n| put(&key(batch * 100 + n), noise(size, u64::from(n))));
        map.apply(batch.collect()).unwrap();
    }
    let removals = (0..1_000).filter(|n| n % 10 != 0).map(|n| remove(&key(n)));
    map.apply(removals.collect()).unwrap();
    for _ in 0..2 {
        map.compact().unwrap();
        let left = pairs(map, ALL, false);
        assert_eq!(left.len(), 100);
        for (n, (k, value)) in left.iter().enumerate() {
            let n = n as u32 * 10;
            assert!(*k == key(n) && *value == noise(size, u64::from(n % 100)));
        }
        assert_eq!(map.get(&key(1)).unwrap(), None);
    }
    clear(map);
}

fn a_closed_map_refuses_calls(map: &dyn OrderedMap) {
    map.apply(vec![put(b"last", "1")]).unwrap();
    map.close().unwrap();
    let closed = [
        map.get(b"last").err(),
        map.range(ALL, false, &mut |_, _| ControlFlow::Continue(()))
            .err(),
        map.apply(vec![put(b"a", "1")]).err(),
        map.compact().err(),
    ];
    for error in closed {
        assert!(
            matches!(error, Some(StorageError::Closed { .. })),
            "{error:?}"
        );
    }
    map.close().unwrap();
}
