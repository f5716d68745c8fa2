//! What an engine does on a store that it shares with others: it keeps its leases, takes up runs that nobody owns, and hears of
//! what others do.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{Notice, RunId, RunKind, RunRecord, Timestamp};
use tokio::sync::{Notify, mpsc};

use super::leases::Leases;
use super::resume::Begun;
use super::shared::{SeatState, Shared};
use super::{Engine, elsewhere};
use crate::clock::later;
use crate::error::{Error, Result};
use crate::executor::RunMessage;

/// How many runs are taken up at a time.
const CLAIMED_AT_ONCE: usize = 128;
/// How often it is looked for what no notice told of: each is lost only with its connection.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long after a failure of the store it is tried again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// After how long times are looked up again that others may have left: many come together.
const LOOK_UP_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How many inboxes are looked up at a time.
const UNREAD_PAGE: usize = 1_000;
/// A run that this program cannot go on with is left to others for so long.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(60);
/// How many of those are told to the store.
const MOST_LEFT: usize = 10_000;

/// What the tasks of a cluster are told by others of the engine.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Whether runs are executed here, and not only submitted.
    pub(super) is_worker: bool,
    pub(super) lease: Duration,
    pub(super) leases: Leases,
    /// There may be something to take up, and a place for it.
    pub(super) may_work: Notify,
    /// Runs that others own and somebody here waits for.
    to_look_at: mpsc::UnboundedSender<RunId>,
}

impl Cluster {
    pub(super) fn new(is_worker: bool, lease: Duration) -> (Self, mpsc::UnboundedReceiver<RunId>) {
        let (to_look_at, looks) = mpsc::unbounded_channel();
        let cluster = Self {
            is_worker,
            lease,
            leases: Leases::default(),
            may_work: Notify::new(),
            to_look_at,
        };
        (cluster, looks)
    }
}

impl Shared {
    /// Whether others share the store.
    pub(crate) fn is_shared(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether runs that nobody owns are taken up here without anybody's asking.
    pub(super) fn takes_up_runs(&self) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|cluster| cluster.is_worker)
    }

    /// Whether this engine may execute what it is given.
    pub(crate) fn is_worker(&self) -> bool {
        self.cluster
            .as_ref()
            .is_none_or(|cluster| cluster.is_worker)
    }

    /// Whether the leases have ended and were not renewed since.
    pub(super) fn has_lost_leases(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.leases.are_lost())
    }

    pub(crate) fn lease(&self) -> Duration {
        let cluster = self.cluster.as_ref();
        cluster.map_or(super::resume::LEASE, |cluster| cluster.lease)
    }

    /// There is something to take up, or a place for it.
    pub(super) fn may_work(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.may_work.notify_one();
        }
    }

    /// Has a run looked at that another engine owns and somebody here waits for.
    pub(super) fn look_at(&self, id: &RunId) {
        if let Some(cluster) = &self.cluster {
            drop(cluster.to_look_at.send(id.clone()));
        }
    }

    /// Does not take a run or an actor up for a while; from when on it may.
    pub(crate) fn leave_to_others(&self, id: &RunId) -> Timestamp {
        let until = self.clock.after(LEFT_TO_OTHERS);
        self.roster().left_to_others.insert(id.clone(), until);
        self.clock.timestamp().after(LEFT_TO_OTHERS + AGAIN_AFTER)
    }

    pub(crate) fn is_left_to_others(&self, id: &RunId) -> bool {
        let roster = self.roster();
        let until = roster.left_to_others.get(id);
        until.is_some_and(|until| *until > self.clock.instant())
    }

    /// Another engine could not go on with a run, or an actor: this one may.
    fn declined_elsewhere(self: &Arc<Self>, id: RunId) {
        if !self.takes_up_runs() || self.is_left_to_others(&id) {
            return;
        }
        let is_actor = id.parts().next() == Some(crate::actor::NAMESPACE);
        match is_actor {
            true => self.wake_if_free(id),
            false => self.may_work(),
        }
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.clock.sleep(pause) => {}
            () = self.halted.cancelled() => {}
        }
    }
}

/// Starts the tasks of an engine on a shared store, once it has a lease.
#[expect(
    clippy::disallowed_methods,
    reason = "they are no run's, and end when the engine halts"
)]
pub(super) async fn start(
    shared: &Arc<Shared>,
    looks: mpsc::UnboundedReceiver<RunId>,
) -> Result<()> {
    if let Some(cluster) = &shared.cluster {
        cluster.leases.begin(shared).await?;
    }
    let tasks = [
        tokio::spawn(hear(Arc::clone(shared))),
        tokio::spawn(elsewhere::look(Arc::clone(shared), looks)),
        tokio::spawn(crate::actor::watch(Arc::clone(shared))),
    ];
    drop(tasks);
    if shared.takes_up_runs() {
        shared.awaken();
        tokio::spawn(work(Arc::clone(shared)));
    }
    Ok(())
}

impl Shared {
    /// Stops everything that is in execution: others may have it by now, and what they do must not be done twice.
    pub(super) fn lose_leases(self: &Arc<Self>) {
        let mut parked = Vec::new();
        {
            let roster = self.roster();
            for (id, (state, seat)) in &roster.seats {
                match state {
                    SeatState::Active(messages, _) => drop(messages.send(RunMessage::LeaseLost)),
                    SeatState::Parked => parked.push((id.clone(), Arc::clone(seat))),
                    SeatState::Queued(..) | SeatState::Remote => {}
                }
            }
        }
        for (id, seat) in parked {
            self.goes_on_elsewhere(&id, &seat);
        }
        self.actors.lose_leases();
        self.remote.lose_leases();
    }
}

/// Takes up runs that nobody owns, as long as there are places.
async fn work(shared: Arc<Shared>) {
    let Some(cluster) = &shared.cluster else {
        return;
    };
    let engine = Engine::detached(Arc::clone(&shared));
    let mut is_answered = true;
    loop {
        let may_be_more = match engine.take_up_some(&mut is_answered).await {
            Ok(may_be_more) => may_be_more,
            Err(Error::ShutDown | Error::RuntimeEnded) => return,
            Err(error) => {
                tracing::warn!(%error, "could not look for runs that nobody owns; trying again");
                shared.pause(AGAIN_AFTER).await;
                true
            }
        };
        if may_be_more {
            if shared.roster().left_to_others.len() > MOST_LEFT {
                // The store is not told of all that are left, and gives them to this engine time and again.
                shared.pause(AGAIN_AFTER).await;
            }
            continue;
        }
        tokio::select! {
            // In one order, so that a simulation can be repeated.
            biased;
            () = shared.halted.cancelled() => return,
            () = cluster.may_work.notified() => {}
            () = shared.clock.sleep(LOOK_EVERY) => {
                if shared.roster().slots.n_free() == 0 {
                    // What only waits needs no slot, and may have lost its owner.
                    shared.look_up_timers();
                }
            }
        }
    }
}

impl Engine {
    /// Takes up runs that nobody owns, at most as many as there are slots for; whether there may be more. `is_answered`: whether it is
    /// known what the last claim came to.
    async fn take_up_some(&self, is_answered: &mut bool) -> Result<bool> {
        let shared = &self.shared;
        // A shutdown waits until what was claimed is in memory or handed back: it releases all of it, and closes the store.
        let _claiming = shared.tasks.token();
        if let Some(cluster) = &shared.cluster
            && cluster.leases.are_lost()
        {
            // The renewal that succeeds says that there may be work.
            return Ok(false);
        }
        let free = {
            let mut roster = shared.roster();
            if roster.is_closed || shared.halted.is_cancelled() {
                return Err(Error::ShutDown);
            }
            let now = shared.clock.instant();
            roster.left_to_others.retain(|_, until| *until > now);
            roster.slots.n_free()
        };
        let wanted = free.min(CLAIMED_AT_ONCE);
        if wanted == 0 {
            return Ok(false);
        }
        let except: Vec<RunId> = {
            let roster = shared.roster();
            roster
                .left_to_others
                .keys()
                .take(MOST_LEFT)
                .cloned()
                .collect()
        };
        let kind = RunKind::Workflow;
        // The store says that they are this engine's before it is known here: mail and calls that come meanwhile find it so.
        shared.locks.watch();
        let claiming =
            shared
                .storage
                .claim_free(kind, &except, shared.node, shared.lease(), wanted);
        let claimed = claiming.await;
        // If that failed some may have been claimed, which the next claim tells. Nobody knows who has asked for them since.
        let was_answered = std::mem::replace(is_answered, claimed.is_ok());
        let mut claimed = claimed.inspect_err(|_| shared.locks.unwatch())?;
        let n = claimed.len();
        {
            let mut roster = shared.roster();
            for listed in &mut claimed {
                roster.note_orphan(&listed.run, &mut listed.record);
            }
        }
        if n > 0 {
            tracing::debug!(n, "took up runs that nobody owned");
        }
        shared.lose(claimed.iter().map(|listed| &listed.run));
        let taking_up = claimed
            .into_iter()
            .map(|listed| self.take_up_claimed(listed.run, listed.record, was_answered));
        futures_util::future::join_all(taking_up).await;
        shared.locks.unwatch();
        // There may be more: what only waits has left the slots free, and a claim passes over what somebody has locked at
        // that moment, unless that is all there is.
        Ok(n > 0)
    }

    /// What a run is now that was claimed; `None` if it is taken care of, by this engine or another. The caller holds its lock.
    async fn claimed_still(&self, id: &RunId) -> Result<Option<RunRecord>> {
        let shared = &self.shared;
        let record = shared.storage.record(id).await?;
        let mut roster = shared.roster();
        let is_driven = matches!(
            roster.seats.get(id),
            Some((SeatState::Active(..) | SeatState::Queued(..), _))
        );
        let is_mine =
            |record: &RunRecord| record.owner == Some(shared.node) && record.status.is_active();
        let record = record.filter(|record| !is_driven && is_mine(record));
        if record.is_none() {
            roster.lost.remove(id);
        }
        Ok(record)
    }

    /// Goes on with a run that was claimed because nobody owned it. `was_answered`: by the last claim, and not by one before it.
    async fn take_up_claimed(&self, id: RunId, record: RunRecord, was_answered: bool) {
        let shared = &self.shared;
        let (_lock, is_first) = shared.locks.lock_first(&id).await;
        let mut epoch = record.epoch;
        if shared.roster().left_to_others.contains_key(&id) {
            // It was left while the claim was under way.
            return shared.give_up(id);
        }
        let begun = async {
            let record = if is_first && was_answered {
                record
            } else {
                match self.claimed_still(&id).await? {
                    Some(record) => record,
                    None => return Ok(()),
                }
            };
            epoch = record.epoch;
            match self.begin(&id, record, shared.take_slot_here()).await? {
                Begun::Here(_) => Ok(()),
                // Another run took the last slot while the claim was under way. Kept here, this one would wait for it
                // while other workers are idle.
                Begun::NoSlot(_) => {
                    shared.give_up(id.clone());
                    Ok(())
                }
            }
        };
        let begun = begun.await;
        match begun {
            Ok(()) => {}
            Err(Error::ShutDown | Error::RuntimeEnded) => {
                shared.roster().to_release.push((id, epoch))
            }
            Err(Error::Storage(error)) if error.is_retryable() => shared.give_up(id),
            Err(error) => {
                tracing::warn!(run = %id, %error, "run could not be taken up; it is left to others for a while");
                shared.leave_to_others(&id);
                shared.give_up(id);
            }
        }
    }
}

/// Does what others' doings ask for, until the engine halts.
async fn hear(shared: Arc<Shared>) {
    let mut looked_up_at = shared.clock.instant();
    let mut is_to_look_up = false;
    loop {
        let notices = tokio::select! {
            // In one order, so that a simulation can be repeated.
            biased;
            () = shared.halted.cancelled() => return,
            () = shared.clock.sleep_until(later(looked_up_at, LOOK_UP_AGAIN_AFTER)), if is_to_look_up => {
                (is_to_look_up, looked_up_at) = (false, shared.clock.instant());
                shared.look_up_timers();
                continue;
            }
            notices = shared.storage.notices() => notices,
        };
        for notice in notices {
            match notice {
                Notice::Mail(run) => shared.mail_from_elsewhere(run),
                Notice::Changed(run) => shared.look_at(&run),
                Notice::Wanted(run) => shared.hand_over(&run),
                Notice::Free => {
                    shared.may_work();
                    shared.actors.try_again();
                    // It may wait for a time.
                    is_to_look_up = shared.is_worker();
                }
                Notice::Declined(run) => shared.declined_elsewhere(run),
                Notice::Tasks(pool) => shared.remote.may_take(&pool),
                Notice::Done(tasks) => shared.remote.look_at(tasks),
                Notice::Withdrawn(tasks) => shared.remote.withdrawn(&tasks),
                Notice::Missed => {
                    shared.remote.look_at_all();
                    shared.may_work();
                    shared.actors.try_again();
                    shared.look_at_all();
                    if shared.is_worker() {
                        shared.look_up_timers();
                    }
                    while let Err(error) = shared.look_up_mail().await {
                        if shared.is_closing() {
                            return;
                        }
                        tracing::warn!(%error, "could not look up inboxes; trying again");
                        shared.pause(AGAIN_AFTER).await;
                    }
                }
            }
        }
    }
}

impl Shared {
    fn mail_from_elsewhere(self: &Arc<Self>, run: RunId) {
        if run.parts().next().is_some() {
            if self.is_worker() || self.actors.is_resident(&run) {
                self.wake_if_free(run);
            }
        } else {
            self.mail_arrived(run);
        }
    }

    /// Tells every run and actor here of its mail: it is not known who has got some.
    async fn look_up_mail(self: &Arc<Self>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.storage.unread(after.as_ref(), UNREAD_PAGE).await?;
            after = page.last().filter(|_| page.len() == UNREAD_PAGE).cloned();
            for run in page {
                self.mail_from_elsewhere(run);
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
