//! The actors in memory, and waking those that are not.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use keepstep_storage::{RunId, RunKind};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::def::{ActorDef, ActorState, StoredState, actors};
use super::job::Job;
use super::task::Task;
use super::waits::Waits;
use crate::engine::{Growth, Shared};
use crate::error::{Error, Result};
use crate::object::Objects;
use crate::step::StepFault;

/// An idle actor leaves memory at once when there are more than this.
const MANY: usize = 10_000;
/// How many inboxes are looked up at a time.
const PAGE: usize = 1_000;

/// The actors of an engine that are in memory.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    inner: Mutex<Inner>,
    /// Something was given up, perhaps an actor that is wanted here.
    freed: Notify,
    pub(super) waits: Waits,
}

#[derive(Debug, Default)]
struct Inner {
    seats: FxHashMap<RunId, Arc<Seat>>,
    /// Whether what was left over by an earlier opening was looked for.
    is_awake: bool,
    is_closed: bool,
}

/// An actor in memory.
#[derive(Debug)]
pub(super) struct Seat {
    mailbox: mpsc::UnboundedSender<Mail>,
    /// The state that was committed last; `None` until it is read.
    pub(super) committed: watch::Sender<Option<Result<Arc<Committed>>>>,
}

/// What an actor's task is told.
#[derive(Debug)]
pub(super) enum Mail {
    /// Make this call.
    Call(Job),
    /// There may be something in the inbox.
    Inbox,
    /// Delete the actor.
    Delete(oneshot::Sender<Result<()>>),
    /// Another engine wants the actor.
    HandOver,
    /// The engine's leases have ended: another may have the actor.
    LeaseLost,
    /// Stop where you are.
    ShutDown,
}

/// A committed state, decoded when it is first looked at.
pub(super) struct Committed {
    pub(super) stored: StoredState,
    decoded: OnceLock<Result<ActorState, StepFault>>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stored.fmt(f)
    }
}

impl Committed {
    pub(super) fn new(stored: StoredState) -> Arc<Self> {
        Arc::new(Self {
            stored,
            decoded: OnceLock::new(),
        })
    }

    pub(super) fn decoded(
        &self,
        def: &ActorDef,
        objects: &Arc<Objects>,
    ) -> Result<&ActorState, &StepFault> {
        let decode = || def.read(&self.stored, objects);
        self.decoded.get_or_init(decode).as_ref()
    }
}

impl Residents {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn are_many(&self) -> bool {
        self.inner().seats.len() > MANY
    }

    /// Notes that the engine's actors live; `false` if they did.
    fn be_awake(&self) -> bool {
        !std::mem::replace(&mut self.inner().is_awake, true)
    }

    pub(super) fn is_awake(&self) -> bool {
        self.inner().is_awake
    }

    /// Takes an actor out of memory, unless a message came for it.
    pub(super) fn leave(&self, id: &RunId, mailbox: &mut mpsc::UnboundedReceiver<Mail>) -> bool {
        let mut inner = self.inner();
        // Messages are sent under the same lock, so none can come after this look.
        if !mailbox.is_empty() {
            return false;
        }
        mailbox.close();
        inner.seats.remove(id);
        true
    }

    /// Takes an actor out of memory whose task is over; messages for it stay in its mailbox.
    pub(super) fn remove(&self, id: &RunId, mailbox: &mut mpsc::UnboundedReceiver<Mail>) {
        let mut inner = self.inner();
        mailbox.close();
        inner.seats.remove(id);
    }

    pub(crate) fn is_resident(&self, id: &RunId) -> bool {
        self.inner().seats.contains_key(id)
    }

    /// Whether an actor is in memory, and is not only about to be: another engine may still have it.
    pub(super) fn is_loaded(&self, id: &RunId) -> bool {
        let inner = self.inner();
        let seat = inner.seats.get(id);
        seat.is_some_and(|seat| seat.committed.borrow().is_some())
    }

    /// Those that wait for an actor which another engine has may try again.
    pub(crate) fn try_again(&self) {
        self.freed.notify_waiters();
    }

    /// Tells every actor that others may have it by now.
    pub(crate) fn lose_leases(&self) {
        for seat in self.inner().seats.values() {
            drop(seat.mailbox.send(Mail::LeaseLost));
        }
    }

    /// Tells every actor to stop; none comes into memory any more.
    pub(crate) fn shut_down(&self) {
        let mut inner = self.inner();
        inner.is_closed = true;
        for seat in inner.seats.values() {
            drop(seat.mailbox.send(Mail::ShutDown));
        }
    }
}

impl Residents {
    /// The runtime has ended, and the tasks of actors with it: tells those who wait for a state. Callers are told by the end of
    /// their channel.
    pub(crate) fn runtime_ended(&self) {
        let seats = {
            let mut inner = self.inner();
            inner.is_closed = true;
            std::mem::take(&mut inner.seats)
        };
        for seat in seats.into_values() {
            seat.committed.send_if_modified(|committed| {
                let is_first = committed.is_none();
                if is_first {
                    *committed = Some(Err(Error::RuntimeEnded));
                }
                is_first
            });
        }
    }
}

impl Shared {
    /// The seat of an actor, which is taken into memory if it is not there; it is told `mail`.
    pub(super) fn actor(
        self: &Arc<Self>,
        def: &'static ActorDef,
        id: &RunId,
        mail: Option<Mail>,
    ) -> Result<Arc<Seat>> {
        let mut inner = self.actors.inner();
        if inner.is_closed {
            return Err(self.over());
        }
        let mut is_new = false;
        let seat = match inner.seats.get(id) {
            Some(seat) => Arc::clone(seat),
            None => {
                let (mailbox, mails) = mpsc::unbounded_channel();
                let seat = Arc::new(Seat {
                    mailbox,
                    committed: watch::Sender::new(None),
                });
                inner.seats.insert(id.clone(), Arc::clone(&seat));
                let task = Task::new(Arc::clone(self), def, id.clone(), Arc::clone(&seat), mails);
                let span = tracing::info_span!("actor", actor = %id);
                self.spawn(tracing::Instrument::instrument(task.drive(), span));
                if seat.mailbox.is_closed() {
                    // The engine's runtime has refused the task.
                    inner.seats.remove(id);
                    return Err(self.over());
                }
                is_new = true;
                seat
            }
        };
        // One that comes into memory looks into its inbox anyway.
        if let Some(mail) = mail.filter(|mail| !(is_new && matches!(mail, Mail::Inbox))) {
            // Under the lock, so that an actor that is leaving is not told anything.
            drop(seat.mailbox.send(mail));
        }
        Ok(seat)
    }

    /// Wakes what is due.
    pub(crate) fn wake(self: &Arc<Self>, id: RunId) {
        let kind = id.parts().next().map(str::to_owned);
        match kind.as_deref() {
            None => self.unpark(id, None),
            Some(_) if !self.actors.is_awake() => {}
            Some(super::NAMESPACE) if self.is_left_to_others(&id) => {}
            Some(super::NAMESPACE) if self.is_shared() => self.wake_if_free(id),
            Some(super::NAMESPACE) => self.wake_actor(&id),
            #[cfg(feature = "schedules")]
            Some(crate::schedule::NAMESPACE) => self.wake_schedule(id),
            // A later version of keepstep knows what it is.
            Some(_) => {}
        }
    }

    /// Takes an actor into memory that has something to do, unless another engine has it.
    pub(crate) fn wake_if_free(self: &Arc<Self>, id: RunId) {
        if self.actors.is_resident(&id) {
            return self.tell_inbox(&id);
        }
        let shared = Arc::clone(self);
        self.spawn(async move {
            match shared.storage.record(&id).await {
                Ok(Some(record)) if record.owner.is_none_or(|owner| owner == shared.node) => {
                    shared.wake_actor(&id);
                }
                Ok(_) => {}
                Err(error) => {
                    let again_in = shared.wake_again(&id, Growth::OF_READS);
                    tracing::warn!(actor = %id, %error, ?again_in, "actor could not be read; trying again");
                }
            }
        });
    }

    /// A message was put into an actor's inbox here, on a store that others share: those that have the actor are told by it, and
    /// workers if nobody has.
    pub(super) fn post_to(self: &Arc<Self>, id: &RunId) {
        if self.actors.is_resident(id) {
            self.tell_inbox(id);
        } else if self.is_worker() {
            self.wake_if_free(id.clone());
        }
    }

    /// An actor that is in memory may have mail.
    fn tell_inbox(&self, id: &RunId) {
        if let Some(seat) = self.actors.inner().seats.get(id) {
            drop(seat.mailbox.send(Mail::Inbox));
        }
    }

    /// Gives an actor up that another engine wants.
    pub(crate) fn hand_over(self: &Arc<Self>, id: &RunId) {
        if let Some(seat) = self.actors.inner().seats.get(id) {
            self.actors.waits.is_wanted(id, self.clock.instant());
            return drop(seat.mailbox.send(Mail::HandOver));
        }
        let (shared, id) = (Arc::clone(self), id.clone());
        self.spawn(async move {
            let record = shared.storage.record(&id).await.ok().flatten();
            let record = record.filter(|record| {
                record.kind == RunKind::Actor && record.owner == Some(shared.node)
            });
            if let Some(record) = record
                && !shared.actors.is_resident(&id)
            {
                // Whoever wants it asks again if this fails.
                drop(shared.storage.release(&[(id, record.epoch)]).await);
            }
        });
    }

    /// Waits until an actor may have been given up, or a little.
    pub(super) async fn until_freed(&self, pause: Duration) {
        tokio::select! {
            () = self.actors.freed.notified() => {}
            () = self.clock.sleep(pause) => {}
            () = self.halted.cancelled() => {}
        }
    }

    /// Takes an actor into memory that has something to do.
    pub(super) fn wake_actor(self: &Arc<Self>, id: &RunId) {
        let parts: Vec<&str> = id.parts().collect();
        let [_, name, _] = parts[..] else { return };
        match actors().ok().and_then(|actors| actors.get(name)) {
            Some(def) => drop(self.actor(def, id, None)),
            None => {
                tracing::warn!(actor = %id, "this program has no such actor; what it is to do waits for one that has");
            }
        }
    }

    /// Looks for what actors and schedules have to do, once: an earlier opening of the store may have left something over.
    pub(crate) fn awaken(self: &Arc<Self>) {
        if !self.actors.be_awake() {
            return;
        }
        self.look_up_timers();
        #[cfg(feature = "schedules")]
        self.look_after_schedules();
        let shared = Arc::clone(self);
        self.spawn(async move {
            while let Err(error) = shared.wake_unread().await {
                if shared.is_closing() {
                    return;
                }
                tracing::warn!(%error, "could not look up inboxes; trying again");
                shared.clock.sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// As [`awaken`](Self::awaken), if there are actors or schedules at all, and says so if the store fails.
    pub(crate) async fn awaken_if_needed(self: &Arc<Self>) -> Result<()> {
        if self.actors.is_awake() {
            return Ok(());
        }
        for (kind, namespace) in [
            (RunKind::Actor, super::NAMESPACE),
            (RunKind::Schedule, super::SCHEDULES),
        ] {
            let prefix = RunId::prefix_of_parts(&[namespace]);
            let first = self.storage.list_by_id(kind, &prefix, None, 1).await?;
            if !first.is_empty() {
                if self.actors.be_awake() {
                    self.look_up_timers();
                    #[cfg(feature = "schedules")]
                    self.look_after_schedules();
                    self.wake_unread().await?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Wakes every actor with something in its inbox.
    async fn wake_unread(self: &Arc<Self>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.storage.unread(after.as_ref(), PAGE).await?;
            // Ids of actors come before those of users.
            let actors = page
                .iter()
                .take_while(|id| id.parts().next() == Some(super::NAMESPACE));
            actors.for_each(|id| self.wake(id.clone()));
            after = match page.last() {
                Some(last) if page.len() == PAGE && last.parts().next().is_some() => {
                    Some(last.clone())
                }
                _ => return Ok(()),
            };
            while self.actors.are_many() && !self.halted.is_cancelled() {
                self.clock.sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
