//! What happened to a run since its last commit is folded and committed in one entry, with what is kept beside the journal and
//! what other runs are told.

use keepstep_storage::{BlobId, Expect, MessageId, RunWrite, StoredStatus, ValueKey};

use super::order::Next;
use super::{CommitRequest, Happened, Reply, RunTask};
use crate::journal::{EntryWriter, MAX_PLAN_BYTES};
use crate::run::{Event, Impossible, Settled};
use crate::value::{Codec, Value};

/// A journal with fewer bytes than this is not compacted, where nothing says otherwise.
pub(crate) const COMPACT_ABOVE: u64 = 1 << 20;
/// A journal is compacted when it has so many times the bytes that a snapshot would: each byte is then rewritten a bounded
/// number of times, however long the run is.
const COMPACTION_FACTOR: u64 = 4;
/// What happened beyond this waits for the next commit, so that those of other runs do not wait for it.
const MAX_ENTRY_BYTES: usize = 4 << 20;

/// What a commit takes in beside its entry.
struct Taken {
    blobs: Vec<BlobId>,
    consumed: Vec<MessageId>,
}

impl RunTask {
    /// Folds what happened since the last commit, and commits it in one entry.
    pub(super) fn fold_and_commit(&mut self) -> Result<(), Impossible> {
        if self.is_successful() {
            return Ok(());
        }
        let mut entry = EntryWriter::default();
        let mut blobs = Vec::new();
        let mut consumed = self.mailbox.take_taken();
        // What a run begins with is durable before it takes in anything else; on probation, it begins later.
        let is_opening = self.opening.is_some() && !self.waits_for_admission();
        let mut next = match is_opening {
            true => None,
            false => self.next_in_order(),
        };
        let is_compacted = next.is_some() && self.is_worth_compacting();
        if is_opening && let Some(mut event) = self.opening.take() {
            if let Event::Interrupted { at, .. } = &mut event {
                // Its steps execute from now on. On probation, others may have come first.
                *at = self.shared.clock.timestamp();
            }
            self.record_event(&mut entry, event)?;
        }
        if is_compacted {
            write(&mut entry, &Event::Snapshot(Box::new(self.run.snapshot())))?;
            self.snapshot_bytes = entry.len() as u64;
            self.run.forget_interruptions();
        }
        let full = entry.len() + MAX_ENTRY_BYTES;
        while let Some(taken) = next.take() {
            let was_here = matches!(taken, Next::Happened(Happened::Body { task: None, .. }));
            let event = match taken {
                Next::Happened(happened) => {
                    if let Happened::Body {
                        task: Some(task), ..
                    } = &happened
                    {
                        self.folded.push(*task);
                    }
                    self.event_of(happened)
                }
                Next::Due(due) => self.run.event_of_due(due).map(Ok),
                Next::Message(step, message, value) => {
                    consumed.push(message);
                    Some(Ok(Event::StepSucceeded { step, value }))
                }
            };
            match event {
                None => {}
                Some(Ok(event)) => {
                    blobs.extend(event.blobs());
                    self.record_event(&mut entry, event)?;
                }
                Some(Err((step, reason))) => self.cannot_execute(step, reason, was_here),
            }
            if entry.len() < full {
                next = self.next_in_order();
            }
        }
        let steps = self.run.take_clocks();
        if !steps.is_empty() {
            let at = self.times().passed;
            self.record_event(&mut entry, Event::ClockStarted { at, steps })?;
        }
        if self.happened.is_empty() && !self.steps.has_work() {
            self.happened.shrink_to(64);
        }
        self.stop_steps();
        // A child that is being begun or looked at says what became of it before the run ends: nothing is heard afterwards.
        let is_idle = self.steps.is_idle()
            && self.happened.is_empty()
            && self.n_looking == 0
            && !self.is_shutting_down;
        let mut settled = self.run.settle(is_idle);
        if let Settled::By(event) = settled {
            write(&mut entry, &event)?;
            self.run.apply(event)?;
            settled = self.run.settle(is_idle);
        }
        let status = match settled {
            Settled::Successful => StoredStatus::Successful,
            Settled::Stopped if self.run.is_canceled() => StoredStatus::Canceled,
            Settled::Stopped if self.run.failure().is_some() => StoredStatus::Failed,
            Settled::Stopped => StoredStatus::Suspended,
            _ => StoredStatus::Running,
        };
        if status == StoredStatus::Canceled {
            consumed.extend(self.mailbox.take_abandoned());
        }
        if status == StoredStatus::Suspended || status.is_final() {
            consumed.extend(self.mailbox.take_suspending());
        }
        if entry.is_empty() && consumed.is_empty() && status == self.record.status {
            return Ok(());
        }
        let taken = Taken { blobs, consumed };
        self.commit(entry, is_compacted, status, taken);
        Ok(())
    }

    fn record_event(&mut self, entry: &mut EntryWriter, event: Event) -> Result<(), Impossible> {
        write(entry, &event)?;
        self.run.apply(event)
    }

    fn is_worth_compacting(&self) -> bool {
        let snapshot_bytes = self.run.live_bytes().max(self.snapshot_bytes);
        // What is counted is about what is written: a snapshot that may not fit into an entry is none.
        snapshot_bytes < MAX_PLAN_BYTES
            && self.record.journal_bytes
                > self.shared.compact_above + COMPACTION_FACTOR * snapshot_bytes
            && self.opening.is_none()
            && self.run.is_active()
    }

    fn commit(
        &mut self,
        entry: EntryWriter,
        is_compacted: bool,
        status: StoredStatus,
        Taken { blobs, consumed }: Taken,
    ) {
        let now = self.shared.clock.timestamp();
        let record = &mut self.record;
        record.status = status;
        record.started_at.get_or_insert(now);
        record.ended_at = status.is_final().then_some(now);
        record.wake_at = self.run.next_timer().filter(|_| status.is_active());
        record.steps = self.run.counts();
        let entry = (!entry.is_empty()).then(|| entry.finish(record.next_entry));
        if let Some(entry) = &entry {
            if is_compacted {
                record.first_entry = record.next_entry;
                record.journal_bytes = 0;
            }
            record.next_entry = record.next_entry.next();
            record.journal_bytes += entry.len() as u64;
        }
        let write = RunWrite {
            run: self.id.clone(),
            expect: Expect::Epoch(record.epoch),
            record: record.clone(),
            entry,
            truncate: is_compacted,
            values: self.values(status),
            blobs,
            consumed,
            only_with: None,
        };
        self.is_committing = true;
        let messages = self.letters(status, now);
        let write = if messages.is_empty() && self.may_commit_here() {
            let begun_at = self.shared.clock.instant();
            match self.shared.committer.commit_here(write, self.is_in_place) {
                Ok(written) => {
                    let ended_at = self.shared.clock.instant();
                    self.stretch.was_blocked(begun_at, ended_at);
                    self.written_here = Some(written);
                    return;
                }
                Err(write) => write,
            }
        } else {
            write
        };
        let reply = Reply::Run(self.sender.messages.clone());
        self.shared
            .commit(CommitRequest::write(write, messages, reply));
    }

    /// Whether the run can do nothing before its commit is durable, so that its thread may as well wait for it.
    fn may_commit_here(&self) -> bool {
        self.may_block && self.steps.is_idle() && !self.steps.has_work() && self.happened.is_empty()
    }

    /// What is kept beside the journal, so that it is found without reading that.
    fn values(&mut self, status: StoredStatus) -> Vec<(ValueKey, Option<bytes::Bytes>)> {
        let bytes = |value: &Value| Some(bytes::Bytes::copy_from_slice(value.as_bytes()));
        let mut values: Vec<_> = self
            .run
            .take_named()
            .iter()
            .map(|(name, value)| (ValueKey::Step(name.to_string()), bytes(value)))
            .collect();
        let encoded = |error: &dyn erased::Encode| error.encode().as_ref().and_then(bytes);
        match status {
            StoredStatus::Successful => {
                values.push((ValueKey::Output, self.run.output().and_then(bytes)))
            }
            StoredStatus::Failed => {
                values.push((
                    ValueKey::Error,
                    self.run.failure().and_then(|error| encoded(error)),
                ));
            }
            StoredStatus::Suspended => {
                values.push((
                    ValueKey::Error,
                    self.run.suspended().and_then(|reason| encoded(reason)),
                ));
            }
            _ => {}
        }
        values
    }
}

fn write(entry: &mut EntryWriter, event: &Event) -> Result<(), Impossible> {
    entry
        .push(event)
        .map_err(|_| Impossible("an event could not be encoded"))
}

/// Encoding errors and reasons alike.
mod erased {
    use serde::Serialize;

    use super::{Codec, Value};

    pub(super) trait Encode {
        fn encode(&self) -> Option<Value>;
    }

    impl<T: Serialize> Encode for T {
        fn encode(&self) -> Option<Value> {
            Value::encode(self, Codec::MessagePack).ok()
        }
    }
}
