//! Commits: every write is checked, then all that hold become one batch of the map.

use std::collections::{HashMap, HashSet};

use tracing::warn;

use crate::blobs::Removal;
use crate::{
    Batch, BlobId, Committed, Expect, MessageId, Op, Position, Result, RunId, RunRecord, RunWrite,
    Send, SendOutcome, WriteOutcome,
};

use super::core::Core;
use super::head::Head;
use super::keys::Space;
use super::{frame, keys};

/// How many old entries are removed in one batch. A store may keep a copy of a page in memory for each of them until the batch is
/// done.
const MAX_REMOVALS: usize = 512;

impl Core {
    /// Commits a batch. Blobs that nothing names from then on are still to be [removed](Self::remove_blobs).
    pub(super) fn commit(&self, batch: Batch) -> Result<(Committed, Vec<Removal>)> {
        let writer = self.writer()?;
        let mut commit = Commit::new(self, &batch);
        let mut committed = Committed {
            writes: Vec::with_capacity(batch.writes.len()),
            deletes: Vec::new(),
            messages: Vec::with_capacity(batch.messages.len()),
        };
        for write in batch.writes {
            committed.writes.push(commit.write(write)?);
        }
        committed.deletes = commit.delete_all(batch.deletes)?;
        for message in batch.messages {
            committed.messages.push(commit.send(message)?);
        }
        let Finished {
            ops,
            heads,
            removals,
            unnamed,
        } = commit.finish()?;
        self.apply(&writer, ops, heads)?;
        self.remove_old(removals);
        let unnamed = self.begin_removals(&writer, &unnamed);
        drop(writer);
        if committed
            .messages
            .iter()
            .any(|outcome| matches!(outcome, SendOutcome::Accepted(_)))
        {
            // Whoever waits now, and else whoever asks next.
            self.arrived.notify_waiters();
            self.arrived.notify_one();
        }
        Ok((committed, unnamed))
    }

    /// Removes entries that no run has any more. What a crash or a failure leaves of them is removed with the next ones of
    /// its run, or with the run.
    fn remove_old(&self, removals: Vec<Op>) {
        let mut removals = removals.into_iter();
        loop {
            let portion: Vec<Op> = removals.by_ref().take(MAX_REMOVALS).collect();
            if portion.is_empty() {
                return;
            }
            if let Err(error) = self.map.apply(portion) {
                // What was committed is durable.
                warn!(location = %self.location, %error, "old journal entries stay for now");
                return;
            }
        }
    }
}

/// What a batch comes to.
struct Finished {
    ops: Vec<Op>,
    heads: HashMap<RunId, Option<Head>>,
    /// To be done after it, and not necessarily with it.
    removals: Vec<Op>,
    unnamed: Vec<BlobId>,
}

/// A batch in the making. What it already changed is in `heads`, not yet in the map.
pub(super) struct Commit<'a> {
    pub(super) core: &'a Core,
    max_value: usize,
    pub(super) ops: Vec<Op>,
    /// `None` is a run that this batch deletes.
    pub(super) heads: HashMap<RunId, Option<Head>>,
    removals: Vec<Op>,
    /// Blobs of the runs that this batch deletes.
    pub(super) unnamed: Vec<BlobId>,
    /// Keys of messages that are in this batch.
    seen: HashSet<Vec<u8>>,
    /// Runs that other writes and messages are to be taken with, and whose write was not taken so far.
    untaken: HashSet<RunId>,
}

impl<'a> Commit<'a> {
    fn new(core: &'a Core, batch: &Batch) -> Self {
        let writes = batch.writes.len();
        let with = batch
            .writes
            .iter()
            .filter_map(|write| write.only_with.clone());
        let messages = batch.messages.iter();
        let untaken = with
            .chain(messages.filter_map(|message| message.only_with.clone()))
            .collect();
        Self {
            core,
            max_value: core.map.max_value_bytes(),
            ops: Vec::with_capacity(writes * 3),
            heads: HashMap::with_capacity(writes + batch.deletes.len()),
            removals: Vec::new(),
            unnamed: Vec::new(),
            seen: HashSet::new(),
            untaken,
        }
    }

    pub(super) fn head(&self, run: &RunId) -> Result<Option<Head>> {
        match self.heads.get(run) {
            Some(head) => Ok(head.clone()),
            None => self.core.head(run),
        }
    }

    fn write(&mut self, write: RunWrite) -> Result<WriteOutcome> {
        debug_assert!(
            !self.heads.contains_key(&write.run),
            "a batch has at most one write a run"
        );
        if self.is_skipped(write.only_with.as_ref()) {
            return Ok(WriteOutcome::Skipped);
        }
        let old = self.head(&write.run)?;
        match (write.expect, &old) {
            (Expect::New, Some(_)) => return Ok(WriteOutcome::Exists),
            (Expect::Epoch(_), None) => return Ok(WriteOutcome::NotFound),
            (Expect::Epoch(epoch), Some(head)) if head.record.epoch != epoch => {
                return Ok(WriteOutcome::Fenced {
                    current: head.record.epoch,
                });
            }
            _ => {}
        }
        if let Some(blob) = self.core.missing_blob(&write.blobs)? {
            return Ok(WriteOutcome::BlobMissing { blob });
        }
        let (run, record) = (&write.run, write.record);
        self.journal(
            run,
            old.as_ref(),
            &record,
            write.entry.as_deref(),
            write.truncate,
        )?;
        for (key, value) in &write.values {
            let prefix = keys::value(run, key);
            self.value(run, &prefix, value.as_deref(), old.is_some())?;
        }
        for id in write.consumed {
            let prefix = keys::message(run, id);
            self.core.remove_prefix(&mut self.ops, &prefix)?;
        }
        self.name(run, &write.blobs);
        let next_message = old.as_ref().map_or(0, |head| head.next_message);
        let orphaned = old.as_ref().and_then(|head| head.orphaned);
        index(
            &mut self.ops,
            run,
            old.as_ref().map(|head| &head.record),
            Some(&record),
        );
        let head = Head {
            record,
            next_message,
            orphaned,
        };
        self.untaken.remove(run);
        self.heads.insert(write.run, Some(head));
        Ok(WriteOutcome::Written)
    }

    /// Makes a run name blobs.
    fn name(&mut self, run: &RunId, blobs: &[BlobId]) {
        for blob in blobs {
            for key in [keys::blob_run(blob, run), keys::run_blob(run, blob)] {
                self.ops.push(Op::Put(key, bytes::Bytes::new()));
            }
        }
    }

    fn is_skipped(&self, only_with: Option<&RunId>) -> bool {
        only_with.is_some_and(|run| self.untaken.contains(run))
    }

    /// Appends an entry, and removes those that are no longer kept.
    fn journal(
        &mut self,
        run: &RunId,
        old: Option<&Head>,
        new: &RunRecord,
        entry: Option<&[u8]>,
        truncate: bool,
    ) -> Result<()> {
        if truncate
            && let Some(old) = old
            && old.record.first_entry < new.first_entry
        {
            // From the very first on: there may be some left from the last time.
            let from = keys::of_run(Space::Journal, run);
            let to = std::ops::Bound::Excluded(keys::entry(run, new.first_entry));
            let mut removals = Vec::new();
            self.core.remove_range(&mut removals, &from, &to)?;
            if removals.len() <= MAX_REMOVALS {
                self.ops.extend(removals);
            } else {
                self.removals.extend(removals);
            }
        }
        let Some(entry) = entry else { return Ok(()) };
        let Some(position) = new.next_entry.0.checked_sub(1).map(Position) else {
            let why = format!("run {run} appends a journal entry and counts none");
            return Err(self.core.refused(why));
        };
        if position >= new.first_entry {
            self.put(run, &keys::entry(run, position), entry)?;
        }
        Ok(())
    }

    fn value(
        &mut self,
        run: &RunId,
        prefix: &[u8],
        value: Option<&[u8]>,
        may_exist: bool,
    ) -> Result<()> {
        let chunks = match value {
            Some(value) => self.put(run, prefix, value)?,
            None => 0,
        };
        if may_exist {
            // A value that was longer before leaves no chunks behind.
            let from = keys::chunk(prefix, chunks);
            let to = keys::end_of(prefix);
            self.core.remove_range(&mut self.ops, &from, &to)?;
        }
        Ok(())
    }

    fn put(&mut self, run: &RunId, prefix: &[u8], bytes: &[u8]) -> Result<u32> {
        frame::put(&mut self.ops, prefix, bytes, self.max_value).ok_or_else(|| {
            let why = format!("run {run} writes {} bytes in one piece", bytes.len());
            self.core.refused(why)
        })
    }

    fn send(&mut self, message: Send) -> Result<SendOutcome> {
        if self.is_skipped(message.only_with.as_ref()) {
            return Ok(SendOutcome::Skipped);
        }
        let Some(mut head) = self.head(&message.to)? else {
            return Ok(SendOutcome::NotFound);
        };
        let seen = message.key.map(|key| keys::seen(&message.to, &key));
        // Before the status: who sends again what had arrived need not care that the run has ended since.
        if let Some(seen) = &seen
            && (self.seen.contains(seen) || self.core.map.get(seen)?.is_some())
        {
            return Ok(SendOutcome::Duplicate);
        }
        if head.record.status.is_final() {
            return Ok(SendOutcome::Ended);
        }
        if let Some(blob) = self.core.missing_blob(&message.blobs)? {
            return Ok(SendOutcome::BlobMissing { blob });
        }
        self.name(&message.to, &message.blobs);
        let id = MessageId(head.next_message);
        let prefix = keys::message(&message.to, id);
        let stored = [&message.sent_at.0.to_le_bytes()[..], &message.body].concat();
        self.put(&message.to, &prefix, &stored)?;
        if let Some(seen) = seen {
            let value = frame::seal(&seen, &[&id.0.to_le_bytes()]);
            self.ops.push(Op::Put(seen.clone(), value));
            self.seen.insert(seen);
        }
        head.next_message = id.0 + 1;
        self.heads.insert(message.to, Some(head));
        Ok(SendOutcome::Accepted(id))
    }

    /// The whole batch. Heads come last, each once, however often it changed.
    fn finish(mut self) -> Result<Finished> {
        for (run, head) in &self.heads {
            if let Some(head) = head {
                self.core.put_head(&mut self.ops, run, head)?;
            }
        }
        Ok(Finished {
            ops: self.ops,
            heads: self.heads,
            removals: self.removals,
            unnamed: self.unnamed,
        })
    }
}

impl Core {
    pub(super) fn put_head(&self, ops: &mut Vec<Op>, run: &RunId, head: &Head) -> Result<()> {
        let key = keys::record(run);
        let value = head
            .encode(&key)
            .map_err(|error| self.refused(format!("the record of run {run}: {error}")))?;
        if value.len() > self.map.max_value_bytes() {
            let why = format!(
                "the record of run {run} has {} bytes; its workflow's name is too long",
                value.len()
            );
            return Err(self.refused(why));
        }
        ops.push(Op::Put(key, value));
        Ok(())
    }
}

/// Changes a run's index keys from what `old` has to what `new` has.
pub(super) fn index(
    ops: &mut Vec<Op>,
    run: &RunId,
    old: Option<&RunRecord>,
    new: Option<&RunRecord>,
) {
    let created = |record: &RunRecord| keys::created(record.kind, record.created_at, run);
    let status =
        |record: &RunRecord| keys::status(record.kind, record.status, record.created_at, run);
    let wake = |record: &RunRecord| {
        let at = record.wake_at.filter(|_| record.status.is_active())?;
        Some(keys::wake(record.kind, at, run))
    };
    let child = |record: &RunRecord| {
        let parent = record.parent.as_ref()?;
        Some(keys::child(parent, record.created_at, run))
    };
    for (old, new) in [
        (old.map(created), new.map(created)),
        (old.map(status), new.map(status)),
        (old.and_then(wake), new.and_then(wake)),
        (old.and_then(child), new.and_then(child)),
    ] {
        if old == new {
            continue;
        }
        ops.extend(old.map(Op::Remove));
        ops.extend(new.map(|key| Op::Put(key, bytes::Bytes::new())));
    }
}
