//! The commit that a run with nothing beside it makes after each step: one entry, and its record. It is a plain statement, which
//! takes the server a third of the time that `keepstep.commit` takes.
//!
//! It needs no writer to be done once: it is taken only while the journal ends where the entry begins. An attempt whose answer was
//! lost, and which arrives after the next, finds the journal longer, as the next one does if the first was done.

use super::commit::MAX_BATCH_BYTES;
use super::names;
use super::numbers::{bits, node, stored, time};
use crate::{Batch, Expect, Result, RunRecord, RunWrite, StoredStatus};

/// The write of a batch that is nothing but an entry and the record of a run that goes on.
pub(super) fn single(batch: &Batch) -> Option<Append<'_>> {
    let ([write], [], []) = (&batch.writes[..], &batch.deletes[..], &batch.messages[..]) else {
        return None;
    };
    let record = &write.record;
    let is_alone = write.only_with.is_none()
        && !write.truncate
        && write.values.is_empty()
        && write.consumed.is_empty()
        && write.blobs.is_empty();
    // Whoever waits for a run to stop, or for one that nobody owns, is told by the function.
    let goes_on = matches!(record.status, StoredStatus::Pending | StoredStatus::Running)
        && record.owner.is_some();
    match (write.expect, &write.entry) {
        (Expect::Epoch(epoch), Some(entry))
            if is_alone
                && goes_on
                && record.first_entry < record.next_entry
                // A longer one is refused as any batch is.
                && entry.len() <= MAX_BATCH_BYTES =>
        {
            Some(Append {
                write,
                expected: stored(epoch.0),
                entry,
            })
        }
        _ => None,
    }
}

/// An entry of one run, with what its record is from then on.
pub(super) struct Append<'a> {
    write: &'a RunWrite,
    expected: i64,
    entry: &'a [u8],
}

impl Append<'_> {
    /// Whether a record is what this made of it.
    fn has_made(&self, found: &RunRecord) -> bool {
        let record = &self.write.record;
        (found.epoch, found.incarnation, found.next_entry)
            == (record.epoch, record.incarnation, record.next_entry)
    }
}

impl super::Postgres {
    /// Whether it was written. If not, nothing was, and the function says why.
    pub(super) async fn append(&self, append: &Append<'_>) -> Result<bool> {
        let Append {
            write,
            expected,
            entry,
        } = append;
        let record = &write.record;
        let parent = record.parent.as_ref();
        let build = &record.build;
        let executable = build.executable.as_ref().map(|blob| &blob.0[..]);
        let (rows, attempts) = self
            .sessions
            .query_unsure(
                "commit",
                &self.sql.append,
                &[
                    &write.run.as_str(),
                    expected,
                    &bits(record.incarnation),
                    &stored(record.next_entry.0),
                    entry,
                    &(record.kind as i16),
                    &(record.status as i16),
                    &record.owner.map(node),
                    &stored(record.epoch.0),
                    &names::text(&record.workflow),
                    &&record.plan_hash[..],
                    &stored(record.created_at.0),
                    &time(record.started_at),
                    &time(record.ended_at),
                    &time(record.wake_at),
                    &stored(record.first_entry.0),
                    &stored(record.journal_bytes),
                    &stored(record.steps.total),
                    &stored(record.steps.done),
                    &stored(record.steps.failed),
                    &parent.map(|parent| parent.run.as_str()),
                    &parent.map(|parent| bits(parent.incarnation)),
                    &parent.map(|parent| stored(parent.step)),
                    &names::text(&build.label),
                    &bits(build.steps),
                    &executable,
                ],
            )
            .await?;
        if !rows.is_empty() {
            return Ok(true);
        }
        if !attempts.is_unsure {
            return Ok(false);
        }
        let found = self.read_record(&write.run).await?;
        Ok(found.is_some_and(|found| append.has_made(&found)))
    }
}
