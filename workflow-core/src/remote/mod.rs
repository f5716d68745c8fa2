//! Remote steps: executions that the owner of a run offers to every worker, instead of running them itself.
//!
//! The *desk* is the owner's side: it offers what runs ask for, hands them the results, and takes away what nobody needs any more. The
//! *worker* takes tasks of its pools for which this engine has places, executes them, and puts their results in. Between them stands
//! the queue: that of the store, or one in memory where the store has none, so that pools and their limits hold in one process, too.
//! The run's state machine knows nothing of it: a result is journaled by the run's owner, wherever it was computed.

mod desk;
mod results;
mod stored;
mod unserved;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keepstep_storage::{
    Epoch, Limit, LocalTasks, MAX_POOL_BYTES, Offer, Removal, Storage, StorageError, TaskId,
    TaskQueue,
};
use tokio::sync::mpsc;

use self::desk::Message;
use self::worker::Worker;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::executor::RunSender;
use crate::registry::{Found, Registry};
use crate::run::StepId;
use crate::step::StepDef;

pub(crate) use stored::{payload, read_payload};
#[cfg(feature = "fuzzing")]
pub(crate) use stored::{read_result, result, sealed};

/// The pool of remote steps that name none.
pub(crate) const DEFAULT_POOL: &str = "default";

/// What the builder of an engine says of remote steps.
#[derive(Debug, Default)]
pub(crate) struct RemoteSettings {
    /// Whether every step is remote that does not say otherwise.
    pub(crate) all_steps: bool,
    /// Whether none is, whatever it says.
    pub(crate) none: bool,
    /// The pools that the engine serves.
    pub(crate) pools: Option<Vec<String>>,
    /// Limits to set, the last of one pool counts.
    pub(crate) limits: Vec<(String, Limit, Option<u32>)>,
}

impl RemoteSettings {
    /// Refuses names that are none.
    pub(crate) fn check(&self) -> Result<()> {
        let limited = self.limits.iter().map(|(pool, ..)| pool);
        let mut names = self.pools.iter().flatten().chain(limited);
        let is_wrong = |name: &&String| {
            name.is_empty() || name.len() > MAX_POOL_BYTES || name.chars().any(char::is_control)
        };
        match names.find(is_wrong) {
            Some(pool) => Err(Error::InvalidPool { pool: pool.clone() }),
            None => Ok(()),
        }
    }
}

/// The remote steps of an engine: those that its runs have offered, and those that it executes.
#[derive(Debug)]
pub(crate) struct Remote {
    all_steps: bool,
    none: bool,
    has_steps: bool,
    limits: Vec<(String, Limit, Option<u32>)>,
    storage: Arc<dyn Storage>,
    /// The queue, if the store has none.
    local: LocalTasks,
    last_ticket: AtomicU64,
    to_desk: mpsc::UnboundedSender<Message>,
    /// What the desk hears, until it is there.
    desk: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
    worker: Worker,
    has_worker: AtomicBool,
}

impl Remote {
    pub(crate) fn new(
        settings: RemoteSettings,
        storage: &Arc<dyn Storage>,
        registry: &Registry,
    ) -> Self {
        let (to_desk, desk) = mpsc::unbounded_channel();
        let is_local = storage.tasks().is_none();
        // Nobody else is there for the other pools.
        let pools = match is_local {
            true => None,
            false => Some(
                settings
                    .pools
                    .unwrap_or_else(|| vec![DEFAULT_POOL.to_owned()]),
            ),
        };
        let is_remote = |found: Found| {
            let options = &found.def.options;
            options.remote == Some(true) || options.pool.is_some()
        };
        let has_remote = registry.calls().any(|(_, _, found)| is_remote(found));
        Self {
            all_steps: settings.all_steps,
            none: settings.none,
            has_steps: !settings.none && (settings.all_steps || has_remote),
            limits: settings.limits,
            storage: Arc::clone(storage),
            local: LocalTasks::default(),
            last_ticket: AtomicU64::new(0),
            to_desk,
            desk: Mutex::new(Some(desk)),
            worker: Worker::new(pools),
            has_worker: AtomicBool::new(false),
        }
    }

    fn queue(&self) -> &dyn TaskQueue {
        self.storage.tasks().unwrap_or(&self.local)
    }

    /// Whether the queue is in memory: nothing of it outlives the process.
    pub(crate) fn is_local(&self) -> bool {
        self.storage.tasks().is_none()
    }

    /// Whether any step of the program may be remote.
    pub(crate) fn has_steps(&self) -> bool {
        self.has_steps
    }

    /// The pool whose workers run a step; `None` if the run's owner does.
    pub(crate) fn pool_of(&self, def: &StepDef) -> Option<&'static str> {
        let options = &def.options;
        if self.none || options.remote == Some(false) {
            return None;
        }
        let by_default = self.all_steps && options.checkpoint && !options.waits;
        let default = (options.remote == Some(true) || by_default).then_some(DEFAULT_POOL);
        options.pool.or(default)
    }

    /// Tells the desk something. Its task may be over: then the engine has halted.
    fn tell_desk(&self, message: Message) {
        drop(self.to_desk.send(message));
    }

    /// Takes away tasks whose results are durable in the journal of their run.
    pub(crate) fn forget(&self, tasks: Vec<TaskId>, epoch: Epoch) {
        let removal = |task| Removal {
            task,
            epoch,
            also_done: true,
        };
        let removals: Vec<_> = tasks.into_iter().map(removal).collect();
        if !removals.is_empty() {
            self.tell_desk(Message::Forget(removals));
        }
    }

    /// There may be tasks to take in this pool.
    pub(crate) fn may_take(&self, pool: &str) {
        if self.worker.serves(pool) {
            self.worker.wake();
        }
    }

    /// These tasks may have results.
    pub(crate) fn look_at(&self, tasks: Vec<TaskId>) {
        self.tell_desk(Message::Done(tasks));
    }

    /// Anything may have happened.
    pub(crate) fn look_at_all(&self) {
        self.tell_desk(Message::LookAtAll);
        self.worker.look();
    }

    /// Nobody needs the results of these tasks any more, which may be executing here.
    pub(crate) fn withdrawn(&self, tasks: &[TaskId]) {
        self.worker.withdrawn(tasks);
    }

    /// Others may have by now what is executing here: it is dropped.
    pub(crate) fn lose_leases(&self) {
        self.worker.drop_all();
    }

    /// Takes nothing more, and gives back what does not end soon.
    pub(crate) fn shut_down(&self) {
        self.worker.shut_down();
    }
}

impl Shared {
    /// Sets the limits that this engine names, and starts to work for the pools of a shared store.
    pub(crate) async fn open_pools(self: &Arc<Self>) -> Result<(), StorageError> {
        for (pool, limit, at_once) in &self.remote.limits {
            let queue = self.remote.queue();
            queue.set_limit(pool, *limit, *at_once).await?;
        }
        if !self.remote.is_local() && self.is_worker() {
            self.start_worker();
        }
        Ok(())
    }

    fn start_worker(self: &Arc<Self>) {
        if !self.remote.has_worker.swap(true, Ordering::SeqCst) {
            worker::start(self);
        }
    }

    /// Offers an execution. The run is told what it came to.
    pub(crate) fn offer(
        self: &Arc<Self>,
        offer: Offer,
        to: RunSender,
        step: StepId,
        execution: u64,
    ) -> Ticket {
        let remote = &self.remote;
        let receiver = { remote.desk.lock().unwrap_or_else(PoisonError::into_inner) }.take();
        if let Some(messages) = receiver {
            desk::start(self, messages);
        }
        if remote.is_local() {
            self.start_worker();
        }
        let number = remote.last_ticket.fetch_add(1, Ordering::Relaxed) + 1;
        remote.tell_desk(Message::Offer(Box::new(desk::Request {
            ticket: number,
            offer,
            to,
            step,
            execution,
        })));
        Ticket {
            number,
            to_desk: Some(remote.to_desk.clone()),
        }
    }

    /// Every name and version of a step that this engine can execute.
    fn executable_calls(&self) -> Vec<(String, u32)> {
        let calls = self.registry.calls();
        let can = calls.filter(|(name, version, found)| {
            self.find_step(name, *version).is_some() && self.check_resources(&[found.def]).is_ok()
        });
        let mut calls: Vec<_> = can.map(|(name, v, _)| (name.to_owned(), v)).collect();
        calls.sort_unstable();
        calls
    }
}

/// An execution that is offered, or under way at some worker. Dropped, it is left to whoever owns the run next.
#[derive(Debug)]
pub(crate) struct Ticket {
    number: u64,
    /// `None` once the desk knows that it is over.
    to_desk: Option<mpsc::UnboundedSender<Message>>,
}

impl Ticket {
    /// Nobody needs the result any more: the run is told when that is durable. A result that is there stays if `keeps_done`.
    pub(crate) fn withdraw(&self, keeps_done: bool) {
        if let Some(to_desk) = &self.to_desk {
            let ticket = self.number;
            drop(to_desk.send(Message::Withdraw { ticket, keeps_done }));
        }
    }

    /// The run has heard of its end.
    pub(crate) fn done(mut self) {
        self.to_desk = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(to_desk) = self.to_desk.take() {
            drop(to_desk.send(Message::Leave(self.number)));
        }
    }
}
