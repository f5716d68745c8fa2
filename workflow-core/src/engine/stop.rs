//! Stopping runs from outside: suspend, cancel, delete.

use std::sync::Arc;

use bytes::Bytes;
use keepstep_storage::{
    Expect, Parent, RunId, RunRecord, RunWrite, Send, SendOutcome, StoredStatus, ValueKey,
    WriteOutcome,
};

use super::Engine;
use super::handle::Attached;
use super::shared::{Ended, SeatState, Shared};
use crate::error::{Error, Result, SuspendReason};
use crate::executor::{Mail, RunMessage, letters, load_run};
use crate::journal::EntryWriter;
use crate::run::Event;
use crate::status::Status;
use crate::value::{Codec, Value};

/// What a message to a run's task came to.
enum Told {
    /// The task has it; this is where the outcome will be.
    Task(Attached),
    /// No task drives the run.
    NoTask,
}

impl Shared {
    /// Cancels a run that nothing needs any more. It has a message that says so, for after a crash.
    pub(crate) fn cancel_soon(self: &Arc<Self>, id: RunId) {
        let engine = Engine::detached(Arc::clone(self));
        self.spawn(async move {
            match engine.cancel(id.as_str()).await {
                Ok(()) | Err(Error::AlreadyEnded { .. } | Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(run = %id, %error, "could not cancel a child run"),
            }
        });
    }
}

impl Engine {
    /// Stops a run so that it can be resumed: its bodies are told to stop, and it is `Suspended` when this returns. Suspending a
    /// suspended run does nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::AlreadyEnded`], also if it ends before it could be stopped.
    pub async fn suspend(&self, id: impl AsRef<str>) -> Result<()> {
        let reason = SuspendReason::Requested;
        self.stop(
            id.as_ref(),
            Status::Suspended,
            || RunMessage::Suspend,
            Event::RunSuspended { reason },
        )
        .await
    }

    /// Cancels a run, for good: pending, running, suspended or resumable. Its bodies are told to stop, what they held is
    /// freed, and it is `Canceled` when this returns. Canceling a canceled run does nothing.
    ///
    /// A body that asked for its [cancellation token](crate::Context::cancellation_token) gets five seconds to end by
    /// itself; an async body is then dropped. A plain function cannot be stopped from outside: its result is ignored, and
    /// [`abandoned_steps`](Self::abandoned_steps) shows it until it returns.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::AlreadyEnded`], also if it ends before it could be canceled.
    pub async fn cancel(&self, id: impl AsRef<str>) -> Result<()> {
        self.stop(
            id.as_ref(),
            Status::Canceled,
            || RunMessage::Cancel,
            Event::RunCanceled,
        )
        .await
    }

    async fn stop(
        &self,
        id: &str,
        to: Status,
        message: fn() -> RunMessage,
        event: Event,
    ) -> Result<()> {
        let id = RunId::new(id)?;
        let engine = self.clone();
        self.to_its_end(async move { engine.stop_to_its_end(id, to, message, event).await })
            .await
    }

    async fn stop_to_its_end(
        &self,
        id: RunId,
        to: Status,
        message: fn() -> RunMessage,
        event: Event,
    ) -> Result<()> {
        let mail = match event {
            Event::RunSuspended { .. } => Mail::Suspend,
            _ => Mail::Cancel,
        };
        let mut is_asked = false;
        // Twice is usual if the run leaves memory in between; a run that comes and goes all the time is not waited for.
        loop {
            let lock = self.shared.locks.lock(&id).await;
            match self.tell(&id, message()) {
                Told::Task(attached) => {
                    drop(lock);
                    match attached.ended().await {
                        Ended::Interrupted(source) => {
                            return Err(Error::Interrupted { run: id, source });
                        }
                        Ended::ShutDown => return Err(Error::ShutDown),
                        Ended::NoRuntime => return Err(Error::RuntimeEnded),
                        Ended::Unreadable(error) => return Err(error),
                        // The record says how it ended, or it is suspended and can be written to.
                        _ => {}
                    }
                }
                Told::NoTask => {
                    let record = self.record(&id).await?;
                    let status = self.shared.status_of(&id, &record);
                    if status == to {
                        return Ok(());
                    }
                    if status.is_final() {
                        return Err(Error::AlreadyEnded { run: id, status });
                    }
                    let is_elsewhere = record.owner.is_some_and(|owner| owner != self.shared.node);
                    if is_elsewhere && record.status.is_active() && self.shared.is_shared() {
                        drop(lock);
                        self.ask_owner(&id, &mail, to, &mut is_asked).await?;
                        continue;
                    }
                    match self.stop_stored(&id, to, event.clone()).await? {
                        true => return Ok(()),
                        // Another engine has taken it over since.
                        false => continue,
                    }
                }
            }
        }
    }

    /// Asks the engine that owns a run to stop it, once, and waits until it may have.
    async fn ask_owner(
        &self,
        id: &RunId,
        mail: &Mail,
        to: Status,
        is_asked: &mut bool,
    ) -> Result<()> {
        if !*is_asked {
            let body = mail.encode().ok_or(Error::PlanTooLarge)?;
            let message = Send {
                to: id.clone(),
                key: None,
                sent_at: self.shared.clock.timestamp(),
                body,
                blobs: Vec::new(),
                only_with: None,
            };
            match self.shared.send(message).await? {
                SendOutcome::Accepted(_) => *is_asked = true,
                // The record says how it ended.
                _ => return Ok(()),
            }
            tracing::debug!(run = %id, ?to, "asked the owner of a run to stop it");
        }
        self.until_changed(id).await
    }

    /// Gives a message to the task of a run.
    fn tell(&self, id: &RunId, message: RunMessage) -> Told {
        let roster = self.shared.roster();
        match roster.seats.get(id) {
            Some((SeatState::Active(messages, _), seat)) => {
                let attached = Attached::to(seat);
                // A task leaves its seat before it stops taking messages.
                drop(messages.send(message));
                Told::Task(attached)
            }
            _ => Told::NoTask,
        }
    }

    /// Stops a run that no task drives: one entry at the end of its journal. `false` if another engine has it.
    pub(super) async fn stop_stored(&self, id: &RunId, to: Status, event: Event) -> Result<bool> {
        let Some(claimed) = self.claim(id).await? else {
            return Ok(false);
        };
        // After an error, it is given up.
        let (record, _guard) = (claimed.record, claimed.guard);
        let (status, ended) = match &event {
            Event::RunSuspended { reason } => {
                (StoredStatus::Suspended, Ended::Suspended(reason.clone()))
            }
            _ => (StoredStatus::Canceled, Ended::Canceled),
        };
        debug_assert_eq!(Status::of(status, true), to);
        // It is not driven.
        self.shared.roster().orphans.remove(id);
        // Its owner may have ended it since it was looked at. That stands.
        let has_ended = record.status.is_final();
        let appended = if has_ended {
            Ok(record.clone())
        } else {
            self.append(id, &record, event, status).await
        };
        if let Err(Error::Fenced { .. }) = &appended {
            // Another engine has taken it over since: whoever waits for it here is told what becomes of it there.
            let seat = {
                let mut roster = self.shared.roster();
                roster.slots.unqueue(id);
                roster.seats.get(id).map(|(_, seat)| Arc::clone(seat))
            };
            if let Some(seat) = seat {
                self.shared.goes_on_elsewhere(id, &seat);
            }
            return Ok(false);
        }
        let seat = {
            let mut roster = self.shared.roster();
            roster.slots.unqueue(id);
            if appended.is_ok() {
                roster.lost.remove(id);
            }
            roster.seats.remove(id)
        };
        let ended = match &appended {
            Ok(_) if has_ended => Ended::Fenced,
            Ok(_) => ended,
            Err(Error::Storage(error)) => Ended::Interrupted(error.clone()),
            Err(error) => Ended::Unreadable(error.clone()),
        };
        if let Some((_, seat)) = seat {
            seat.ended.send_replace(Some(ended));
        }
        self.shared.resumed.notify_waiters();
        let status = Status::of(appended?.status, true);
        if status == to {
            return Ok(true);
        }
        Err(Error::AlreadyEnded {
            run: id.clone(),
            status,
        })
    }

    /// Appends an event to a run that no task drives.
    pub(super) async fn append(
        &self,
        id: &RunId,
        record: &RunRecord,
        event: Event,
        status: StoredStatus,
    ) -> Result<RunRecord> {
        let now = self.shared.clock.timestamp();
        let mut values = Vec::new();
        if let Event::RunSuspended { reason } = &event {
            let reason = Value::encode(reason, Codec::MessagePack).ok();
            values.push((
                ValueKey::Error,
                reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes())),
            ));
        }
        let mut abandoned = Vec::new();
        if status == StoredStatus::Canceled {
            abandoned = self.children_of(id, record).await?;
        }
        let mut entry = EntryWriter::default();
        entry.push(&event).map_err(|_| Error::PlanTooLarge)?;
        let entry = entry.finish(record.next_entry);
        let next = RunRecord {
            status,
            ended_at: status.is_final().then_some(now),
            wake_at: record.wake_at.filter(|_| status.is_active()),
            next_entry: record.next_entry.next(),
            journal_bytes: record.journal_bytes + entry.len() as u64,
            ..record.clone()
        };
        let write = RunWrite {
            run: id.clone(),
            expect: Expect::Epoch(record.epoch),
            record: next.clone(),
            entry: Some(entry),
            truncate: false,
            values,
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        };
        let letters = letters(&abandoned, record.parent.as_ref(), status, now);
        match self.write(write, letters).await? {
            WriteOutcome::Written => {}
            _ => return Err(Error::Fenced { run: id.clone() }),
        }
        abandoned
            .into_iter()
            .for_each(|child| self.shared.cancel_soon(child));
        Ok(next)
    }

    /// The runs that a run began and may still need. A run that is damaged can be canceled too, without them.
    async fn children_of(&self, id: &RunId, record: &RunRecord) -> Result<Vec<RunId>> {
        let named = match load_run(&*self.shared.storage, id, record).await {
            Ok(run) => run.children(),
            // Another time they can be read: nobody else would tell them.
            Err(error @ Error::Storage(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(run = %id, %error, "the children of a canceled run are not known");
                Vec::new()
            }
        };
        let mut children = Vec::with_capacity(named.len());
        for child in named {
            // It may not have come to begin one, and another run may have the id.
            let found = self.shared.storage.record(&child).await?;
            let is_by =
                |parent: &Parent| parent.run == *id && parent.incarnation == record.incarnation;
            if found.is_some_and(|found| found.parent.as_ref().is_some_and(is_by)) {
                children.push(child);
            }
        }
        Ok(children)
    }
}
