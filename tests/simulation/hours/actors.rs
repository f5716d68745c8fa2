//! What the simulations of hours have beside programs: an actor that counts, and bodies that are bad for their process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::store::Wire;

/// What an engine gives to these bodies.
#[derive(Debug, Clone)]
pub(crate) struct Harm {
    pub(crate) engine: usize,
    pub(crate) wire: Arc<Wire>,
    pub(crate) done: Arc<Done>,
}

/// What these bodies did, on whatever engine.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Engines whose process is to end.
    doomed: Mutex<Vec<usize>>,
    pub(crate) has_doomed: Notify,
    pub(crate) n_bombs: AtomicU64,
    pub(crate) n_blocks: AtomicU64,
    pub(crate) n_adds: AtomicU64,
}

impl Done {
    fn ends(&self, engine: usize) {
        self.n_bombs.fetch_add(1, Ordering::Relaxed);
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        doomed.push(engine);
        self.has_doomed.notify_one();
    }

    pub(crate) fn take_doomed(&self) -> Vec<usize> {
        std::mem::take(&mut *self.doomed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ends its process, each time.
#[step(name = "bomb", retries = 5)]
pub(crate) async fn bomb(#[resource] harm: &Harm) -> u64 {
    harm.done.ends(harm.engine);
    std::future::pending().await
}

/// Keeps its process from renewing leases for longer than one lasts.
#[step(name = "block", retries = 5)]
pub(crate) async fn block(secs: u64, #[resource] harm: &Harm) -> u64 {
    harm.done.n_blocks.fetch_add(1, Ordering::Relaxed);
    let time = std::time::Duration::from_secs(secs);
    // Nobody can stop it: renewals go on when it has ended, also if the engine has given its run up by then.
    harm.wire.hold_renewals(time);
    tokio::time::sleep(time).await;
    secs
}

/// Adds up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tally {
    sum: u64,
}

#[virtual_actor(name = "tally")]
impl Tally {
    pub(crate) fn new() -> Self {
        Self { sum: 0 }
    }

    pub(crate) async fn add(&mut self, n: u64, #[resource] harm: &Harm) -> u64 {
        harm.done.n_adds.fetch_add(1, Ordering::Relaxed);
        self.sum += n;
        self.sum
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }
}

/// The tally of all.
pub(crate) struct TallyHost;

impl TallyHost {
    pub(crate) async fn get_or_create(engine: &keepstep::Engine) -> keepstep::Result<TallyRef> {
        Tally::on(engine).get_or_create("tally").await
    }
}
