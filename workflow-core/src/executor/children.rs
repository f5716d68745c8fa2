//! Child runs: runs that a run starts and waits for.
//!
//! A child is begun once the wish for it is durable. Beginning one that is there attaches to it, so a crash in between does no
//! harm. Its end is a message to its parent, sent in the commit that ends it; a parent that comes into memory looks for itself.

use std::sync::Arc;

use keepstep_storage::{
    Expect, Parent, RunId, RunWrite, Send, StorageError, StoredStatus, Timestamp,
};

use super::mail::Mail;
use super::{Happened, RunMessage, RunTask};
use crate::engine::{Ended, Engine, Shared};
use crate::error::{Error, StepErrorKind};
use crate::run::{ChildToBegin, Failure, StepId};
use crate::texts;
use crate::value::Value;

/// Why a child is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is to be there.
    Begins,
    /// It was there before its parent came into memory.
    CatchesUp,
    /// It may have ended since.
    Again,
}

/// How a child was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is there, and has not ended.
    There,
    /// It had ended by then.
    Ended(Value, Timestamp),
    /// There will be no result, since then.
    Failed(Failure, Timestamp),
    Storage(StorageError),
    /// Another engine has taken the run over that asked for it.
    Fenced,
    ShutDown,
}

impl RunTask {
    /// Begins the children that durable events ask for, and looks after those that are there.
    pub(super) fn begin_children(&mut self) {
        for child in self.run.take_children() {
            let look = match child.has_begun {
                true => Look::CatchesUp,
                false => Look::Begins,
            };
            self.begin_child(child, look);
        }
    }

    fn begin_child(&mut self, to_begin: ChildToBegin, look: Look) {
        let parent = Parent {
            run: self.id.clone(),
            incarnation: self.record.incarnation,
            step: to_begin.step.0,
        };
        let (shared, to) = (Arc::clone(&self.shared), self.sender.clone());
        self.n_looking += 1;
        self.n_beginning += usize::from(look == Look::Begins);
        self.n_catching_up += usize::from(look == Look::CatchesUp);
        // Nothing of this run is being committed while a child is not known to be there, so this is how it stands.
        let by = RunWrite {
            run: self.id.clone(),
            expect: Expect::Epoch(self.record.epoch),
            record: self.record.clone(),
            entry: None,
            truncate: false,
            values: Vec::new(),
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        };
        self.shared.spawn(async move {
            let step = to_begin.step;
            let found = Box::new(begin(&shared, parent, to_begin, by).await);
            // The run may be gone: then nobody needs to know.
            drop(to.send(RunMessage::Child { step, look, found }));
        });
    }

    /// A child has said that it ended.
    pub(super) fn look_after_child(&mut self, step: StepId) {
        if let Some(child) = self.run.child(step) {
            let look = match child.has_begun {
                true => Look::Again,
                false => Look::Begins,
            };
            self.begin_child(child, look);
        }
    }

    pub(super) fn child_found(
        &mut self,
        step: StepId,
        look: Look,
        found: Found,
    ) -> Result<(), Ended> {
        self.n_looking -= 1;
        self.n_beginning -= usize::from(look == Look::Begins);
        self.n_catching_up -= usize::from(look == Look::CatchesUp);
        let was_last = look == Look::CatchesUp && self.n_catching_up == 0;
        match found {
            Found::There => self.happened.push_back(Happened::ChildBegan { step }),
            Found::Ended(value, at) => {
                self.happened.push_back(Happened::Ended { step, value, at });
            }
            Found::Failed(failure, at) => {
                self.happened
                    .push_back(Happened::Failed { step, failure, at });
            }
            Found::Storage(error) => return Err(Ended::Interrupted(error)),
            Found::Fenced => return Err(Ended::Fenced),
            Found::ShutDown => {}
        }
        if was_last {
            self.caught_up();
        }
        Ok(())
    }

    /// What other runs are told in the commit that gives this one a status.
    pub(super) fn letters(&mut self, status: StoredStatus, now: Timestamp) -> Vec<Send> {
        self.to_cancel.extend(self.run.take_orphans());
        if status == StoredStatus::Canceled {
            self.to_cancel.extend(self.run.children());
        }
        letters(&self.to_cancel, self.record.parent.as_ref(), status, now)
    }

    /// Cancels the runs that nothing needs, once that is durable. Their message does so after a crash.
    pub(super) fn cancel_children(&mut self) {
        for child in std::mem::take(&mut self.to_cancel) {
            self.shared.cancel_soon(child);
        }
    }
}

/// The messages of a run that gets a status: to children that nothing needs, and to its parent.
pub(crate) fn letters(
    abandoned: &[RunId],
    parent: Option<&Parent>,
    status: StoredStatus,
    sent_at: Timestamp,
) -> Vec<Send> {
    let letter = |to: &RunId, mail: &Mail| {
        Some(Send {
            to: to.clone(),
            key: None,
            sent_at,
            body: mail.encode()?,
            blobs: Vec::new(),
            only_with: None,
        })
    };
    let to_children = abandoned
        .iter()
        .map(|child| letter(child, &Mail::Abandoned));
    let to_parent = parent.filter(|_| status.is_final()).map(|parent| {
        let step = StepId(parent.step);
        letter(&parent.run, &Mail::ChildEnded { step })
    });
    to_children.chain(to_parent).flatten().collect()
}

async fn begin(
    shared: &Arc<Shared>,
    parent: Parent,
    to_begin: ChildToBegin,
    by: RunWrite,
) -> Found {
    let id = to_begin.child.id.clone();
    let creator = by.run.clone();
    match Engine::detached(Arc::clone(shared))
        .begin_child(parent, to_begin, by)
        .await
    {
        Ok(None) => Found::There,
        Ok(Some((Ended::Successful(value), at))) => Found::Ended(value, at),
        Ok(Some((Ended::Failed(error), at))) => {
            let failure = Failure {
                kind: error.kind,
                message: texts::kept(format_args!("run {id:?} failed: {error}")),
                causes: Vec::new(),
            };
            Found::Failed(failure, at)
        }
        Ok(Some((_, at))) => failed(format!("run {id:?} was canceled"), at),
        Err(Error::Storage(error)) => Found::Storage(error),
        Err(Error::ShutDown | Error::RuntimeEnded) => Found::ShutDown,
        Err(Error::Fenced { run }) if run == creator => Found::Fenced,
        Err(Error::IdConflict { .. }) => failed(
            format!(
                "there is a run {id:?} that this workflow did not start; give the child another id"
            ),
            shared.clock.timestamp(),
        ),
        Err(error) => failed(error.to_string(), shared.clock.timestamp()),
    }
}

fn failed(message: String, at: Timestamp) -> Found {
    let failure = Failure {
        kind: StepErrorKind::Error,
        message: texts::cut(message),
        causes: Vec::new(),
    };
    Found::Failed(failure, at)
}
