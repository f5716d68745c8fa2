//! Commits: a batch is one call of one function, and so one round trip and one transaction, however many runs it holds.
//!
//! Each commit has a number of the writer that makes it. If its answer is lost it is asked for again under the same number, and
//! is done once: see `keepstep.commit` in `schema.sql`.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio_postgres::Row;

use super::numbers::{bits, node, read, stored, time};
use super::session::Param;
use super::{append, blobs, names};
use crate::{
    Batch, BlobId, Committed, DeleteOutcome, Epoch, Expect, MessageId, Result, RunId, SendOutcome,
    ValueKey, WriteOutcome,
};

/// A message to the server has at most 1 GiB.
pub(super) const MAX_BATCH_BYTES: usize = 900 << 20;

/// Who makes one commit at a time.
#[derive(Debug)]
pub(super) struct Writer {
    id: i64,
    number: i64,
}

/// The writers that are not in a commit.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<Vec<Writer>>);

impl Writers {
    /// A writer with its next number. One that is not given back is never used again.
    pub(super) fn take(&self, new_id: impl FnOnce() -> i64) -> Writer {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = free.pop().unwrap_or_else(|| Writer {
            id: new_id(),
            number: 0,
        });
        writer.number += 1;
        writer
    }

    pub(super) fn give_back(&self, writer: Writer) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(writer);
    }
}

impl Writer {
    pub(super) fn params(&self) -> (&i64, &i64) {
        (&self.id, &self.number)
    }
}

/// A batch as columns, each of them one parameter.
#[derive(Default)]
struct Columns<'a> {
    locked: Vec<&'a str>,
    id: Vec<&'a str>,
    is_new: Vec<bool>,
    expected: Vec<i64>,
    follows: Vec<i64>,
    with: Vec<i32>,
    kind: Vec<i16>,
    status: Vec<i16>,
    owner: Vec<Option<i64>>,
    epoch: Vec<i64>,
    incarnation: Vec<i64>,
    workflow: Vec<String>,
    plan_hash: Vec<&'a [u8]>,
    created_at: Vec<i64>,
    started_at: Vec<Option<i64>>,
    ended_at: Vec<Option<i64>>,
    wake_at: Vec<Option<i64>>,
    first_entry: Vec<i64>,
    next_entry: Vec<i64>,
    journal_bytes: Vec<i64>,
    steps_total: Vec<i64>,
    steps_done: Vec<i64>,
    steps_failed: Vec<i64>,
    parent_run: Vec<Option<&'a str>>,
    parent_incarnation: Vec<Option<i64>>,
    parent_step: Vec<Option<i64>>,
    build_label: Vec<String>,
    build_steps: Vec<i64>,
    build_executable: Vec<Option<&'a [u8]>>,
    entry_of: Vec<i32>,
    entry: Vec<&'a [u8]>,
    truncated_of: Vec<i32>,
    value_of: Vec<i32>,
    value_kind: Vec<i16>,
    value_name: Vec<Vec<u8>>,
    value: Vec<Option<&'a [u8]>>,
    consumed_of: Vec<i32>,
    consumed: Vec<i64>,
    blob_of: Vec<i32>,
    blob: Vec<&'a [u8]>,
    to: Vec<&'a str>,
    key: Vec<Option<Vec<u8>>>,
    body: Vec<&'a [u8]>,
    sent_at: Vec<i64>,
    message_with: Vec<i32>,
    sent_blob_of: Vec<i32>,
    sent_blob: Vec<&'a [u8]>,
    deleted: Vec<&'a str>,
    deleted_at: Vec<i64>,
    deleted_by: Vec<i64>,
    deleted_with: Vec<Option<&'a str>>,
}

/// What stands for a write that is not there, or not before.
const NEVER: i32 = -1;

impl<'a> Columns<'a> {
    fn new(batch: &'a Batch) -> Self {
        let mut columns = Self::default();
        let mut places: HashMap<&RunId, i32> = HashMap::with_capacity(batch.writes.len());
        let of = |places: &HashMap<&RunId, i32>, run: Option<&RunId>| {
            run.map_or(0, |run| places.get(run).copied().unwrap_or(NEVER))
        };
        for (write, place) in batch.writes.iter().zip(1..) {
            let record = &write.record;
            columns.id.push(write.run.as_str());
            let (is_new, expected) = match write.expect {
                Expect::New => (true, 0),
                Expect::Epoch(epoch) => (false, stored(epoch.0)),
            };
            columns.is_new.push(is_new);
            columns.expected.push(expected);
            let entries = u64::from(write.entry.is_some());
            let follows = record.next_entry.0.saturating_sub(entries);
            columns.follows.push(stored(follows));
            columns.with.push(of(&places, write.only_with.as_ref()));
            columns.kind.push(record.kind as i16);
            columns.status.push(record.status as i16);
            columns.owner.push(record.owner.map(node));
            columns.epoch.push(stored(record.epoch.0));
            columns.incarnation.push(bits(record.incarnation));
            columns.workflow.push(names::text(&record.workflow));
            columns.plan_hash.push(&record.plan_hash);
            columns.created_at.push(stored(record.created_at.0));
            columns.started_at.push(time(record.started_at));
            columns.ended_at.push(time(record.ended_at));
            columns.wake_at.push(time(record.wake_at));
            columns.first_entry.push(stored(record.first_entry.0));
            columns.next_entry.push(stored(record.next_entry.0));
            columns.journal_bytes.push(stored(record.journal_bytes));
            columns.steps_total.push(stored(record.steps.total));
            columns.steps_done.push(stored(record.steps.done));
            columns.steps_failed.push(stored(record.steps.failed));
            let parent = record.parent.as_ref();
            columns
                .parent_run
                .push(parent.map(|parent| parent.run.as_str()));
            columns
                .parent_incarnation
                .push(parent.map(|parent| bits(parent.incarnation)));
            columns
                .parent_step
                .push(parent.map(|parent| stored(parent.step)));
            let build = &record.build;
            columns.build_label.push(names::text(&build.label));
            columns.build_steps.push(bits(build.steps));
            let executable = build.executable.as_ref();
            columns
                .build_executable
                .push(executable.map(|blob| &blob.0[..]));
            if let Some(entry) = &write.entry {
                columns.entry_of.push(place);
                columns.entry.push(entry);
            }
            if write.truncate {
                columns.truncated_of.push(place);
            }
            columns.values(place, &write.values);
            for message in &write.consumed {
                columns.consumed_of.push(place);
                columns.consumed.push(stored(message.0));
            }
            for blob in &write.blobs {
                columns.blob_of.push(place);
                columns.blob.push(&blob.0);
            }
            places.insert(&write.run, place);
        }
        for (message, place) in batch.messages.iter().zip(1..) {
            columns.to.push(message.to.as_str());
            columns.key.push(message.key.as_deref().map(names::key));
            columns.body.push(&message.body);
            columns.sent_at.push(stored(message.sent_at.0));
            columns
                .message_with
                .push(of(&places, message.only_with.as_ref()));
            for blob in &message.blobs {
                columns.sent_blob_of.push(place);
                columns.sent_blob.push(&blob.0);
            }
        }
        for delete in &batch.deletes {
            columns.deleted.push(delete.run.as_str());
            columns.deleted_at.push(stored(delete.epoch.0));
            columns.deleted_by.push(node(delete.node));
            let family = delete.family.as_ref();
            columns.deleted_with.push(family.map(RunId::as_str));
        }
        let runs = columns.id.iter().chain(&columns.deleted);
        columns.locked = runs.chain(&columns.to).copied().collect();
        columns.locked.sort_unstable();
        columns.locked.dedup();
        columns
    }

    /// The last that a write says of a key counts.
    fn values(&mut self, place: i32, values: &'a [(ValueKey, Option<Bytes>)]) {
        for (key, value) in last_of_each(values) {
            let (kind, name) = names::value(key);
            self.value_of.push(place);
            self.value_kind.push(kind);
            self.value_name.push(name);
            self.value.push(value.as_deref());
        }
    }

    fn bytes(&self) -> usize {
        let slices = self.entry.iter().chain(&self.body).map(|bytes| bytes.len());
        let values = self.value.iter().flatten().map(|bytes| bytes.len());
        slices.chain(values).sum()
    }
}

impl super::Postgres {
    pub(super) async fn commit_batch(&self, batch: &Batch) -> Result<Committed> {
        if batch.is_empty() {
            self.sessions.check_open()?;
            return Ok(Committed::default());
        }
        if let Some(append) = append::single(batch)
            && self.append(&append).await?
        {
            return Ok(Committed {
                writes: vec![WriteOutcome::Written],
                ..Committed::default()
            });
        }
        let columns = Columns::new(batch);
        let bytes = columns.bytes();
        if bytes > MAX_BATCH_BYTES {
            let why =
                format!("a batch has {bytes} bytes; PostgreSQL takes {MAX_BATCH_BYTES} at once");
            return Err(self.sessions.refused(why));
        }
        let nodes = self.nodes();
        let writer = self.writers.take(random_id);
        let (id, number) = writer.params();
        let c = &columns;
        let params: &[Param<'_>] = &[
            id,
            number,
            &nodes,
            &c.locked,
            &c.id,
            &c.is_new,
            &c.expected,
            &c.follows,
            &c.with,
            &c.kind,
            &c.status,
            &c.owner,
            &c.epoch,
            &c.incarnation,
            &c.workflow,
            &c.plan_hash,
            &c.created_at,
            &c.started_at,
            &c.ended_at,
            &c.wake_at,
            &c.first_entry,
            &c.next_entry,
            &c.journal_bytes,
            &c.steps_total,
            &c.steps_done,
            &c.steps_failed,
            &c.parent_run,
            &c.parent_incarnation,
            &c.parent_step,
            &c.build_label,
            &c.build_steps,
            &c.build_executable,
            &c.entry_of,
            &c.entry,
            &c.truncated_of,
            &c.value_of,
            &c.value_kind,
            &c.value_name,
            &c.value,
            &c.consumed_of,
            &c.consumed,
            &c.blob_of,
            &c.blob,
            &c.to,
            &c.key,
            &c.body,
            &c.sent_at,
            &c.message_with,
            &c.sent_blob_of,
            &c.sent_blob,
            &c.deleted,
            &c.deleted_at,
            &c.deleted_by,
            &c.deleted_with,
        ];
        let rows = self
            .sessions
            .query("commit", &self.sql.commit, params)
            .await;
        // A late attempt of this number is refused once the writer has gone on to the next.
        self.writers.give_back(writer);
        let row = rows?.pop();
        let row = row.ok_or_else(|| {
            self.sessions
                .refused("the server gave no answer".to_owned())
        })?;
        let committed = outcomes(&row, batch).map_err(|error| {
            self.sessions
                .error("read what became of a commit", error.into())
        })?;
        let accepted = |outcome: &SendOutcome| matches!(outcome, SendOutcome::Accepted(_));
        if committed.messages.iter().any(accepted) {
            self.arrived.notify_waiters();
            self.arrived.notify_one();
        }
        if committed.deletes.contains(&DeleteOutcome::Deleted) {
            self.collect_soon();
        }
        Ok(committed)
    }

    /// Has what is left of large runs that were deleted removed beside what others do. If that fails, [`maintain`] does it.
    ///
    /// [`maintain`]: crate::Storage::maintain
    fn collect_soon(&self) {
        if self.collects.swap(true, Ordering::AcqRel) {
            // Whoever does it looks for more until there is none.
            return;
        }
        let (sessions, collects) = (Arc::clone(&self.sessions), Arc::clone(&self.collects));
        let sql = self.sql.collect.clone();
        tokio::spawn(async move {
            let collected = blobs::collect(&sessions, &sql).await;
            collects.store(false, Ordering::Release);
            if let Err(error) = collected {
                tracing::debug!(%error, "could not remove what deleted runs had");
            }
        });
    }
}

/// What is said last of each key.
fn last_of_each<K: Hash + Eq, V>(said: &[(K, V)]) -> Vec<&(K, V)> {
    if let [one] = said {
        return vec![one];
    }
    let mut keys = HashSet::with_capacity(said.len());
    let last = said.iter().rev().filter(|(key, _)| keys.insert(key));
    last.collect()
}

/// What became of a batch. No outcomes at all are those of writes that were all taken.
fn outcomes(row: &Row, batch: &Batch) -> Result<Committed, tokio_postgres::Error> {
    let written: Vec<i16> = row.try_get(0)?;
    let epochs: Vec<Option<i64>> = row.try_get(1)?;
    let absent: Vec<Option<&[u8]>> = row.try_get(2)?;
    let sent: Vec<i16> = row.try_get(3)?;
    let numbers: Vec<i64> = row.try_get(4)?;
    let unsent: Vec<Option<&[u8]>> = row.try_get(5)?;
    let deleted: Vec<i16> = row.try_get(6)?;
    let missing = |blobs: &[Option<&[u8]>], n: usize| {
        let blob = blobs.get(n).copied().flatten();
        BlobId(
            blob.and_then(|blob| blob.try_into().ok())
                .unwrap_or_default(),
        )
    };
    let write = |n: usize| match written.get(n) {
        None | Some(0) => WriteOutcome::Written,
        Some(1) => WriteOutcome::Fenced {
            current: Epoch(read(epochs.get(n).copied().flatten().unwrap_or(0))),
        },
        Some(2) => WriteOutcome::Exists,
        Some(3) => WriteOutcome::NotFound,
        Some(5) => WriteOutcome::BlobMissing {
            blob: missing(&absent, n),
        },
        Some(_) => WriteOutcome::Skipped,
    };
    let message = |(n, (outcome, number)): (usize, (&i16, &i64))| match outcome {
        0 => SendOutcome::Accepted(MessageId(read(*number))),
        1 => SendOutcome::Duplicate,
        2 => SendOutcome::Ended,
        3 => SendOutcome::NotFound,
        5 => SendOutcome::BlobMissing {
            blob: missing(&unsent, n),
        },
        _ => SendOutcome::Skipped,
    };
    let delete = |outcome: &i16| match outcome {
        0 => DeleteOutcome::Deleted,
        1 => DeleteOutcome::Fenced,
        4 => DeleteOutcome::Skipped,
        6 => DeleteOutcome::Owned,
        _ => DeleteOutcome::NotFound,
    };
    Ok(Committed {
        writes: (0..batch.writes.len()).map(write).collect(),
        deletes: deleted.iter().map(delete).collect(),
        messages: sent.iter().zip(&numbers).enumerate().map(message).collect(),
    })
}

/// An id that no other writer has.
pub(super) fn random_id() -> i64 {
    use std::hash::{BuildHasher, Hasher};

    // Each has keys of its own, which come from the system.
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    let now = std::time::SystemTime::now();
    let nanos = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let mut mixed = blake3::Hasher::new();
    mixed.update(&hasher.finish().to_le_bytes());
    mixed.update(&nanos.to_le_bytes());
    mixed.update(&std::process::id().to_le_bytes());
    let mut id = [0; 8];
    id.copy_from_slice(&mixed.finalize().as_bytes()[..8]);
    i64::from_le_bytes(id)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::Hasher;

    use super::*;

    thread_local! {
        static N_COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts how often it is compared.
    #[derive(Debug)]
    struct Counted(usize);

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            N_COMPARED.set(N_COMPARED.get() + 1);
            self.0 == other.0
        }
    }

    impl Eq for Counted {}

    impl Hash for Counted {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    #[test]
    fn the_last_that_is_said_of_a_key_counts() {
        let said = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("a", 5)];
        let mut last = last_of_each(&said);
        last.sort();
        assert_eq!(last, [&("a", 5), &("b", 2), &("c", 4)]);
        assert_eq!(last_of_each(&said[..1]), [&("a", 1)]);
        assert!(last_of_each(&said[..0]).is_empty());
    }

    #[test]
    fn many_values_of_one_write_are_not_compared_with_each_other() {
        for n in [1_000, 4_000, 16_000] {
            let said: Vec<_> = (0..n).map(|n| (Counted(n), ())).collect();
            N_COMPARED.set(0);
            assert_eq!(last_of_each(&said).len(), n);
            let compared = N_COMPARED.get();
            assert!(compared < 4 * n, "{compared} for {n}");
        }
    }
}
