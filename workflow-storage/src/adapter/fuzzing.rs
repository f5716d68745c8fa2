//! For the fuzzer: pairs, one kind at a time, and a whole store of them.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::core::Core;
use super::frame::{self, Fault, Joiner};
use super::head::Head;
use super::keys::{self, Space};
use crate::fuzzing::with_a_flipped_bit;
use crate::memory::Memory;
use crate::{
    Batch, Blobs, DeleteOutcome, Expect, MessageId, NodeId, Op, OrderedMap, Position, Result,
    RunDelete, RunId, RunQuery, RunRecord, RunWrite, Send, StoredStatus, Timestamp, ValueKey,
    WriteOutcome,
};

/// Chunks that were cut come back whole; with a flipped bit or without one of them they do not come back at all.
pub(crate) fn chunks(data: &[u8]) {
    let Some(([room, which], bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut ops = Vec::new();
    let cut = frame::put(&mut ops, b"key", bytes, 9 + usize::from(*room)).expect("few bytes fit");
    let pairs: Vec<(Vec<u8>, Bytes)> = ops
        .into_iter()
        .filter_map(|op| match op {
            Op::Put(key, value) => Some((key, value)),
            Op::Remove(_) => None,
        })
        .collect();
    assert_eq!(cut as usize, pairs.len());
    assert_eq!(join(&pairs).expect("it was just cut"), bytes);

    let which = usize::from(*which) % pairs.len();
    let mut flipped = pairs.clone();
    flipped[which].1 = with_a_flipped_bit(&pairs[which].1).into();
    assert_eq!(join(&flipped), Err(Fault::Checksum(which as u32)));
    let mut missing = pairs.clone();
    missing.remove(which);
    assert!(join(&missing).is_err());

    // Chunks that say what they like, with the checksums of chunks: a length is not believed without its bytes.
    let sealed = (0..)
        .zip(bytes.chunks(1 + usize::from(*room)))
        .map(|(chunk, payload)| {
            let key = keys::chunk(b"key", chunk);
            let value = frame::seal(&key, &[payload]);
            (key, value)
        });
    let joined = join(&sealed.collect::<Vec<_>>());
    assert!(joined.map_or(0, |whole| whole.len()) <= bytes.len());
}

fn join(pairs: &[(Vec<u8>, Bytes)]) -> std::result::Result<Bytes, Fault> {
    let mut joiner = Joiner::default();
    for (key, value) in pairs {
        let chunk = keys::parse_chunk(&key[3..]).ok_or(Fault::Short)?;
        if let Some(whole) = joiner.push(chunk, key, value)? {
            return Ok(whole);
        }
    }
    Err(joiner.unfinished())
}

/// A record that is read is the same when it is written again, and a flipped bit makes it unreadable.
pub(crate) fn record(data: &[u8]) {
    let key = keys::record(&RunId::new("run").expect("a good id"));
    for value in [Bytes::copy_from_slice(data), frame::seal(&key, &[data])] {
        assert!(Head::decode(&key, &with_a_flipped_bit(&frame::seal(&key, &[&value]))).is_err());
        let Ok(head) = Head::decode(&key, &value) else {
            continue;
        };
        let again = head.encode(&key).expect("it was read from as many bytes");
        assert_eq!(Head::decode(&key, &again).ok(), Some(head));
        assert!(Head::decode(b"rother", &again).is_err());
    }
}

/// A key that is read is the same when it is made again, and the keys of one run or name are never another's.
pub(crate) fn keys(data: &[u8]) {
    if let Some((at, run)) = keys::parse_indexed(data) {
        assert_eq!(&keys::wake(crate::RunKind::Workflow, at, &run)[2..], data);
        assert_eq!(
            &keys::created(crate::RunKind::Workflow, at, &run)[2..],
            data
        );
    }
    if let Some((number, chunk)) = keys::parse_numbered(data) {
        let run = RunId::new("run").expect("a good id");
        let key = keys::chunk(&keys::entry(&run, Position(number)), chunk);
        assert_eq!(key.strip_prefix(b"jrun\0"), Some(data));
    }
    if let std::ops::Bound::Excluded(end) = keys::end_of(data) {
        assert!(&*end > data && !end.starts_with(data));
    }
    let Some((at, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Some((a, b)) = text.split_at_checked(usize::from(*at)) else {
        return;
    };
    let run = RunId::new("run").expect("a good id");
    let name = |name: &str| keys::value(&run, &ValueKey::Step(name.to_owned()));
    assert_eq!(name(a).starts_with(&name(b)), a == b);
    if let (Ok(a), Ok(b)) = (RunId::new(a), RunId::new(b)) {
        let (of_a, of_b) = (
            keys::of_run(Space::Value, &a),
            keys::of_run(Space::Value, &b),
        );
        assert_eq!(of_a.starts_with(&of_b), a == b);
    }
}

/// Whatever pairs a map holds, every call of a store on it returns, and what a commit wrote is there.
///
/// A pair is `flags: u8`, `key: u8 length, bytes`, `value: u16 little endian length, bytes`; with bit 0 of the flags the value gets
/// its checksum.
pub(crate) fn store(data: &[u8]) {
    let map = Memory::default();
    let format = frame::seal(keys::FORMAT, &[&1u32.to_le_bytes()]);
    let mut ops = vec![Op::Put(keys::FORMAT.to_vec(), format)];
    let mut runs = BTreeSet::from([RunId::new("run").expect("a good id")]);
    let mut rest = data;
    while let Some((key, value)) = pair(&mut rest) {
        if let Some(run) = key.strip_prefix(&[Space::Record as u8])
            && let Ok(run) = std::str::from_utf8(run)
            && let Ok(run) = RunId::new(run)
        {
            runs.insert(run);
        }
        ops.push(Op::Put(key, value));
    }
    map.apply(ops).expect("memory takes everything");
    let core = Core::new(Box::new(map), Blobs::in_memory(), "fuzzed".to_owned());
    if core.check_format(true).is_ok() {
        listings(&core);
        drop(core.due(crate::RunKind::Workflow, None, Timestamp::MAX, 100));
        for run in runs {
            // Damage is an error: what a call makes of it is its own matter.
            drop(of_run(&core, run));
        }
        drop(core.maintain());
    }
}

fn pair(rest: &mut &[u8]) -> Option<(Vec<u8>, Bytes)> {
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        *rest = left;
        Some(taken)
    };
    let head = take(2)?;
    let key = take(usize::from(head[1]))?.to_vec();
    let len = u16::from_le_bytes(take(2)?.try_into().ok()?);
    let value = take(usize::from(len))?;
    let value = match head[0] & 1 {
        0 => Bytes::copy_from_slice(value),
        _ => frame::seal(&key, &[value]),
    };
    Some((key, value))
}

fn listings(core: &Core) {
    for statuses in [vec![], StoredStatus::ALL.to_vec()] {
        for newest_first in [false, true] {
            let mut query = RunQuery {
                statuses: statuses.clone(),
                newest_first,
                limit: 3,
                ..RunQuery::default()
            };
            let mut last = None;
            while let Ok(page) = core.list(&query) {
                for listed in &page.runs {
                    let at = (listed.record.created_at, listed.run.clone());
                    let is_in_order = last
                        .as_ref()
                        .is_none_or(|last| if newest_first { at < *last } else { at > *last });
                    assert!(is_in_order, "{at:?} after {last:?}");
                    last = Some(at);
                }
                let Some(next) = page.next else { break };
                query.after = Some(next);
            }
        }
    }
}

/// Everything that is done with one run, until something is damaged.
fn of_run(core: &Core, run: RunId) -> Result<()> {
    let before = core.record(&run)?;
    for key in [
        ValueKey::Output,
        ValueKey::Error,
        ValueKey::Metadata,
        ValueKey::Step("a".into()),
    ] {
        drop(core.value(&run, &key));
    }
    drop(core.inbox(&run, None, 100));
    let first = before.as_ref().map_or(Position(0), |old| old.first_entry);
    if let Ok(entries) = core.journal(&run, first, 1 << 20) {
        assert!(entries.is_sorted_by(|a, b| a.position < b.position));
        assert!(entries.iter().all(|entry| entry.position >= first));
    }

    let claimed = core.claim(vec![run.clone()], NodeId(7))?.pop().flatten();
    let Some(record) = claimed else {
        assert!(before.is_none(), "a record went with a claim");
        return Ok(());
    };
    assert!(before.is_some_and(|before| before.epoch < record.epoch));
    let written = append(core, &run, &record)?;
    assert_eq!(core.record(&run)?.as_ref(), Some(&written));
    let last = Position(written.next_entry.0 - 1);
    // An entry that was there before, at a place behind the end, may have left more chunks.
    if let Ok(entries) = core.journal(&run, last, 1)
        && let Some(entry) = entries.first()
    {
        assert_eq!((entry.position, &*entry.bytes), (last, &b"entry"[..]));
    }
    let (sent, _) = core.commit(Batch {
        messages: vec![Send {
            to: run.clone(),
            key: Some("key".into()),
            sent_at: Timestamp(9),
            body: "body".into(),
            blobs: vec![],
            only_with: None,
        }],
        ..Batch::default()
    })?;
    assert_eq!(sent.messages.len(), 1);
    drop(core.inbox(&run, Some(MessageId(0)), 100));
    let delete = RunDelete {
        run: run.clone(),
        epoch: written.epoch,
        node: NodeId(7),
        family: None,
    };
    let (deleted, unnamed) = core.commit(delete.into())?;
    core.remove_blobs(unnamed);
    assert_eq!(deleted.deletes, [DeleteOutcome::Deleted]);
    assert_eq!(core.record(&run)?, None);
    assert!(core.journal(&run, Position(0), 1 << 20)?.is_empty());
    assert!(core.inbox(&run, None, 100)?.is_empty());
    Ok(())
}

fn append(core: &Core, run: &RunId, old: &RunRecord) -> Result<RunRecord> {
    let record = RunRecord {
        status: StoredStatus::Running,
        next_entry: old.next_entry.next(),
        first_entry: old.first_entry.min(old.next_entry),
        ..old.clone()
    };
    let (committed, _) = core.commit(Batch {
        writes: vec![RunWrite {
            run: run.clone(),
            expect: Expect::Epoch(old.epoch),
            record: record.clone(),
            entry: Some("entry".into()),
            truncate: true,
            values: vec![(ValueKey::Output, Some("output".into()))],
            blobs: vec![],
            consumed: vec![MessageId(0)],
            only_with: None,
        }],
        ..Batch::default()
    })?;
    assert_eq!(committed.writes, [WriteOutcome::Written]);
    assert_eq!(
        core.value(run, &ValueKey::Output)?.as_deref(),
        Some(&b"output"[..])
    );
    core.release(vec![(run.clone(), old.epoch)])?;
    core.claim(vec![], NodeId(7))?;
    let mut record = record;
    record.owner = None;
    record.epoch = old.epoch.next();
    Ok(record)
}
