use std::collections::BTreeMap;
use std::path::Path;

use super::*;

fn directory(root: &Path) -> Arc<Directory> {
    Arc::new(Directory::open(root, Some("sled"), "sled").unwrap())
}

fn pairs(map: &dyn OrderedMap) -> BTreeMap<Vec<u8>, Bytes> {
    let mut pairs = BTreeMap::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    map.range(all, false, &mut |key, value| {
        pairs.insert(key.to_vec(), Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    })
    .unwrap();
    pairs
}

fn put(key: &str, value: Vec<u8>) -> Op {
    Op::Put(key.as_bytes().to_vec(), value.into())
}

#[test]
fn compaction_keeps_every_pair_and_nothing_else_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let map = open(Arc::clone(&directory)).unwrap();
    let key = |n: usize| format!("key {n:05}");
    for chunk in 0..8 {
        let keys = chunk * 500..(chunk + 1) * 500;
        map.apply(keys.map(|n| put(&key(n), vec![7; 2000])).collect())
            .unwrap();
    }
    directory.finish().unwrap();
    map.apply(
        (100..4000)
            .map(|n| Op::Remove(key(n).into_bytes()))
            .collect(),
    )
    .unwrap();
    let before = pairs(&map);
    let freed = map.compact().unwrap();
    assert!(freed > 4_000_000, "{freed}");
    assert_eq!(pairs(&map), before);
    assert_eq!(map.compact().unwrap(), 0);
    map.apply(vec![put("after", vec![1])]).unwrap();
    map.close().unwrap();
    assert!(!dir.path().join("map-1").exists());
    drop((map, directory));

    let map = open(self::directory(dir.path())).unwrap();
    let mut after = pairs(&map);
    assert_eq!(after.remove(&b"after"[..]).unwrap(), &[1][..]);
    assert_eq!(after, before);
}

#[test]
fn a_commit_compacts_a_map_that_has_lost_most_of_its_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    directory.finish().unwrap();
    let map = open(Arc::clone(&directory)).unwrap();
    let key = |n: usize| format!("key {n:05}");
    let disk = || map.with(Generation::disk_bytes).unwrap();
    map.writer.lock().unwrap().small = 4 << 20;
    for chunk in 0..20 {
        let keys = chunk * 100..(chunk + 1) * 100;
        map.apply(keys.map(|n| put(&key(n), vec![7; 3500])).collect())
            .unwrap();
    }
    let full = disk();
    assert!(directory.map_path().ends_with("map-1"));
    let gone = (0..2_000).filter(|n| n % 100 != 0);
    map.apply(gone.map(|n| Op::Remove(key(n).into_bytes())).collect())
        .unwrap();
    assert!(directory.map_path().ends_with("map-2"));
    assert!(disk() < full / 2, "{} of {full}", disk());
    assert_eq!(pairs(&map).len(), 20);
}

/// A map with a copy under way, and what is in it.
fn half_copied(directory: &Arc<Directory>) -> (Sled, BTreeMap<Vec<u8>, Bytes>) {
    let map = open(Arc::clone(directory)).unwrap();
    directory.finish().unwrap();
    map.writer.lock().unwrap().small = 1 << 20;
    // Each time other bytes: what was there is dead.
    for round in 0.. {
        let key = |n: usize| format!("key {n:05}");
        let ops = (0..200).map(|n| put(&key(round % 5 * 200 + n), vec![round as u8; 500]));
        map.apply(ops.collect()).unwrap();
        if map.writer.lock().unwrap().copy.is_some() {
            break;
        }
    }
    let pairs = pairs(&map);
    (map, pairs)
}

#[test]
fn commits_copy_a_little_each_and_change_what_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let (map, mut expected) = half_copied(&directory);
    let mut n_commits = 0;
    while directory.map_path().ends_with("map-1") {
        // Before and behind what is copied; one changed, one removed, one new.
        let key = |n: usize| format!("key {:05}", n % 1000);
        let changed = key(n_commits * 37);
        let removed = key(n_commits * 37 + 500);
        let new = format!("{} new", key(n_commits * 91));
        let at_the_edge = map
            .writer
            .lock()
            .unwrap()
            .copy
            .as_ref()
            .unwrap()
            .copied
            .clone();
        let at_the_edge = at_the_edge.unwrap();
        let mut ops = vec![
            put(&changed, vec![1; 10]),
            Op::Remove(removed.clone().into_bytes()),
            put(&new, vec![2; 10]),
        ];
        if at_the_edge != changed.as_bytes() && at_the_edge != removed.as_bytes() {
            ops.push(Op::Put(at_the_edge.clone(), vec![3; 10].into()));
            expected.insert(at_the_edge, vec![3; 10].into());
        }
        map.apply(ops).unwrap();
        expected.insert(changed.into_bytes(), vec![1; 10].into());
        expected.remove(removed.as_bytes());
        expected.insert(new.into_bytes(), vec![2; 10].into());
        n_commits += 1;
        assert!(n_commits < 1_000, "the copy does not end");
    }
    assert!(n_commits > 10, "{n_commits}");
    assert_eq!(pairs(&map), expected);
    assert!(!dir.path().join("map-1").exists());
    // Not closed, as after a crash: the copy is durable.
    drop((map, directory));
    let map = open(self::directory(dir.path())).unwrap();
    assert_eq!(pairs(&map), expected);
}

#[test]
fn a_copy_ends_while_new_pairs_keep_coming_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let (map, mut expected) = half_copied(&directory);
    for commit in 0.. {
        assert!(commit < 300, "the copy does not end");
        let key = |n: usize| format!("last {:07}", commit * 200 + n);
        map.apply((0..200).map(|n| put(&key(n), vec![7; 10])).collect())
            .unwrap();
        expected.extend((0..200).map(|n| (key(n).into_bytes(), vec![7; 10].into())));
        if !directory.map_path().ends_with("map-1") {
            break;
        }
    }
    assert_eq!(pairs(&map), expected);
}

#[test]
fn a_crash_in_the_middle_of_a_copy_leaves_the_old_map() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let (map, expected) = half_copied(&directory);
    drop((map, directory));
    assert!(dir.path().join("map-2").exists());
    let directory = self::directory(dir.path());
    directory.remove_leftovers().unwrap();
    assert!(!dir.path().join("map-2").exists());
    assert_eq!(pairs(&open(directory).unwrap()), expected);
}

#[test]
fn closing_in_the_middle_of_a_copy_leaves_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let (map, expected) = half_copied(&directory);
    map.close().unwrap();
    assert!(!dir.path().join("map-2").exists());
    drop((map, directory));
    assert_eq!(pairs(&open(self::directory(dir.path())).unwrap()), expected);
}

#[test]
fn compacting_in_the_middle_of_a_copy_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let (map, expected) = half_copied(&directory);
    assert!(map.compact().unwrap() > 0);
    assert!(directory.map_path().ends_with("map-2"));
    assert_eq!(pairs(&map), expected);
}

#[test]
fn a_copy_that_fails_is_given_up_and_costs_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let (map, mut expected) = half_copied(&directory);
    // It cannot be synced without its folder.
    std::fs::remove_dir_all(dir.path().join("map-2")).unwrap();
    for n in 0..200u8 {
        map.apply(vec![put("one", vec![n])]).unwrap();
    }
    expected.insert(b"one".to_vec(), vec![199].into());
    assert!(map.writer.lock().unwrap().copy.is_none());
    assert!(directory.map_path().ends_with("map-1"));
    assert_eq!(pairs(&map), expected);
    assert!(map.compact().unwrap() > 0);
    assert_eq!(pairs(&map), expected);
}

#[test]
fn no_pair_goes_to_a_file_that_sled_does_not_sync() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let map = open(Arc::clone(&directory)).unwrap();
    for n in 0..300 {
        let key = format!("{:0>517}", n * 7919 % 300);
        map.apply(vec![put(&key, vec![n as u8; map.max_value_bytes()])])
            .unwrap();
    }
    let blobs = directory.map_path().join("blobs");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
}

#[test]
fn damage_is_an_error_or_a_loss_and_no_panic() {
    for at in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory(dir.path());
        let map = open(Arc::clone(&directory)).unwrap();
        map.apply(
            (0..500)
                .map(|n| put(&format!("{n}"), vec![1; 500]))
                .collect(),
        )
        .unwrap();
        directory.finish().unwrap();
        map.close().unwrap();
        drop((map, directory));

        let path = dir.path().join("map-1").join("db");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at * 25_000;
        bytes[at..at + 4096].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        let read = open(self::directory(dir.path())).and_then(|map| {
            map.range((Bound::Unbounded, Bound::Unbounded), false, &mut |_, _| {
                ControlFlow::Continue(())
            })
        });
        match read {
            // sled leaves out what it cannot read. The adapter's record and the numbers of entries tell.
            Ok(()) => {}
            Err(StorageError::Corrupt { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn files_that_sled_takes_for_those_of_another_version_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let map = open(Arc::clone(&directory)).unwrap();
    directory.finish().unwrap();
    map.close().unwrap();
    drop((map, directory));
    let conf = dir.path().join("map-1/conf");
    let garbage = vec![0xa5; std::fs::metadata(&conf).unwrap().len() as usize];
    std::fs::write(conf, garbage).unwrap();
    match open(self::directory(dir.path())) {
        Err(StorageError::Corrupt { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_crash_while_a_snapshot_is_written_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path());
    let map = open(Arc::clone(&directory)).unwrap();
    map.apply(vec![put("a", vec![1])]).unwrap();
    directory.finish().unwrap();
    map.close().unwrap();
    drop((map, directory));
    for content in ["", "half of a snapshot"] {
        let name = "map-1/snap.7FFFFFFFFFFFFFFF.generating";
        std::fs::write(dir.path().join(name), content).unwrap();
        let map = open(self::directory(dir.path())).unwrap();
        assert_eq!(map.get(b"a").unwrap().unwrap(), &[1][..]);
        map.close().unwrap();
    }
}

#[test]
fn a_closed_map_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let map = open(directory(dir.path())).unwrap();
    map.close().unwrap();
    map.close().unwrap();
    assert!(matches!(map.get(b"a"), Err(StorageError::Closed { .. })));
    assert!(matches!(
        map.apply(vec![put("a", vec![])]),
        Err(StorageError::Closed { .. })
    ));
}

#[test]
fn nothing_is_written_or_shown_after_a_failed_write() {
    let dir = tempfile::tempdir().unwrap();
    let map = open(directory(dir.path())).unwrap();
    map.apply(vec![put("a", vec![1])]).unwrap();
    map.poison.note(StorageError::io(
        "sync",
        dir.path(),
        std::io::Error::other("the disk is gone"),
    ));
    let error = map.apply(vec![put("a", vec![2])]).unwrap_err().to_string();
    assert!(error.contains("the disk is gone"), "{error}");
    // What sled has in its memory may not be on the disk.
    let error = map.get(b"a").unwrap_err().to_string();
    assert!(error.contains("the disk is gone"), "{error}");
}
