//! Calls that are cut short, time and again: one that ends its process would do so for ever, since it is stored and made again.
//!
//! An actor that was claimed from a node that died is on trial: it notes each call that was sent or planned before it makes it, one at a
//! time, until nothing is left to do. If the process dies again, the note says during which call. Calls that a caller awaits do not
//! count: they are gone with their caller.

use keepstep_storage::{Expect, MessageId, RunRecord, RunWrite, Timestamp, ValueKey, WriteOutcome};
use serde::{Deserialize, Serialize};

use super::execute::{Called, Stage};
use super::job::{From, Job};
use super::stored;
use crate::engine::OnProbation;
use crate::error::{Error, Result, StepErrorKind};

/// So many calls are noted after a death. What ended the process is among them, or they are over: then it is among the next ones.
const MOST_CALLS: u32 = 256;
/// From so many interruptions of one call on it is made alone among what was cut short.
const SUSPICIOUS: u32 = 2;

/// A call, for as long as it is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum CallRef {
    Message(u64),
    Planned(Timestamp, u64),
    Reminder(String, Timestamp),
}

impl CallRef {
    fn of(from: &From) -> Option<Self> {
        Some(match from {
            From::Caller(_) => return None,
            From::Inbox(MessageId(message), _) => Self::Message(*message),
            From::Agenda((due_at, number)) => Self::Planned(*due_at, *number),
            From::Reminder(name, due_at) => Self::Reminder(name.clone(), *due_at),
        })
    }
}

/// A call that is being made, under `ValueKey::Interrupted`, and how often it was cut short before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    call: CallRef,
    times: u32,
}

/// An actor whose last owner died.
#[derive(Debug)]
pub(super) struct Trial {
    /// As the last owner left it.
    note: Option<Note>,
    /// Whether nothing was made yet.
    is_first: bool,
    n_left: u32,
    max_interruptions: u32,
    opened_at: Timestamp,
}

/// What becomes of a call on trial.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is noted, and made.
    Make(Note),
    /// It was cut short so often, and is not made again.
    SetAside(u32),
}

impl Trial {
    /// The trial of an actor that was claimed so often in a row from nodes that had died; `None` if it needs none.
    pub(super) async fn of(stage: &Stage, n_orphaned: u32) -> Result<Option<Self>> {
        let shared = &stage.shared;
        let max_interruptions = shared.max_interruptions;
        // Where the first interruption is one too many, there has to be a note of the first execution.
        if max_interruptions == u32::MAX || (n_orphaned == 0 && max_interruptions > 1) {
            return Ok(None);
        }
        let note = shared
            .storage
            .value(&stage.id, &ValueKey::Interrupted)
            .await?;
        let note = note.map(|note| stored::decode(&stage.id, "note of a call", &note));
        Ok(Some(Self {
            note: note.transpose()?,
            is_first: n_orphaned > 0 && max_interruptions > 1,
            n_left: if max_interruptions > 1 {
                MOST_CALLS
            } else {
                u32::MAX
            },
            max_interruptions,
            opened_at: shared.opened_at,
        }))
    }

    /// Whether no more calls are to be noted.
    pub(super) fn is_over(&self, is_at_rest: bool) -> bool {
        self.n_left == 0 || (is_at_rest && self.max_interruptions > 1)
    }

    /// What becomes of a call; `None` if it is not one that is noted.
    pub(super) fn judge(&mut self, from: &From) -> Option<Verdict> {
        let call = CallRef::of(from)?;
        let noted = self.note.as_ref().filter(|note| note.call == call);
        // The first one was under way, or about to begin, if it was there when the last owner died.
        let was_first = std::mem::take(&mut self.is_first) && from.at() <= Some(self.opened_at);
        let times = match noted {
            Some(note) => note.times.saturating_add(1),
            None => u32::from(was_first),
        };
        if times >= self.max_interruptions {
            return Some(Verdict::SetAside(times));
        }
        if self.n_left < u32::MAX {
            self.n_left = self.n_left.saturating_sub(1);
        }
        Some(Verdict::Make(Note { call, times }))
    }
}

impl Stage {
    /// Notes a call before it is made; alone among what was cut short, if it was itself more than once. What it returns is dropped when
    /// the call is over.
    pub(super) async fn note(&self, note: &Note, record: RunRecord) -> Result<Option<OnProbation>> {
        let shared = &self.shared;
        let is_suspicious = note.times >= SUSPICIOUS;
        let mut probation = is_suspicious.then(|| shared.put_on_probation(note.times, None));
        if probation.is_some() {
            OnProbation::admission(&mut probation).await;
        }
        let write = RunWrite {
            run: self.id.clone(),
            expect: Expect::Epoch(record.epoch),
            record,
            entry: None,
            truncate: false,
            values: vec![(ValueKey::Interrupted, Some(stored::encode(note)?))],
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        };
        let committed = shared.commit_all(Some(write), Vec::new(), Vec::new());
        match committed.await?.writes.first() {
            Some(WriteOutcome::Written) => Ok(probation),
            _ => Err(Error::Fenced {
                run: self.id.clone(),
            }),
        }
    }

    /// What becomes of a call that is not made again.
    pub(super) fn set_aside(&self, job: &Job, times: u32) -> Called {
        let method = job.method.name;
        tracing::error!(
            actor = %self.id, method, times,
            "the process died each time that the call was made; it is not made again: send it once more when the method is mended"
        );
        let message = format!(
            "the process died {times} times in a row while the call was made, so it is not made again"
        );
        let error = self.failure(job.method, StepErrorKind::Error, message, Vec::new());
        Called {
            is_set_aside: true,
            ..Called::failed(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(note: Option<Note>, max_interruptions: u32) -> Trial {
        Trial {
            note,
            is_first: max_interruptions > 1,
            n_left: 2,
            max_interruptions,
            opened_at: Timestamp(9),
        }
    }

    fn sent(message: u64, at: u64) -> From {
        From::Inbox(MessageId(message), Timestamp(at))
    }

    fn made(message: u64, times: u32) -> Option<Verdict> {
        let call = CallRef::Message(message);
        Some(Verdict::Make(Note { call, times }))
    }

    #[test]
    fn a_call_is_set_aside_when_it_was_cut_short_as_often_as_is_allowed() {
        for max in 1..5 {
            let mut note = None;
            for times in 0..max {
                let mut trial = trial(note.take(), max);
                // Before there are notes, the first call counts that was there when the process died.
                let times = if times == 0 && max > 1 {
                    continue;
                } else {
                    times
                };
                let Some(Verdict::Make(made)) = trial.judge(&sent(7, 9)) else {
                    panic!("{times} of {max}");
                };
                assert_eq!(made.times, times);
                note = Some(made);
            }
            let aside = Some(Verdict::SetAside(max));
            assert_eq!(trial(note, max).judge(&sent(7, 9)), aside);
        }
    }

    #[test]
    fn what_came_later_and_what_stands_behind_begins_at_nothing() {
        assert_eq!(trial(None, 3).judge(&sent(1, 10)), made(1, 0));
        let mut trial = trial(None, 3);
        assert_eq!(trial.judge(&sent(1, 9)), made(1, 1));
        assert!(!trial.is_over(false) && trial.is_over(true));
        assert_eq!(trial.judge(&sent(2, 9)), made(2, 0));
        assert!(trial.is_over(false));
    }

    #[test]
    fn a_call_that_somebody_awaits_is_not_noted() {
        let (reply, _answer) = tokio::sync::oneshot::channel();
        assert_eq!(trial(None, 1).judge(&From::Caller(reply)), None);
    }
}
