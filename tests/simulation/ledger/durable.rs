//! What becomes durable: the ledger is told by the lowest layer of the store, and sees whether it may.

use std::collections::BTreeSet;

use keepstep::storage::{
    Batch, BlobId, Committed, DeleteOutcome, Epoch, Expect, RunId, RunRecord, StoredStatus,
    ValueKey, WriteOutcome,
};

use super::{Came, Ledger, State, Stored, Token};
use tokio::time::Instant;

use crate::tokens::tokens_in;

impl Ledger {
    /// A batch was committed.
    pub(crate) fn committed(&self, batch: &Batch, committed: &Committed) {
        let mut state = self.state();
        for (write, outcome) in batch.writes.iter().zip(&committed.writes) {
            if *outcome != WriteOutcome::Written {
                state.n_fenced += 1;
                continue;
            }
            let before = state.runs.get(&write.run).map(|stored| {
                let record = &stored.record;
                (record.epoch, record.status, record.next_entry)
            });
            match (write.expect, before) {
                (Expect::New, None) => {}
                (Expect::Epoch(epoch), Some((current, status, next_entry))) => {
                    state.check_write(&write.run, (epoch, current), status, &write.record);
                    let expected = match &write.entry {
                        Some(_) => next_entry.next(),
                        None => next_entry,
                    };
                    if write.record.next_entry != expected {
                        state.violated(format!("{}: its journal has a hole", write.run));
                    }
                }
                (expect, before) => state.violated(format!(
                    "10: {} was written with {expect:?} over {before:?}",
                    write.run
                )),
            }
            let record = write.record.clone();
            let status = record.status;
            match state.runs.get_mut(&write.run) {
                Some(stored) => {
                    stored.record = record;
                    stored.changed_at = Instant::now();
                    stored.had.insert(status);
                }
                None => {
                    let had = BTreeSet::from([status]);
                    let output = None;
                    let stored = Stored {
                        record,
                        changed_at: Instant::now(),
                        had,
                        output,
                    };
                    state.runs.insert(write.run.clone(), stored);
                }
            }
            let mut found = write.entry.as_deref().map(tokens_in).unwrap_or_default();
            for (key, value) in &write.values {
                // A name keeps also what a volatile step gave last, which makes that no checkpoint.
                if !matches!(key, ValueKey::Metadata | ValueKey::Step(_)) {
                    found.extend(value.as_deref().map(tokens_in).unwrap_or_default());
                }
            }
            for blob in &write.blobs {
                match state.blobs.get(blob) {
                    Some(tokens) => found.extend(tokens),
                    None => state.violated(format!("{} refers to no blob", write.run)),
                }
            }
            found.into_iter().for_each(|id| state.is_durable(id));
            for what in state.post.consumed(&write.run, &write.consumed) {
                state.violated(what);
            }
        }
        for (delete, outcome) in batch.deletes.iter().zip(&committed.deletes) {
            if *outcome == DeleteOutcome::Deleted {
                state.deleted(&delete.run, delete.epoch);
            }
        }
        for (message, outcome) in batch.messages.iter().zip(&committed.messages) {
            if let Err(what) = state.post.arrived(message, *outcome) {
                state.violated(what);
            }
        }
    }

    /// Runs were claimed.
    pub(crate) fn claimed(&self, records: &[Option<RunRecord>], runs: &[RunId]) {
        let mut state = self.state();
        for (run, record) in runs.iter().zip(records) {
            let Some(record) = record else { continue };
            let before = state.runs.get(run).map(|stored| stored.record.epoch);
            if before.is_none_or(|epoch| epoch >= record.epoch) {
                state.violated(format!(
                    "10: {run} was claimed at {:?} after {before:?}",
                    record.epoch
                ));
            }
            if let Some(stored) = state.runs.get_mut(run) {
                stored.record = record.clone();
                stored.changed_at = Instant::now();
            }
        }
    }

    /// Runs were given up.
    pub(crate) fn released(&self, runs: &[(RunId, Epoch)]) {
        let mut state = self.state();
        for (run, epoch) in runs {
            if let Some(stored) = state.runs.get_mut(run)
                && stored.record.epoch == *epoch
            {
                stored.record.owner = None;
                stored.changed_at = Instant::now();
                stored.record.epoch = epoch.next();
            }
        }
    }

    /// A blob was stored.
    pub(crate) fn put(&self, id: BlobId, bytes: &[u8]) {
        self.state().blobs.insert(id, tokens_in(bytes));
    }
}

impl State {
    fn deleted(&mut self, run: &RunId, epoch: Epoch) {
        let before = self.runs.remove(run);
        let current = before.map(|stored| stored.record.epoch);
        if current != Some(epoch) {
            self.violated(format!("10: {run} was deleted at {epoch:?} of {current:?}"));
        }
        self.post.deleted(run);
        self.has_deleted = true;
    }

    fn check_write(
        &mut self,
        run: &RunId,
        (epoch, current): (Epoch, Epoch),
        from: StoredStatus,
        to: &RunRecord,
    ) {
        if epoch != current || to.epoch != current {
            self.violated(format!("10: {run} was written at {epoch:?} of {current:?}"));
        }
        let is_final = matches!(from, StoredStatus::Successful | StoredStatus::Canceled);
        if is_final && from != to.status {
            self.violated(format!("3: {run} was {from:?} and became {:?}", to.status));
        }
        let was_stopped = matches!(from, StoredStatus::Failed | StoredStatus::Suspended);
        if was_stopped && to.status != from {
            // It was resumed: what failed for good begins afresh, also what did so while the run was being suspended.
            let incarnation = format!("{run}/{:016x}/", to.incarnation);
            for (step, log) in &mut self.steps {
                if step.starts_with(&incarnation) && log.failures + log.uncertain > log.retries {
                    log.uncertain += std::mem::take(&mut log.failures);
                }
            }
        }
    }

    fn is_durable(&mut self, id: u32) {
        if !self.durable.insert(id) {
            return;
        }
        let Token { step, came, .. } = &self.tokens[id as usize];
        let Some(log) = self.steps.get_mut(step) else {
            return;
        };
        let what = match came {
            Came::Well => log
                .done
                .replace(id)
                .map(|_| format!("1: {step} has two durable results")),
            Came::Failed => {
                log.failures += 1;
                (log.failures > log.retries + 1)
                    .then(|| format!("5: {step} failed {} times", log.failures))
            }
        };
        if let Some(what) = what {
            self.violated(what);
        }
    }
}
