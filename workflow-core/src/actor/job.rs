//! Calls: those that are to be made, which stand in the queue of an actor's task, and those that were made.

use std::sync::Arc;

use keepstep_storage::{MessageId, RunId, Timestamp};
use tokio::sync::oneshot;

use super::def::MethodDef;
use super::stored::{Answer, CallResult};
use super::waits::{Claim, Waiters};
use crate::engine::NewRun;
use crate::error::Result;
use crate::source::Source;

/// A call to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) method: &'static MethodDef,
    pub(super) args: Vec<Source>,
    /// The id that the caller gave it.
    pub(super) key: Option<String>,
    /// Who awaits it.
    pub(super) waiters: Waiters,
    /// The run whose step makes it.
    pub(super) by: Option<RunId>,
    /// Whether it may still be made: whoever awaits it may have been told that it waits for itself.
    pub(super) claim: Option<Arc<Claim>>,
    pub(super) from: From,
}

/// Where a call comes from.
#[derive(Debug)]
pub(super) enum From {
    Caller(oneshot::Sender<Result<Answer>>),
    /// A message, and when it was sent.
    Inbox(MessageId, Timestamp),
    Agenda((Timestamp, u64)),
    /// A reminder, and when it was due.
    Reminder(String, Timestamp),
}

impl Job {
    /// Begins the call; `false` if it was taken back.
    pub(super) fn begin(&self) -> bool {
        self.claim.as_ref().is_none_or(|claim| claim.begin())
    }
}

impl From {
    /// When the call was due, if it was planned.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        match self {
            Self::Agenda((due_at, _)) | Self::Reminder(_, due_at) => Some(*due_at),
            Self::Caller(_) | Self::Inbox(..) => None,
        }
    }

    /// Since when the call is to be made, if it is stored.
    pub(super) fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Inbox(_, sent_at) => Some(*sent_at),
            from => from.due_at(),
        }
    }
}

/// What stands in the queue.
pub(super) enum Item {
    Call(Job),
    Inbox,
    Delete(oneshot::Sender<Result<()>>),
}

pub(super) fn reply_of(job: Job) -> Option<oneshot::Sender<Result<Answer>>> {
    match job.from {
        From::Caller(reply) => Some(reply),
        From::Inbox(..) | From::Agenda(_) | From::Reminder(..) => None,
    }
}

/// A call that was made and is not committed yet.
pub(super) struct Done {
    pub(super) reply: Option<oneshot::Sender<Result<Answer>>>,
    pub(super) answer: Result<Answer>,
    pub(super) result: Option<(String, CallResult)>,
    pub(super) consumed: Option<MessageId>,
    pub(super) child: Option<Box<NewRun>>,
}

impl Done {
    /// Whoever asked may have gone; the call is what it is.
    pub(super) fn tell(self) {
        if let Some(reply) = self.reply {
            drop(reply.send(self.answer));
        }
    }
}
