//! Waking runs that wait outside memory: those whose time is near are kept in order, the others stay in the store's index;
//! those that have mail at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{RunId, RunKind, Timestamp};
use tokio::sync::mpsc;
use tracing::warn;

use crate::engine::Shared;

/// Times within this are kept in memory, and looked up in the store once in half of it.
const HORIZON: Duration = Duration::from_secs(120);
/// How many due runs are read from the store at a time.
const PAGE: usize = 10_000;

/// What is to be woken.
#[derive(Debug)]
pub(crate) enum Wake {
    /// This one, at this time.
    At(Timestamp, RunId),
    /// This run, because it has mail.
    Mail(RunId),
    /// Whatever the store says is due.
    LookUp,
}

/// Wakes runs until the engine halts.
pub(crate) async fn run_timers(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Wake>) {
    let mut near: BTreeSet<(Timestamp, RunId)> = BTreeSet::new();
    // Whether the store may know of runs that are not in `near`.
    let mut has_far = false;
    let mut next_lookup = Timestamp::MAX;
    loop {
        let next = near
            .first()
            .map_or(Timestamp::MAX, |(due_at, _)| *due_at)
            .min(next_lookup);
        tokio::select! {
            // In one order, so that a simulation can be repeated. Due runs are looked for after each turn, so none starves.
            biased;
            request = requests.recv() => {
                let now = shared.clock.timestamp();
                match request {
                    None => return,
                    Some(Wake::Mail(run)) => shared.mail_arrived(run),
                    Some(Wake::LookUp) => (has_far, next_lookup) = (true, Timestamp(0)),
                    Some(Wake::At(due_at, run)) if due_at <= now.after(HORIZON) => {
                        near.insert((due_at, run));
                    }
                    Some(Wake::At(..)) => {
                        has_far = true;
                        next_lookup = next_lookup.min(now.after(HORIZON / 2));
                    }
                }
            }
            () = shared.clock.sleep_towards(next), if next < Timestamp::MAX => {}
            () = shared.halted.cancelled() => return,
        }
        let now = shared.clock.timestamp();
        if has_far && next_lookup <= now {
            next_lookup = now.after(HORIZON / 2);
            for kind in [RunKind::Workflow, RunKind::Actor, RunKind::Schedule] {
                match shared.storage.due(kind, now.after(HORIZON), PAGE).await {
                    Ok(due) => {
                        if due.len() == PAGE {
                            // Once these are woken, the next ones are read.
                            next_lookup = now.after(Duration::from_secs(1));
                        }
                        near.extend(due);
                    }
                    Err(error) => {
                        warn!(%error, "could not look up timers; trying again");
                        next_lookup = now.after(Duration::from_secs(1));
                    }
                }
            }
        }
        while let Some((due_at, run)) = near.first()
            && *due_at <= now
        {
            shared.wake(run.clone());
            near.pop_first();
        }
    }
}
