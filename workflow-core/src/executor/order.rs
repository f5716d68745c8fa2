//! In which order a run takes in what happened: bodies as they end, and all that has a time in the order of time.
//!
//! A message may be read long after it was sent, a time limit be noticed long after it was due, and the end of a child run be
//! seen long after it. So each is compared with the others before it is folded: a run that nobody had in memory meanwhile goes
//! the way that it would have gone.

use keepstep_storage::{MessageId, Timestamp};

use super::{Happened, RunTask};
use crate::run::{Due, StepId};
use crate::value::Value;

/// What is to be folded next.
pub(super) enum Next {
    Happened(Happened),
    Due(Due),
    Message(StepId, MessageId, Value),
}

impl Happened {
    /// When it happened, if that is known.
    fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Ended { at, .. } | Self::Failed { at, .. } => Some(*at),
            Self::Body { .. } | Self::ChildBegan { .. } => None,
        }
    }
}

impl RunTask {
    pub(super) fn next_in_order(&mut self) -> Option<Next> {
        let happened_at = match self.happened.front().map(Happened::at) {
            Some(None) => return self.happened.pop_front().map(Next::Happened),
            Some(at) => at,
            None => None,
        };
        // One of the children that are being looked at may have ended before anything else.
        if self.n_catching_up > 0 {
            return None;
        }
        if !self.run.is_active() {
            return self.happened.pop_front().map(Next::Happened);
        }
        let message = self.mailbox.first_for(&mut self.run);
        let message_at = message.as_ref().map(|(_, sent_at)| *sent_at);
        if self.run.next_timer().is_some() {
            let now = self.times();
            let others = [happened_at, message_at].into_iter().flatten().min();
            // A message of a sender whose clock is ahead is not from the future.
            let before = |time: Timestamp| others.map_or(time, |other| other.min(time));
            let due = self.run.first_due(before(now.passed), before(now.shown));
            if let Some(due) = due {
                return Some(Next::Due(due));
            }
        }
        match message {
            Some((name, sent_at)) if happened_at.is_none_or(|at| sent_at < at) => {
                let step = self.run.listener(&name)?;
                let (id, value) = self.mailbox.take(&name)?;
                Some(Next::Message(step, id, value))
            }
            _ => self.happened.pop_front().map(Next::Happened),
        }
    }

    /// The children that were there when the run came into memory have been looked at: those that ended come in their order.
    pub(super) fn caught_up(&mut self) {
        let happened = self.happened.make_contiguous();
        happened.sort_by_key(Happened::at);
    }
}
