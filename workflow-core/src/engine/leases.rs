//! Renewing the leases of an engine on a store that it shares with others.
//!
//! That is done on a thread with a runtime of its own, over a connection that lives there: bodies of steps run on the
//! user's runtime, and one that blocks its thread must end no lease. The thread also looks whether anything runs on
//! the user's runtime, and says so if nothing does. With a clock of tokio's, which only the user's runtime has, a task
//! does it there.

#![expect(
    clippy::disallowed_methods,
    reason = "a lease is measured by tokio's monotonic clock, and its thread and tasks are no run's"
)]

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use keepstep_storage::{NodeId, Storage, StorageError, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::cluster::AGAIN_AFTER;
use super::shared::Shared;
use crate::clock::later;
use crate::error::{Error, Result};

/// How often it is looked whether anything runs on the user's runtime.
const LOOK_AT_RUNTIME_EVERY: Duration = Duration::from_secs(1);
/// How many looks go by before a runtime counts as blocked.
const LOOKS_UNTIL_BLOCKED: u32 = 5;

type Renewed<T> = std::result::Result<T, StorageError>;

/// Where the leases are told to end.
#[derive(Debug, Default)]
pub(super) struct Leases {
    end: Mutex<Option<oneshot::Sender<oneshot::Sender<Renewed<()>>>>>,
    /// Whether they have ended and were not renewed since.
    are_lost: AtomicBool,
}

impl Leases {
    /// Takes the first lease, and has it renewed until the engine halts, its runtime ends, or the leases are to end.
    pub(super) async fn begin(&self, shared: &Arc<Shared>) -> Result<()> {
        let (end, ends) = oneshot::channel();
        let (begun, first) = oneshot::channel();
        let keeper = Keeper {
            shared: Arc::downgrade(shared),
            storage: Arc::clone(&shared.storage),
            node: shared.node,
            lease: shared.lease(),
            runtime: Handle::current(),
            halted: shared.halted.clone(),
        };
        if shared.clock.is_tokios() {
            tokio::spawn(async move { keeper.keep(begun, ends).await });
        } else {
            keeper.start_thread(begun, ends)?;
        }
        first.await.map_err(|_| Error::ShutDown)??;
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        Ok(())
    }

    /// Ends them. No renewal comes after that.
    pub(super) async fn end(&self, storage: &dyn Storage, node: NodeId) -> Renewed<()> {
        let end = { self.end.lock().unwrap_or_else(PoisonError::into_inner) }.take();
        if let Some(end) = end {
            let (reply, ended) = oneshot::channel();
            if end.send(reply).is_ok()
                && let Ok(ended) = ended.await
            {
                return ended;
            }
        }
        // Nobody renews them any more.
        storage.renew(node, Duration::ZERO).await.map(drop)
    }

    /// Whether what is taken up now would be left again soon, since no renewal is answered.
    pub(super) fn are_lost(&self) -> bool {
        self.are_lost.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Notes whether there are leases; whether there were.
    fn has_leases(&self, has_leases: bool) -> bool {
        let are_lost = |cluster: &super::cluster::Cluster| {
            cluster.leases.are_lost.swap(!has_leases, Ordering::SeqCst)
        };
        !self.cluster.as_ref().is_some_and(are_lost)
    }
}

/// What renews the leases.
struct Keeper {
    /// Not held: whoever drops the engine last drops what its user gave it, and that is not for this thread.
    shared: Weak<Shared>,
    storage: Arc<dyn Storage>,
    node: NodeId,
    lease: Duration,
    /// Where the engine's tasks run.
    runtime: Handle,
    halted: CancellationToken,
}

/// A lease that was taken.
struct Lease {
    /// When all that relies on it has to stop: it lasts until then at least.
    ends_at: Instant,
    /// Since when there was no gap, as the store says.
    since: Timestamp,
    is_lost: bool,
}

impl Keeper {
    fn start_thread(
        self,
        begun: oneshot::Sender<Renewed<()>>,
        ends: oneshot::Receiver<oneshot::Sender<Renewed<()>>>,
    ) -> Renewed<()> {
        let failed = |error| StorageError::Io {
            operation: "start",
            path: "the thread that renews leases".into(),
            source: Arc::new(error),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let keep = move || {
            // Dropped last, and where a store may block.
            let _storage = Arc::clone(&self.storage);
            runtime.block_on(async move {
                tokio::select! {
                    () = self.until_runtime_ends() => {}
                    () = self.keep(begun, ends) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("keepstep-leases".to_owned());
        thread.spawn(keep).map(drop).map_err(failed)
    }

    /// Takes the first lease and renews it, until it is to end.
    async fn keep(
        &self,
        begun: oneshot::Sender<Renewed<()>>,
        ends: oneshot::Receiver<oneshot::Sender<Renewed<()>>>,
    ) {
        let asked_at = Instant::now();
        let since = match self.storage.renew(self.node, self.lease).await {
            Ok(since) => since,
            Err(error) => return drop(begun.send(Err(error))),
        };
        if begun.send(Ok(())).is_err() {
            return;
        }
        let lease = Lease {
            ends_at: later(asked_at, self.lease),
            since,
            is_lost: false,
        };
        let ended = async {
            match ends.await {
                Ok(ended) => ended,
                // The engine was dropped, which halts it.
                Err(_) => pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = ended => ended,
            () = self.halted.cancelled() => return,
            () = self.renew(lease, asked_at) => return,
        };
        let renewed = self.storage.renew(self.node, Duration::ZERO).await;
        drop(ended.send(renewed.map(drop)));
    }

    /// Renews a lease, for ever. When it has ended, so does all that relies on it.
    async fn renew(&self, mut lease: Lease, renewed_at: Instant) {
        // Two renewals may fail.
        let interval = self.lease / 3;
        let mut next = later(renewed_at, interval);
        loop {
            sleep_until(next).await;
            // Before anything is asked of the store: this process may have been stopped for long.
            let now = Instant::now();
            if now >= lease.ends_at {
                lease.is_lost = true;
                // A claim takes a lease, too: what is taken up from here on stops before that one ends.
                lease.ends_at = later(now, self.lease);
                self.lose_leases();
            }
            let asked_at = Instant::now();
            let renewal = self.storage.renew(self.node, self.lease);
            let Ok(renewed) = timeout_at(lease.ends_at, renewal).await else {
                next = lease.ends_at;
                continue;
            };
            match renewed {
                Ok(since) => {
                    // A machine that stood still as a whole did not notice how long that was. The store did.
                    if since != lease.since && !lease.is_lost {
                        self.lose_leases();
                        lease.is_lost = true;
                    }
                    if lease.is_lost {
                        tracing::info!("the leases of this engine are renewed");
                        if let Some(shared) = self.shared.upgrade() {
                            let _runtime = self.runtime.enter();
                            shared.has_leases(true);
                            shared.give_up_lost();
                            shared.may_work();
                        }
                    }
                    lease = Lease {
                        ends_at: later(asked_at, self.lease),
                        since,
                        is_lost: false,
                    };
                    next = later(asked_at, interval);
                }
                Err(error) => {
                    tracing::warn!(%error, "could not renew the leases of this engine's runs");
                    next = Instant::now() + AGAIN_AFTER.min(interval);
                }
            }
        }
    }

    fn lose_leases(&self) {
        if let Some(shared) = self.shared.upgrade() {
            let _runtime = self.runtime.enter();
            // While no renewal is answered, this comes again: what was taken up with another lease stops, too.
            if shared.has_leases(false) {
                tracing::warn!(
                    "the leases of this engine have ended; its runs go on where they are taken up"
                );
            }
            shared.lose_leases();
        }
    }

    /// Waits until the runtime of the engine has ended: then nothing of it goes on, and others may have its runs. Says
    /// so if nothing runs there for long, which ends no lease.
    async fn until_runtime_ends(&self) {
        loop {
            let (answer, mut answered) = oneshot::channel();
            // A runtime that has ended drops it.
            self.runtime.spawn(async move { _ = answer.send(()) });
            let asked_at = Instant::now();
            // In several looks: a process that was stopped wakes up with all of its times past.
            let mut looks = 0;
            let answered = loop {
                tokio::select! {
                    biased;
                    answered = &mut answered => break answered,
                    () = sleep(LOOK_AT_RUNTIME_EVERY) => {}
                }
                looks += 1;
                if looks == LOOKS_UNTIL_BLOCKED {
                    tracing::warn!(
                        "nothing has run on this engine's runtime for {LOOKS_UNTIL_BLOCKED} s: something blocks its threads, such as \
                         a body that sleeps or computes in an `async fn`. Runs, timers and messages wait for it. Make such a step a \
                         plain `fn`, or use `spawn_blocking`"
                    );
                }
            };
            if answered.is_err() {
                return;
            }
            if looks >= LOOKS_UNTIL_BLOCKED {
                let seconds = asked_at.elapsed().as_secs();
                tracing::warn!(
                    "this engine's runtime goes on, after {seconds} s in which nothing ran on it"
                );
            }
            sleep(LOOK_AT_RUNTIME_EVERY).await;
        }
    }
}
