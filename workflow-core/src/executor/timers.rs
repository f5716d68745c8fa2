//! Waking what waits outside memory: what is due next is kept in order, the rest stays in the store's index; what has mail at
//! once. Only so many are being woken at a time, and the others wait their turn here as ids.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{RunId, RunKind, StorageError, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::warn;

use crate::engine::Shared;

/// Times within this are kept in memory, and looked up in the store once in half of it.
const HORIZON: Duration = Duration::from_secs(120);
/// How many due runs of a kind are read from the store at a time.
const PAGE: usize = 2048;
/// How many times are kept in memory; of more, the earliest.
const MAX_NEAR: usize = 4 * PAGE;
/// How many runs are being woken at a time: read, and what was due not yet durable.
pub(crate) const MAX_WAKING: usize = 1024;
/// How many of them are read with one call.
const MAX_READ: usize = 128;

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

type Timer = (Timestamp, RunId);

/// What is due next.
#[derive(Debug, Default)]
struct Near {
    timers: BTreeSet<Timer>,
    /// After this one, the store has more that are due within the horizon.
    read_to: Option<Timer>,
    /// What is to be woken whatever the time.
    at_once: VecDeque<RunId>,
}

impl Near {
    fn insert(&mut self, due_at: Timestamp, run: RunId) {
        self.timers.insert((due_at, run));
        self.stay_bounded();
    }

    /// Leaves to the store what is due late, if there is much.
    fn stay_bounded(&mut self) {
        let is_full = self.timers.len() > MAX_NEAR;
        while self.timers.len() > MAX_NEAR {
            self.timers.pop_last();
        }
        if is_full {
            let last = self.timers.last().cloned();
            self.read_to = earlier(self.read_to.take(), last);
        }
    }

    /// Whether there is room for more that the store has.
    fn wants_more(&self) -> bool {
        self.read_to.is_some() && self.timers.len() <= MAX_NEAR - 3 * PAGE
    }

    /// Reads what is due by `until`: from the beginning, or from where the last reading ended.
    async fn read(
        &mut self,
        shared: &Shared,
        goes_on: bool,
        until: Timestamp,
    ) -> Result<(), StorageError> {
        let after = self.read_to.as_ref().filter(|_| goes_on);
        let mut read = Vec::new();
        let mut read_to = None;
        for kind in [RunKind::Workflow, RunKind::Actor, RunKind::Schedule] {
            let page = shared.storage.due(kind, after, until, PAGE).await?;
            if page.len() == PAGE {
                read_to = earlier(read_to, page.last().cloned());
            }
            read.extend(page);
        }
        self.read_to = read_to;
        self.timers.extend(read);
        self.stay_bounded();
        Ok(())
    }

    /// How many are due, as far as they are read with one call.
    fn n_due(&self, now: Timestamp) -> usize {
        let is_due = |(due_at, _): &&Timer| *due_at <= now;
        let due = self.timers.iter().take(MAX_READ).take_while(is_due);
        (self.at_once.len() + due.count()).min(MAX_READ)
    }

    fn pop(&mut self) -> Option<RunId> {
        let first = self.at_once.pop_front();
        first.or_else(|| Some(self.timers.pop_first()?.1))
    }
}

fn earlier(a: Option<Timer>, b: Option<Timer>) -> Option<Timer> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Wakes runs until the engine halts.
pub(crate) async fn run_timers(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Wake>) {
    let mut near = Near::default();
    // Whether the store may know of runs whose times are further away.
    let mut has_far = false;
    // When all that is due by the horizon is looked up again, and when what is left of that may be.
    let (mut next_lookup, mut next_page) = (Timestamp::MAX, Timestamp(0));
    loop {
        let n_due = near.n_due(shared.clock.timestamp());
        let mut next = near.timers.first().map_or(Timestamp::MAX, |first| first.0);
        next = next.min(next_lookup);
        if near.wants_more() {
            next = next.min(next_page);
        }
        tokio::select! {
            // In one order, so that a simulation can be repeated. What is due is looked for after each turn, so none starves.
            biased;
            request = requests.recv() => {
                let now = shared.clock.timestamp();
                match request {
                    None => return,
                    Some(Wake::Mail(run)) if shared.is_to_be_woken(&run) => {
                        near.at_once.push_back(run);
                    }
                    Some(Wake::Mail(_)) => {}
                    Some(Wake::LookUp) => (has_far, next_lookup) = (true, Timestamp(0)),
                    Some(Wake::At(due_at, run)) if due_at <= now.after(HORIZON) => {
                        near.insert(due_at, run);
                    }
                    Some(Wake::At(..)) => {
                        has_far = true;
                        next_lookup = next_lookup.min(now.after(HORIZON / 2));
                    }
                }
            }
            permits = Arc::clone(&shared.wake_permits).acquire_many_owned(n_due as u32), if n_due > 0 => {
                match permits {
                    Ok(permits) => wake(&shared, &mut near, permits),
                    Err(_) => return,
                }
            }
            () = shared.clock.sleep_towards(next), if n_due == 0 && next < Timestamp::MAX => {}
            () = shared.halted.cancelled() => return,
        }
        let now = shared.clock.timestamp();
        let is_time = has_far && next_lookup <= now;
        if is_time || near.wants_more() && next_page <= now {
            match near.read(&shared, !is_time, now.after(HORIZON)).await {
                Ok(()) if is_time => next_lookup = now.after(HORIZON / 2),
                Ok(()) => {}
                Err(error) => {
                    warn!(%error, "could not look up timers; trying again");
                    next_page = now.after(Duration::from_secs(1));
                    if is_time {
                        next_lookup = next_page;
                    }
                }
            }
        }
        while let n_due @ 1.. = near.n_due(now)
            && let Ok(permits) =
                Arc::clone(&shared.wake_permits).try_acquire_many_owned(n_due as u32)
        {
            wake(&shared, &mut near, permits);
        }
    }
}

/// Wakes as many of what is due as there are permits.
fn wake(shared: &Arc<Shared>, near: &mut Near, mut permits: OwnedSemaphorePermit) {
    let mut due = Vec::with_capacity(permits.num_permits());
    while let Some(permit) = permits.split(1)
        && let Some(run) = near.pop()
    {
        due.push((run, permit));
    }
    shared.tasks.spawn(Arc::clone(shared).wake_all(due));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize) -> RunId {
        RunId::new(format!("{n:06}")).unwrap()
    }

    #[test]
    fn the_earliest_times_stay_in_memory_and_the_rest_is_the_stores() {
        let mut near = Near::default();
        let n = MAX_NEAR + 100;
        for at in (0..n).rev() {
            near.insert(Timestamp(at as u64), run(at));
        }
        assert_eq!(near.timers.len(), MAX_NEAR);
        let last = (Timestamp(MAX_NEAR as u64 - 1), run(MAX_NEAR - 1));
        assert_eq!(near.read_to, Some(last));
        assert!(!near.wants_more());
        let woken: Vec<RunId> = (0..3 * PAGE).filter_map(|_| near.pop()).collect();
        assert_eq!(woken[0], run(0));
        assert!(woken.is_sorted());
        // There is room for a page of each kind.
        assert!(near.wants_more());
    }

    #[test]
    fn due_is_what_has_mail_and_what_has_its_time() {
        let mut near = Near::default();
        for at in 0..2 * MAX_READ {
            near.insert(Timestamp(at as u64), run(at));
        }
        assert_eq!(near.n_due(Timestamp(9)), 10);
        near.at_once.push_back(run(777));
        assert_eq!(near.n_due(Timestamp(9)), 11);
        assert_eq!(near.n_due(Timestamp::MAX), MAX_READ);
        assert_eq!(near.pop(), Some(run(777)));
        assert_eq!(near.pop(), Some(run(0)));
    }
}
