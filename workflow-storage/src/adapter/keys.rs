//! The keys. Every kind of pair has a space of its own, named by the first byte; `FORMAT.md` lists them all.
//!
//! A run id has no zero byte, so `id 0x00` is the prefix of no other run's keys. Numbers are big endian, so
//! that bytes sort as numbers do.

use std::ops::Bound;

use crate::{
    BlobId, MessageId, Parent, Position, RunId, RunKind, StoredStatus, Timestamp, ValueKey,
};

/// The store's own record.
pub(super) const FORMAT: &[u8] = b"\0format";

/// The first byte of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Space {
    /// A run's record.
    Record = b'r',
    /// Runs by creation.
    Created = b'c',
    /// Runs by status and creation.
    Status = b's',
    /// Active runs by the time they must be woken.
    Wake = b'w',
    /// Runs by the run that started them, then by creation.
    Child = b'p',
    /// Journal entries, in chunks.
    Journal = b'j',
    /// Values, in chunks.
    Value = b'v',
    /// Messages, in chunks.
    Inbox = b'i',
    /// Keys of messages that arrived.
    Seen = b'd',
    /// The runs of a blob.
    BlobRuns = b'b',
    /// The blobs of a run.
    RunBlobs = b'B',
}

impl Space {
    /// The spaces whose keys begin with a run.
    pub(super) const OF_RUNS: [Self; 5] = [
        Self::Journal,
        Self::Value,
        Self::Inbox,
        Self::Seen,
        Self::RunBlobs,
    ];
}

/// The longest name that stands in a key; a longer one is represented by its hash.
const LONGEST_NAME: usize = 254;
/// Stands for a length, before a hash.
const HASHED: u8 = 255;

pub(super) fn record(run: &RunId) -> Vec<u8> {
    join(Space::Record, &[run.as_str().as_bytes()])
}

pub(super) fn created(kind: RunKind, at: Timestamp, run: &RunId) -> Vec<u8> {
    let at = at.0.to_be_bytes();
    join(
        Space::Created,
        &[&[kind as u8], &at, run.as_str().as_bytes()],
    )
}

pub(super) fn status(
    kind: RunKind,
    status: StoredStatus,
    created: Timestamp,
    run: &RunId,
) -> Vec<u8> {
    let place = [kind as u8, status as u8];
    let created = created.0.to_be_bytes();
    join(Space::Status, &[&place, &created, run.as_str().as_bytes()])
}

pub(super) fn wake(kind: RunKind, at: Timestamp, run: &RunId) -> Vec<u8> {
    let at = at.0.to_be_bytes();
    join(Space::Wake, &[&[kind as u8], &at, run.as_str().as_bytes()])
}

/// What all keys of the children of a run begin with, which has this incarnation.
pub(super) fn children(parent: &RunId, incarnation: u64) -> Vec<u8> {
    join(
        Space::Child,
        &[parent.as_str().as_bytes(), &[0], &incarnation.to_be_bytes()],
    )
}

pub(super) fn child(parent: &Parent, created: Timestamp, run: &RunId) -> Vec<u8> {
    let mut key = children(&parent.run, parent.incarnation);
    key.extend_from_slice(&created.0.to_be_bytes());
    key.extend_from_slice(run.as_str().as_bytes());
    key
}

/// What all keys of a run in a space begin with.
pub(super) fn of_run(space: Space, run: &RunId) -> Vec<u8> {
    join(space, &[run.as_str().as_bytes(), &[0]])
}

/// A journal entry, without its chunk.
pub(super) fn entry(run: &RunId, position: Position) -> Vec<u8> {
    numbered(Space::Journal, run, position.0)
}

/// A message, without its chunk.
pub(super) fn message(run: &RunId, id: MessageId) -> Vec<u8> {
    numbered(Space::Inbox, run, id.0)
}

fn numbered(space: Space, run: &RunId, number: u64) -> Vec<u8> {
    join(
        space,
        &[run.as_str().as_bytes(), &[0], &number.to_be_bytes()],
    )
}

/// A value, without its chunk.
pub(super) fn value(run: &RunId, key: &ValueKey) -> Vec<u8> {
    let mut bytes = of_run(Space::Value, run);
    match key {
        ValueKey::Output => bytes.push(1),
        ValueKey::Error => bytes.push(2),
        ValueKey::Metadata => bytes.push(3),
        ValueKey::Step(name) => {
            bytes.push(4);
            push_name(&mut bytes, name);
        }
        ValueKey::State => bytes.push(5),
        ValueKey::Agenda => bytes.push(6),
        ValueKey::Result(call) => {
            bytes.push(7);
            push_name(&mut bytes, call);
        }
        ValueKey::Declined => bytes.push(8),
        ValueKey::AgendaPage(page) => {
            bytes.push(9);
            bytes.extend_from_slice(&page.to_be_bytes());
        }
        ValueKey::Interrupted => bytes.push(10),
    }
    bytes
}

pub(super) fn seen(run: &RunId, key: &str) -> Vec<u8> {
    let mut bytes = of_run(Space::Seen, run);
    push_name(&mut bytes, key);
    bytes
}

pub(super) fn blob_run(blob: &BlobId, run: &RunId) -> Vec<u8> {
    join(Space::BlobRuns, &[&blob.0, run.as_str().as_bytes()])
}

pub(super) fn runs_of_blob(blob: &BlobId) -> Vec<u8> {
    join(Space::BlobRuns, &[&blob.0])
}

pub(super) fn run_blob(run: &RunId, blob: &BlobId) -> Vec<u8> {
    join(Space::RunBlobs, &[run.as_str().as_bytes(), &[0], &blob.0])
}

/// A chunk of what `prefix` names.
pub(super) fn chunk(prefix: &[u8], number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 4);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The first key after all that begin with `prefix`.
pub(super) fn end_of(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// A time and a run, from what follows the prefix of an index.
pub(super) fn parse_indexed(rest: &[u8]) -> Option<(Timestamp, RunId)> {
    let (time, run) = rest.split_first_chunk::<8>()?;
    let run = RunId::stored(std::str::from_utf8(run).ok()?).ok()?;
    Some((Timestamp(u64::from_be_bytes(*time)), run))
}

/// The run, from the key of a record, or from one that begins with the run.
pub(super) fn parse_run(key: &[u8]) -> Option<RunId> {
    let rest = key.get(1..)?;
    let run = rest.split(|byte| *byte == 0).next()?;
    RunId::stored(std::str::from_utf8(run).ok()?).ok()
}

/// A number and a chunk, from what follows the prefix of a run.
pub(super) fn parse_numbered(rest: &[u8]) -> Option<(u64, u32)> {
    let (number, chunk) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), parse_chunk(chunk)?))
}

/// A chunk's number, from what follows the prefix of what it is a chunk of.
pub(super) fn parse_chunk(rest: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(rest.try_into().ok()?))
}

/// The length comes first, so that no name's key begins with another's.
fn push_name(key: &mut Vec<u8>, name: &str) {
    match u8::try_from(name.len()) {
        Ok(len) if name.len() <= LONGEST_NAME => {
            key.push(len);
            key.extend_from_slice(name.as_bytes());
        }
        _ => {
            key.push(HASHED);
            key.extend_from_slice(blake3::hash(name.as_bytes()).as_bytes());
        }
    }
}

fn join(space: Space, parts: &[&[u8]]) -> Vec<u8> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    // Room for a position and a chunk, which often follow.
    let mut key = Vec::with_capacity(len + 13);
    key.push(space as u8);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> RunId {
        RunId::new(id).unwrap()
    }

    #[test]
    fn entries_sort_by_run_then_position_then_chunk() {
        let keys = [
            chunk(&entry(&run("a"), Position(1)), 0),
            chunk(&entry(&run("a"), Position(1)), 1),
            chunk(&entry(&run("a"), Position(2)), 0),
            chunk(&entry(&run("a"), Position(256)), 0),
            chunk(&entry(&run("a b"), Position(0)), 0),
            chunk(&entry(&run("ab"), Position(0)), 0),
        ];
        assert!(keys.is_sorted());
    }

    #[test]
    fn no_run_begins_with_the_keys_of_another() {
        let a = of_run(Space::Value, &run("a"));
        assert!(!value(&run("ab"), &ValueKey::Output).starts_with(&a));
        assert!(value(&run("a"), &ValueKey::Output).starts_with(&a));
    }

    #[test]
    fn no_name_begins_with_the_key_of_another() {
        let long = "x".repeat(300);
        let names = ["", "a", "ab", "a\0", &long[..254], &long[..255], &long];
        for (i, a) in names.iter().enumerate() {
            for (j, b) in names.iter().enumerate() {
                let a = value(&run("r"), &ValueKey::Step((*a).to_owned()));
                let b = value(&run("r"), &ValueKey::Step((*b).to_owned()));
                assert_eq!(a.starts_with(&b), i == j);
            }
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_of_its_keys_and_no_other() {
        assert_eq!(end_of(&[1, 2]), Bound::Excluded(vec![1, 3]));
        assert_eq!(end_of(&[1, 255, 255]), Bound::Excluded(vec![2]));
        assert_eq!(end_of(&[255]), Bound::Unbounded);
    }

    #[test]
    fn children_stand_behind_their_parent_and_its_incarnation() {
        let parent = |id: &str, incarnation| Parent {
            run: run(id),
            incarnation,
            step: 3,
        };
        let key = child(&parent("a", 5), Timestamp(77), &run("order/1"));
        let prefix = children(&run("a"), 5);
        assert_eq!(
            parse_indexed(key.strip_prefix(&prefix[..]).unwrap()),
            Some((Timestamp(77), run("order/1")))
        );
        for (id, incarnation) in [("a", 6), ("a b", 5), ("ab", 5)] {
            let other = child(&parent(id, incarnation), Timestamp(77), &run("order/1"));
            assert!(!other.starts_with(&prefix), "{id} {incarnation}");
        }
    }

    #[test]
    fn index_keys_say_time_and_run() {
        let key = status(
            RunKind::Workflow,
            StoredStatus::Running,
            Timestamp(77),
            &run("order/1"),
        );
        assert_eq!(
            parse_indexed(&key[3..]),
            Some((Timestamp(77), run("order/1")))
        );
        assert_eq!(parse_indexed(&key[3..10]), None);
        assert_eq!(parse_indexed(&key[3..11]), None);
    }
}
