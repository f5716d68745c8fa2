//! What the conformance suite cannot see from outside: what is read and written, and what damage is noticed.

use std::ops::{Bound, ControlFlow};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::memory::Memory;
use crate::{
    DeleteOutcome, Expect, Op, RunDelete, RunWrite, Send, SendOutcome, StoredStatus, WriteOutcome,
};

/// A map in memory that counts, fails when told to, and takes short values only.
#[derive(Debug, Default)]
struct Inner {
    map: Memory,
    reads: AtomicUsize,
    ops: Mutex<Vec<Op>>,
    fails: AtomicBool,
    during_apply: Hook,
    after_apply: Hook,
}

/// What is done while a batch is on its way.
#[derive(Default)]
struct Hook(Mutex<Option<Box<dyn FnOnce() + std::marker::Send>>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug, Default, Clone)]
struct Watched(Arc<Inner>);

impl OrderedMap for Watched {
    fn backend(&self) -> &'static str {
        "watched"
    }
    fn max_value_bytes(&self) -> usize {
        160
    }
    fn blocks(&self) -> bool {
        false
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.map.get(key)
    }
    fn range(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.map.range(range, reverse, visit)
    }
    fn apply(&self, ops: Vec<Op>) -> Result<()> {
        let long = |op: &Op| matches!(op, Op::Put(_, value) if value.len() > 160);
        assert!(!ops.iter().any(long));
        self.0.ops.lock().unwrap().clone_from(&ops);
        if let Some(look) = self.0.during_apply.0.lock().unwrap().take() {
            look();
        }
        self.0.map.apply(ops)?;
        if let Some(look) = self.0.after_apply.0.lock().unwrap().take() {
            look();
        }
        if self.0.fails.load(Ordering::Relaxed) {
            return Err(StorageError::io("sync", "map", std::io::Error::other("no")));
        }
        Ok(())
    }
    fn compact(&self) -> Result<u64> {
        Ok(0)
    }
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl Watched {
    fn pairs(&self) -> Vec<(Vec<u8>, Bytes)> {
        let mut pairs = Vec::new();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut visit = |key: &[u8], value: &[u8]| {
            pairs.push((key.to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        };
        self.0.map.range(all, false, &mut visit).unwrap();
        pairs
    }

    fn reads(&self) -> usize {
        self.0.reads.swap(0, Ordering::Relaxed)
    }

    fn open(&self) -> Result<Core> {
        let core = Core::new(
            Box::new(self.clone()),
            Blobs::in_memory(),
            "here".to_owned(),
        );
        core.check_format(true)?;
        Ok(core)
    }
}

fn run(id: &str) -> RunId {
    RunId::new(id).unwrap()
}

fn record(entries: u64) -> RunRecord {
    RunRecord {
        first_entry: Position(0),
        next_entry: Position(entries),
        ..super::head::tests::record()
    }
}

/// A write of a whole run: two entries, values and a blob.
fn new_run(core: &Core, id: &str) {
    let blob = core.blobs.put(Bytes::from_static(b"large")).unwrap();
    let mut write = RunWrite {
        run: run(id),
        expect: Expect::New,
        record: record(1),
        entry: Some(vec![1; 500].into()),
        truncate: false,
        values: vec![
            (ValueKey::Output, Some(vec![2; 500].into())),
            (ValueKey::Step("s".to_owned()), Some(vec![3; 5].into())),
        ],
        blobs: vec![blob],
        consumed: vec![],
        only_with: None,
    };
    commit(core, write.clone());
    write.expect = Expect::Epoch(write.record.epoch);
    write.record = record(2);
    commit(core, write);
    core.blobs.unpin(&blob);
    let message = Send {
        to: run(id),
        key: Some("key".to_owned()),
        sent_at: Timestamp(7),
        body: vec![4; 500].into(),
        blobs: vec![],
        only_with: None,
    };
    let batch = Batch {
        messages: vec![
            message.clone(),
            Send {
                key: None,
                ..message
            },
        ],
        ..Batch::default()
    };
    assert_eq!(
        core.commit(batch).unwrap().0.messages,
        [0, 1].map(|id| SendOutcome::Accepted(MessageId(id)))
    );
}

fn commit(core: &Core, write: RunWrite) {
    let batch = Batch {
        writes: vec![write],
        ..Batch::default()
    };
    assert_eq!(
        core.commit(batch).unwrap().0.writes,
        [WriteOutcome::Written]
    );
}

/// Reads everything of a run, from the map.
fn read(core: &Core, id: &str) -> Result<()> {
    core.journal(&run(id), Position(0), usize::MAX)?;
    core.inbox(&run(id), None, usize::MAX)?;
    core.value(&run(id), &ValueKey::Output)?;
    core.value(&run(id), &ValueKey::Step("s".to_owned()))?;
    core.record(&run(id))?;
    Ok(())
}

#[test]
fn appending_a_small_entry_reads_nothing_and_puts_two_pairs() {
    let map = Watched::default();
    let core = map.open().unwrap();
    new_run(&core, "a");
    map.reads();
    let write = RunWrite {
        run: run("a"),
        expect: Expect::Epoch(record(0).epoch),
        record: record(3),
        entry: Some(Bytes::from_static(b"small")),
        truncate: false,
        values: vec![],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    };
    commit(&core, write);
    assert_eq!(map.reads(), 0);
    assert_eq!(map.0.ops.lock().unwrap().len(), 2);
}

fn try_delete(core: &Core, id: &str, epoch: Epoch) -> DeleteOutcome {
    let delete = RunDelete {
        run: run(id),
        epoch,
        node: NodeId(1),
        family: None,
    };
    let (committed, unnamed) = core.commit(delete.into()).unwrap();
    core.remove_blobs(unnamed);
    committed.deletes[0]
}

fn delete(core: &Core, id: &str) {
    let deleted = try_delete(core, id, record(0).epoch);
    assert_eq!(deleted, DeleteOutcome::Deleted);
}

#[test]
fn a_deleted_run_leaves_nothing() {
    let map = Watched::default();
    let core = map.open().unwrap();
    let empty = map.pairs();
    new_run(&core, "a");
    let one = map.pairs();
    // A run whose id begins with the other's.
    new_run(&core, "a b");
    delete(&core, "a b");
    assert_eq!(map.pairs(), one);
    assert_eq!(try_delete(&core, "a", Epoch(77)), DeleteOutcome::Fenced);
    delete(&core, "a");
    assert_eq!(map.pairs(), empty);
}

#[test]
fn every_damaged_pair_of_a_run_is_named() {
    let map = Watched::default();
    new_run(&map.open().unwrap(), "a");
    let mut named = Vec::new();
    for (key, value) in map.pairs() {
        if value.is_empty() || !b"rjvi".contains(&key[0]) {
            continue;
        }
        let mut bad = value.to_vec();
        bad[0] ^= 1;
        map.0
            .map
            .apply(vec![Op::Put(key.clone(), bad.into())])
            .unwrap();
        let error = read(&map.open().unwrap(), "a").unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        named.push(error.to_string());
        map.0.map.apply(vec![Op::Put(key, value)]).unwrap();
    }
    assert_eq!(named.len(), 4 * 2 + 4 * 2 + 4 + 1 + 1);
    for (at, error) in [
        (
            0,
            "store here is damaged: message 0 of run a: the checksum of chunk 0 is wrong",
        ),
        (
            8,
            "store here is damaged: journal entry 0 of run a: the checksum of chunk 0 is wrong",
        ),
        (
            15,
            "store here is damaged: journal entry 1 of run a: the checksum of chunk 3 is wrong",
        ),
        (
            16,
            "store here is damaged: the record of run a cannot be read: its checksum is wrong",
        ),
        (
            17,
            "store here is damaged: value Output of run a: the checksum of chunk 0 is wrong",
        ),
    ] {
        assert_eq!(named[at], error);
    }
    read(&map.open().unwrap(), "a").unwrap();
}

#[test]
fn every_missing_chunk_is_named_and_a_missing_entry_is_left_out() {
    let map = Watched::default();
    new_run(&map.open().unwrap(), "a");
    let chunks: Vec<_> = map
        .pairs()
        .into_iter()
        .filter(|(key, _)| key.starts_with(b"ja\0"))
        .collect();
    assert_eq!(chunks.len(), 8);
    for (i, (key, value)) in chunks.iter().enumerate() {
        map.0.map.apply(vec![Op::Remove(key.clone())]).unwrap();
        let error = read(&map.open().unwrap(), "a").unwrap_err().to_string();
        let what = format!(
            "journal entry {} of run a: chunk {} is missing",
            i / 4,
            i % 4
        );
        assert!(error.ends_with(&what), "{error}");
        map.0
            .map
            .apply(vec![Op::Put(key.clone(), value.clone())])
            .unwrap();
    }
    let first = chunks[..4].iter().map(|(key, _)| Op::Remove(key.clone()));
    map.0.map.apply(first.collect()).unwrap();
    let entries = map
        .open()
        .unwrap()
        .journal(&run("a"), Position(0), usize::MAX)
        .unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].position, Position(1));
}

#[test]
fn a_value_that_gets_shorter_leaves_no_chunks() {
    let map = Watched::default();
    let core = map.open().unwrap();
    new_run(&core, "a");
    for (len, chunks) in [(500, 4), (200, 2), (0, 1)] {
        commit(
            &core,
            RunWrite {
                run: run("a"),
                expect: Expect::Epoch(record(0).epoch),
                record: record(2),
                entry: None,
                truncate: false,
                values: vec![(ValueKey::Output, Some(vec![0; len].into()))],
                blobs: vec![],
                consumed: vec![],
                only_with: None,
            },
        );
        let value = core.value(&run("a"), &ValueKey::Output).unwrap().unwrap();
        assert_eq!(value.len(), len);
        let pairs = map.pairs();
        let left = pairs.iter().filter(|(key, _)| key.starts_with(b"va\0\x01"));
        assert_eq!(left.count(), chunks);
    }
}

#[test]
fn a_page_by_status_reads_no_other_runs() {
    let map = Watched::default();
    let core = map.open().unwrap();
    let writes = (0..2000).map(|n| RunWrite {
        run: run(&format!("{n:04}")),
        expect: Expect::New,
        record: RunRecord {
            status: if n == 1234 {
                StoredStatus::Failed
            } else {
                StoredStatus::Successful
            },
            created_at: Timestamp(n),
            ..record(0)
        },
        entry: None,
        truncate: false,
        values: vec![],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    });
    let batch = Batch {
        writes: writes.collect(),
        ..Batch::default()
    };
    core.commit(batch).unwrap();
    let core = map.open().unwrap();
    map.reads();
    let query = RunQuery {
        statuses: vec![StoredStatus::Failed, StoredStatus::Running],
        ..RunQuery::default()
    };
    let page = core.list(&query).unwrap();
    assert_eq!(page.runs.len(), 1);
    assert_eq!((page.runs[0].run.as_str(), page.next), ("1234", None));
    assert!(map.reads() <= 3);
}

#[test]
fn a_record_is_seen_only_when_it_is_durable() {
    let map = Watched::default();
    let core = Arc::new(map.open().unwrap());
    new_run(&core, "a");
    let before = core.record(&run("a")).unwrap().unwrap();
    let seen = Arc::new(Mutex::new(None));
    let look = {
        let (core, seen) = (Arc::clone(&core), Arc::clone(&seen));
        move || *seen.lock().unwrap() = core.record(&run("a")).unwrap()
    };
    *map.0.during_apply.0.lock().unwrap() = Some(Box::new(look));
    let claimed = core.claim(vec![run("a")], NodeId(5)).unwrap();
    let seen = seen.lock().unwrap().take();
    assert_eq!(seen.as_ref(), Some(&before));
    let mut claimed = claimed[0].clone().unwrap();
    assert_ne!(claimed, before);
    // Only who claims a run is told how often that was not given up.
    claimed.n_orphaned = 0;
    assert_eq!(core.record(&run("a")).unwrap(), Some(claimed));
}

#[test]
fn who_reads_a_message_reads_the_record_that_came_with_it() {
    let map = Watched::default();
    let core = Arc::new(map.open().unwrap());
    new_run(&core, "parent");
    new_run(&core, "child");
    let (read, has_read) = std::sync::mpsc::channel();
    let reader = {
        let core = Arc::clone(&core);
        move || {
            let mail = core.inbox(&run("parent"), None, 9).unwrap();
            let child = core.record(&run("child")).unwrap().unwrap();
            read.send((mail.len(), child.status)).unwrap();
        }
    };
    let found = Arc::new(Mutex::new(None));
    let look = {
        let found = Arc::clone(&found);
        move || {
            // The map shows the batch, and the commit is not over. Nobody is to read half of it meanwhile.
            std::thread::spawn(reader);
            let early = has_read.recv_timeout(std::time::Duration::from_millis(100));
            *found.lock().unwrap() = Some((early.ok(), has_read));
        }
    };
    *map.0.after_apply.0.lock().unwrap() = Some(Box::new(look));
    let ended = RunRecord {
        status: StoredStatus::Successful,
        ..core.record(&run("child")).unwrap().unwrap()
    };
    let write = RunWrite {
        run: run("child"),
        expect: Expect::Epoch(ended.epoch),
        record: ended,
        entry: None,
        truncate: false,
        values: vec![],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    };
    let message = Send {
        to: run("parent"),
        key: None,
        sent_at: Timestamp(7),
        body: Bytes::from_static(b"it has ended"),
        blobs: vec![],
        only_with: None,
    };
    let batch = Batch {
        writes: vec![write],
        messages: vec![message],
        ..Batch::default()
    };
    core.commit(batch).unwrap();
    let (early, has_read) = found.lock().unwrap().take().unwrap();
    let read = early.unwrap_or_else(|| has_read.recv().unwrap());
    // A new run has two messages of its own.
    assert_eq!(read, (3, StoredStatus::Successful));
}

#[test]
fn after_a_failed_write_the_map_is_asked_what_is_there() {
    let map = Watched::default();
    let core = map.open().unwrap();
    new_run(&core, "a");
    map.0.fails.store(true, Ordering::Relaxed);
    // The map fails after it has written.
    core.claim(vec![run("a")], NodeId(5)).unwrap_err();
    map.0.fails.store(false, Ordering::Relaxed);
    assert_eq!(
        core.record(&run("a")).unwrap().unwrap().owner,
        Some(NodeId(5))
    );
}

#[test]
fn a_map_of_something_else_or_of_the_future_is_not_opened() {
    let map = Watched::default();
    map.0
        .map
        .apply(vec![Op::Put(b"x".to_vec(), Bytes::new())])
        .unwrap();
    assert!(matches!(map.open(), Err(StorageError::Corrupt { .. })));

    let map = Watched::default();
    let future = frame::seal(keys::FORMAT, &[&2_u32.to_le_bytes()]);
    map.0
        .map
        .apply(vec![Op::Put(keys::FORMAT.to_vec(), future)])
        .unwrap();
    let error = map.open().unwrap_err();
    assert_eq!(
        error.to_string(),
        "store here has format 2, and this version of keepstep reads 1; use the version that wrote it"
    );
}

#[test]
fn a_write_that_refers_to_a_blob_that_is_not_there_is_refused() {
    let map = Watched::default();
    let core = map.open().unwrap();
    let before = map.pairs();
    let batch = Batch {
        writes: vec![RunWrite {
            run: run("a"),
            expect: Expect::New,
            record: record(0),
            entry: None,
            truncate: false,
            values: vec![],
            blobs: vec![BlobId([7; 32])],
            consumed: vec![],
            only_with: None,
        }],
        ..Batch::default()
    };
    let blob = BlobId([7; 32]);
    let refused = WriteOutcome::BlobMissing { blob };
    assert_eq!(core.commit(batch).unwrap().0.writes, [refused]);
    assert_eq!(map.pairs(), before);
}

#[test]
fn blobs_are_swept_once_no_run_refers_to_them() {
    let map = Watched::default();
    let core = map.open().unwrap();
    new_run(&core, "a");
    new_run(&core, "b");
    let fresh = core.blobs.put(Bytes::from_static(b"fresh")).unwrap();
    delete(&core, "a");
    assert_eq!(core.maintain().unwrap().blobs_removed, 0);
    let pinned = core.blobs.put(Bytes::from_static(b"large")).unwrap();
    delete(&core, "b");
    assert_eq!(core.blobs.list().unwrap().len(), 2, "it is pinned");
    core.blobs.unpin(&pinned);
    let done = core.maintain().unwrap();
    assert_eq!((done.blobs_removed, done.bytes_freed), (1, 5));
    assert_eq!(core.blobs.list().unwrap(), [fresh]);
    // With nobody else to want it, it goes at once.
    new_run(&core, "a");
    delete(&core, "a");
    assert_eq!(core.blobs.list().unwrap(), [fresh]);
}

#[test]
fn a_blob_is_there_until_nothing_durable_names_it() {
    let map = Watched::default();
    let core = Arc::new(map.open().unwrap());
    new_run(&core, "a");
    let seen = Arc::new(AtomicUsize::new(0));
    let look = {
        let (core, seen) = (Arc::clone(&core), Arc::clone(&seen));
        move || seen.store(core.blobs.list().unwrap().len(), Ordering::Relaxed)
    };
    *map.0.during_apply.0.lock().unwrap() = Some(Box::new(look));
    delete(&core, "a");
    assert_eq!(seen.load(Ordering::Relaxed), 1, "the run may be back");
    assert_eq!(core.blobs.list().unwrap(), []);
}

/// The positions of the entries that the map has of a run.
fn stored_entries(map: &Watched, id: &str) -> Vec<u64> {
    let prefix = keys::of_run(keys::Space::Journal, &run(id));
    let pairs = map.pairs().into_iter();
    let of_run = pairs.filter_map(|(key, _)| keys::parse_numbered(key.strip_prefix(&*prefix)?));
    of_run.map(|(position, _)| position).collect()
}

#[test]
fn many_old_entries_go_in_batches_of_few_and_leftovers_with_the_next() {
    let map = Watched::default();
    let core = map.open().unwrap();
    let write = |entries: u64, first: u64| RunWrite {
        run: run("a"),
        expect: match entries {
            1 => Expect::New,
            _ => Expect::Epoch(record(1).epoch),
        },
        record: RunRecord {
            first_entry: Position(first),
            ..record(entries)
        },
        entry: Some(vec![1].into()),
        truncate: first > 0,
        values: vec![],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    };
    (1..=2_000).for_each(|entries| commit(&core, write(entries, 0)));
    commit(&core, write(2_001, 2_000));
    assert_eq!(stored_entries(&map, "a"), [2_000]);
    // The commit itself came before, whole.
    let last = map.0.ops.lock().unwrap().clone();
    assert!((1..=512).contains(&last.len()), "{}", last.len());
    assert!(last.iter().all(|op| matches!(op, Op::Remove(_))));
    // As a crash between the batches leaves it.
    let left = keys::chunk(&keys::entry(&run("a"), Position(7)), 0);
    map.0.map.apply(vec![Op::Put(left, "old".into())]).unwrap();
    commit(&core, write(2_002, 2_001));
    assert_eq!(stored_entries(&map, "a"), [2_001]);
}
