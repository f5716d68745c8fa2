//! Actors with calls that this program cannot make, on a store that others share: they are left to workers of other versions.
//!
//! While one version of a program replaces another, both are at work. What one cannot read the other one wrote, and can. So a worker
//! makes the calls that it can make, notes that it declined the others, and gives the actor up. Only when every worker that lives has
//! declined them do they wait, until something changes: another call comes, or another worker.

use std::collections::BTreeSet;

use keepstep_storage::{
    Epoch, Expect, RunId, RunRecord, RunWrite, StorageError, ValueKey, WriteOutcome,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::active::{Actor, Exit};
use super::stored;
use super::task::Task;
use crate::engine::Shared;
use crate::error::{Error, Result};

/// Calls in the inbox or the agenda that this program cannot make.
#[derive(Debug, Default)]
pub(super) struct Undoable {
    n: u64,
    /// Whether it was not decided yet what becomes of them.
    is_new: bool,
}

impl Undoable {
    /// A call was looked at.
    pub(super) fn note(&mut self, is_undoable: bool) {
        self.n += u64::from(is_undoable);
        self.is_new |= is_undoable;
    }
}

/// Who has declined an actor, under `ValueKey::Declined`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Declined {
    of: Of,
    nodes: BTreeSet<u64>,
}

/// What there was to do at that time: if it is something else, none of this holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    last_message: u64,
    n_planned: u64,
    n_undoable: u64,
}

impl Actor {
    fn declines(&self) -> Of {
        Of {
            last_message: self.read_to.map_or(0, |message| message.0),
            n_planned: self.agenda.n_planned(),
            n_undoable: self.undoable.n,
        }
    }
}

/// Whether what is stored was written by a later version of keepstep, or is damaged: this program reads none of it.
pub(super) fn is_unreadable(error: &Error) -> bool {
    matches!(
        error,
        Error::Damaged { .. } | Error::Storage(StorageError::UnknownFormat { .. })
    )
}

impl Task {
    /// Leaves the actor to others if it has calls that this program cannot make, another worker may, and there is nothing else to do.
    pub(super) async fn decline(&mut self) -> Result<Option<Exit>> {
        let Some(actor) = &mut self.actor else {
            return Ok(None);
        };
        if !actor.undoable.is_new || !actor.is_at_rest() || !self.queue.is_empty() {
            return Ok(None);
        }
        let shared = &self.stage.shared;
        let (of, record) = (actor.declines(), &actor.record);
        let is_declined = shared.is_shared() && shared.decline(&self.stage.id, of, record).await?;
        if !is_declined {
            actor.undoable.is_new = false;
            return Ok(None);
        }
        if !shared.actors.leave(&self.stage.id, &mut self.mailbox) {
            // What has come meanwhile is done first.
            return Ok(None);
        }
        // Before it is given up: what that tells the others is heard here, too.
        Ok(Some(Exit::Declined(shared.leave_to_others(&self.stage.id))))
    }
}

impl Shared {
    /// Notes that this engine declines an actor; whether another worker that lives has not.
    async fn decline(&self, id: &RunId, of: Of, record: &RunRecord) -> Result<bool> {
        let workers = self.storage.workers().await?;
        if workers.iter().all(|worker| *worker == self.node) {
            return Ok(false);
        }
        let stored = self.storage.value(id, &ValueKey::Declined).await?;
        let decode = |bytes: bytes::Bytes| {
            stored::decode::<Declined>(id, "list of those who declined it", &bytes).ok()
        };
        let declined = stored.and_then(decode).filter(|declined| declined.of == of);
        let mut declined = declined.unwrap_or_default();
        declined.of = of;
        if declined.nodes.insert(self.node.0) {
            self.note_declined(id, record, &declined).await?;
        }
        let mut others = workers.iter();
        Ok(others.any(|worker| !declined.nodes.contains(&worker.0)))
    }

    async fn note_declined(
        &self,
        id: &RunId,
        record: &RunRecord,
        declined: &Declined,
    ) -> Result<()> {
        let write = RunWrite {
            run: id.clone(),
            expect: Expect::Epoch(record.epoch),
            record: record.clone(),
            entry: None,
            truncate: false,
            values: vec![(ValueKey::Declined, Some(stored::encode(declined)?))],
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        };
        let committed = self.commit_all(Some(write), Vec::new(), Vec::new()).await?;
        match committed.writes.first() {
            Some(WriteOutcome::Written) => Ok(()),
            _ => Err(Error::Fenced { run: id.clone() }),
        }
    }

    /// Gives an actor up, and tells the other workers.
    pub(super) async fn decline_actor(&self, id: &RunId, epoch: Epoch) {
        warn!(actor = %id, "this program cannot make calls that were sent to the actor; it is left to workers that may");
        let declined = [(id.clone(), epoch)];
        if let Err(error) = self.storage.decline(&declined).await {
            warn!(actor = %id, %error, "could not give the actor up; it stays until another engine asks for it");
        }
    }

    /// Gives an actor up that cannot be read here.
    pub(super) async fn leave_unreadable_actor(&self, id: &RunId, epoch: Epoch) {
        if self.is_shared() {
            self.leave_to_others(id);
            self.decline_actor(id, epoch).await;
        }
    }
}
