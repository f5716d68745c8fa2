//! Making durable what an actor's calls came to, and telling who waits for it.
//!
//! While a commit is being flushed, further calls are made on the state as the last call left it; what has gathered by then
//! goes into the next one.

use std::future::pending;

use keepstep_storage::{Committed as Outcomes, Expect, RunWrite, ValueKey, WriteOutcome};
use tokio::sync::oneshot;

use super::active::{Actor, Committing, not_found, wait_for};
use super::def::StoredState;
use super::execute::Stage;
use super::job::Done;
use super::residents::{Committed, Seat};
use super::stored::{self, State};
use crate::error::{Error, Result};
use crate::executor::{CommitRequest, Reply};

/// What becomes of the commit under way.
pub(super) async fn outcome_of(committing: &mut Option<Committing>) -> Result<Outcomes> {
    match committing {
        Some(committing) => {
            let outcome = (&mut committing.outcome).await;
            Ok(outcome.map_err(|_| Error::ShutDown)??)
        }
        None => pending().await,
    }
}

impl Actor {
    /// Hands what has gathered to the committer, if it is not busy with this actor.
    pub(super) fn commit(&mut self, stage: &Stage) -> Result<()> {
        let has_changes = !self.done.is_empty() || self.agenda.is_changed() || self.forgets_note;
        if self.committing.is_some() || !has_changes {
            return Ok(());
        }
        let mut done = std::mem::take(&mut self.done);
        let mut values = Vec::new();
        if std::mem::take(&mut self.forgets_note) {
            values.push((ValueKey::Interrupted, None));
        }
        // Calls in the agenda came as messages, which have made the actor name theirs.
        let mut blobs = Vec::new();
        if std::mem::take(&mut self.is_changed) {
            let StoredState { version, value } = self.state.clone();
            value.for_each_blob(&mut |blob| blobs.push(blob));
            let state = stored::encode(&State { version, value })?;
            values.push((ValueKey::State, Some(state)));
        }
        if self.agenda.is_changed() {
            values.extend(self.agenda.write()?);
        }
        let mut with = Vec::new();
        let mut consumed = std::mem::take(&mut self.consumed);
        for done in &mut done {
            consumed.extend(done.consumed);
            if let Some((key, result)) = &done.result {
                values.push((ValueKey::Result(key.clone()), Some(stored::encode(result)?)));
                result.blobs(&mut blobs);
            }
            with.extend(done.child.as_ref().map(|child| child.write.clone()));
        }
        if values.is_empty() && with.is_empty() && consumed.is_empty() {
            // Nothing changed: what these calls saw is durable.
            done.into_iter().for_each(Done::tell);
            return Ok(());
        }
        let mut record = self.record.clone();
        record.wake_at = self.agenda.due_at();
        let write = RunWrite {
            run: stage.id.clone(),
            expect: Expect::Epoch(record.epoch),
            record: record.clone(),
            entry: None,
            truncate: false,
            values,
            blobs,
            consumed,
            only_with: None,
        };
        let (reply, outcome) = oneshot::channel();
        stage.shared.commit(CommitRequest {
            write: Some(write),
            with,
            messages: Vec::new(),
            deletes: Vec::new(),
            deleted_bytes: 0,
            reply: Reply::Once(reply),
        });
        self.committing = Some(Committing {
            outcome,
            done,
            state: self.state.clone(),
            record,
        });
        Ok(())
    }

    /// Does what a durable commit allows.
    pub(super) fn settle(&mut self, stage: &Stage, seat: &Seat, outcomes: Outcomes) -> Result<()> {
        let mut outcomes = outcomes.writes.into_iter();
        match outcomes.next() {
            Some(WriteOutcome::Written) => stage.shared.pauses.succeeded(&stage.id),
            Some(WriteOutcome::NotFound) => return Err(not_found(stage)),
            Some(WriteOutcome::BlobMissing { blob: object }) => {
                return Err(Error::ObjectNotFound { object });
            }
            _ => {
                return Err(Error::Fenced {
                    run: stage.id.clone(),
                });
            }
        }
        let Some(Committing {
            done,
            state,
            record,
            ..
        }) = self.committing.take()
        else {
            return Ok(());
        };
        self.record = record;
        seat.committed.send_if_modified(|committed| {
            let is_same = matches!(committed, Some(Ok(committed)) if committed.stored.value == state.value
                && committed.stored.version == state.version);
            if !is_same {
                *committed = Some(Ok(Committed::new(state)));
            }
            !is_same
        });
        for mut done in done {
            if let Some((key, _)) = &done.result {
                self.results.remove(key);
            }
            if let Some(child) = done.child.take() {
                let run = child.write.run.clone();
                match outcomes.next() {
                    Some(WriteOutcome::Written) => stage.shared.drive_new(*child),
                    Some(WriteOutcome::BlobMissing { blob: object }) => {
                        done.answer = Err(Error::ObjectNotFound { object });
                    }
                    _ => done.answer = Err(Error::IdConflict { run: run.clone() }),
                }
                if self.agenda.exclusive() == Some(&run) {
                    self.child = Some(wait_for(&stage.shared, run));
                }
            }
            done.tell();
        }
        Ok(())
    }
}
