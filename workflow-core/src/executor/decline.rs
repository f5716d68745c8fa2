//! Runs that this program cannot go on with, on a store that others share: they are left to workers of other versions.
//!
//! While one version of a program replaces another, both are at work. What one cannot decode the other one wrote, and can. So a worker
//! that cannot go on notes that it declined the run, and gives it up. Only when every worker that lives has declined it is the run
//! suspended, with the reason of the last.

use std::collections::BTreeSet;

use bytes::Bytes;
use keepstep_storage::{Expect, RunWrite, ValueKey, WriteOutcome};
use serde::{Deserialize, Serialize};

use super::RunTask;
use crate::engine::Ended;
use crate::error::SuspendReason;
use crate::run::StepId;

/// Who has declined a run, under `ValueKey::Declined`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Declined {
    /// The number of the run's next entry at that time: with another one, the run is elsewhere, and none of this holds.
    next_entry: u64,
    nodes: BTreeSet<u64>,
}

impl SuspendReason {
    /// Whether a worker of another version, or with other resources, may go on.
    pub(crate) fn is_of_this_program(&self) -> bool {
        match self {
            Self::UnknownStep { .. }
            | Self::Undecodable { .. }
            | Self::MissingResource { .. }
            | Self::Unmigratable { .. } => true,
            Self::Requested | Self::Invariant { .. } | Self::Interrupted { .. } => false,
        }
    }
}

impl RunTask {
    /// A step cannot be executed by this program, or by the worker that it was offered to.
    pub(super) fn cannot_execute(&mut self, step: StepId, reason: SuspendReason, was_here: bool) {
        // The body did not run, or gave nothing: the step is as before, and the run waits for better code.
        self.run.stopped(step);
        if was_here && self.shared.is_shared() && reason.is_of_this_program() {
            self.is_leaving = true;
            self.steps.forbid();
            self.declines.get_or_insert(reason);
        } else {
            self.run.suspend(reason);
        }
    }

    /// Whether nothing keeps the run from being declined any more.
    pub(super) fn may_decline(&self) -> bool {
        self.declines.is_some()
            && self.steps.is_idle()
            && self.happened.is_empty()
            && self.n_looking == 0
            && !self.is_shutting_down
            && self.run.is_active()
            && self.record.status.is_active()
    }

    /// Leaves the run to workers that may go on with it, or suspends it if there are none.
    pub(super) async fn decline(&mut self) -> Result<(), Ended> {
        let Some(reason) = self.declines.take() else {
            return Ok(());
        };
        let node = self.shared.node.0;
        let next_entry = self.record.next_entry.0;
        let storage = &self.shared.storage;
        let read = async {
            let workers = storage.workers().await?;
            let stored = storage.value(&self.id, &ValueKey::Declined).await?;
            Ok((workers, stored))
        };
        let (workers, stored) = read.await.map_err(Ended::Interrupted)?;
        let stored = stored.and_then(|bytes| {
            crate::actor::decode::<Declined>(&self.id, "list of those who declined it", &bytes).ok()
        });
        let mut declined = stored
            .filter(|declined| declined.next_entry == next_entry)
            .unwrap_or_default();
        declined.next_entry = next_entry;
        declined.nodes.insert(node);
        if workers
            .iter()
            .all(|worker| declined.nodes.contains(&worker.0))
        {
            self.is_leaving = false;
            self.run.suspend(reason);
            return Ok(());
        }
        tracing::warn!(
            run = %self.id, %reason,
            "this program cannot go on with the run; it is left to workers that may"
        );
        let bytes: Option<Bytes> = crate::actor::encode(&declined).ok();
        let write = RunWrite {
            run: self.id.clone(),
            expect: Expect::Epoch(self.record.epoch),
            record: self.record.clone(),
            entry: None,
            truncate: false,
            values: vec![(ValueKey::Declined, bytes)],
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        };
        let committed = self.shared.commit_all(Some(write), Vec::new(), Vec::new());
        match committed.await {
            Ok(committed) => match committed.writes.first() {
                Some(WriteOutcome::Written) => Ok(()),
                _ => Err(Ended::Fenced),
            },
            Err(crate::error::Error::Storage(error)) => Err(Ended::Interrupted(error)),
            Err(_) => Err(Ended::ShutDown),
        }
    }
}
