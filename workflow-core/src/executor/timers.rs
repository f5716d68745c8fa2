//! Waking what waits outside memory: what is due next is kept in order, the rest stays in the store's index; what has mail at
//! once. Only so many are being woken at a time, and the others wait their turn here as ids.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{RunId, RunKind, StorageError, Timestamp};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tracing::warn;

use super::times::Overdue;
use crate::clock::{Clock, later};
use crate::engine::Shared;

/// Times within this are kept in memory, and looked up in the store once in half of it.
const HORIZON: Duration = Duration::from_secs(120);
/// How long after a look-up that failed the next one is made.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How many due runs of a kind are read from the store at a time.
const PAGE: usize = 2048;
/// How many times are kept in memory; of more, the earliest.
const MAX_NEAR: usize = 4 * PAGE;
/// How many pauses are known by their moments; of more, those that end first.
const MAX_PAUSED: usize = 16_384;
/// A timer of the clock that is late by less than this comes by itself.
const LATE: Duration = Duration::from_secs(1);
/// How many runs are being woken at a time: read, and what was due not yet durable.
pub(crate) const MAX_WAKING: usize = 1024;
/// How many of them are read with one call.
const MAX_READ: usize = 128;

/// What is to be woken.
#[derive(Debug)]
pub(crate) enum Wake {
    /// This one, at this time.
    At(Timestamp, RunId),
    /// This one, at this moment, because it failed: the store may not know that it has something to do.
    Again(Instant, RunId),
    /// This run, at this moment, if the clock does not show this time by then: it was set back.
    Paused(Timestamp, Instant, RunId),
    /// This run, because it has mail.
    Mail(RunId),
    /// Whatever the store says is due.
    LookUp,
    /// Whatever waits for a slot: one is free.
    Slots,
}

type Timer = (Timestamp, RunId);

/// What the clock shows, and the monotonic time.
#[derive(Debug, Clone, Copy)]
struct Now {
    wall: Timestamp,
    moment: Instant,
}

impl Now {
    fn of(clock: &Clock) -> Self {
        Self {
            wall: clock.timestamp(),
            moment: clock.instant(),
        }
    }

    fn in_half_a_horizon(self) -> (Instant, Timestamp) {
        let half = HORIZON / 2;
        (later(self.moment, half), self.wall.after(half))
    }
}

/// Times in order, one for each id.
#[derive(Debug)]
struct Timers<T> {
    by_time: BTreeSet<(T, RunId)>,
    by_id: FxHashMap<RunId, T>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_id: FxHashMap::default(),
        }
    }
}

impl<T: Ord + Copy> Timers<T> {
    /// Of two times of one id, the earlier one stays.
    fn insert(&mut self, due_at: T, id: RunId) {
        match self.by_id.entry(id) {
            Entry::Occupied(known) if *known.get() <= due_at => {}
            Entry::Occupied(mut known) => {
                let id = known.key().clone();
                let later = (known.insert(due_at), id);
                self.by_time.remove(&later);
                self.by_time.insert((due_at, later.1));
            }
            Entry::Vacant(unknown) => {
                self.by_time.insert((due_at, unknown.key().clone()));
                unknown.insert(due_at);
            }
        }
    }

    fn len(&self) -> usize {
        self.by_time.len()
    }

    fn first(&self) -> Option<&(T, RunId)> {
        self.by_time.first()
    }

    fn last(&self) -> Option<&(T, RunId)> {
        self.by_time.last()
    }

    /// The first, if it is due.
    fn pop_due(&mut self, now: T) -> Option<RunId> {
        self.first().filter(|(due_at, _)| *due_at <= now)?;
        let (_, id) = self.by_time.pop_first()?;
        self.by_id.remove(&id);
        Some(id)
    }

    fn pop_last(&mut self) {
        if let Some((_, id)) = self.by_time.pop_last() {
            self.by_id.remove(&id);
        }
    }

    /// How many are due, counted up to `most`.
    fn n_due(&self, now: T, most: usize) -> usize {
        let is_due = |(due_at, _): &&(T, RunId)| *due_at <= now;
        self.by_time.iter().take(most).take_while(is_due).count()
    }
}

/// What is due next.
#[derive(Debug, Default)]
struct Near {
    timers: Timers<Timestamp>,
    /// After this one, the store has more that are due within the horizon.
    read_to: Option<Timer>,
    /// What failed, however far its time is: nobody else knows it.
    again: Timers<Instant>,
    /// When pauses end by monotonic time, and by the clock; of many, those that end first.
    paused: BTreeSet<(Instant, RunId, Timestamp)>,
    /// What is to be woken whatever the time, and the same in order.
    at_once: VecDeque<RunId>,
    is_at_once: FxHashSet<RunId>,
}

impl Near {
    fn insert(&mut self, due_at: Timestamp, run: RunId) {
        self.timers.insert(due_at, run);
        self.stay_bounded();
    }

    /// Has a run woken that has mail; once, however much that is.
    fn wake_at_once(&mut self, run: RunId) {
        if self.is_at_once.insert(run.clone()) {
            self.at_once.push_back(run);
        }
    }

    fn pause(&mut self, ends_at: Timestamp, moment: Instant, run: RunId) {
        self.paused.insert((moment, run, ends_at));
        if self.paused.len() > MAX_PAUSED {
            self.paused.pop_last();
        }
    }

    /// Wakes what has paused for as long as it was to, and would not be woken in time because the clock was set back.
    fn wake_overdue(&mut self, now: Now, overdue: &Overdue) {
        while let Some((moment, _, _)) = self.paused.first()
            && *moment <= now.moment
            && let Some((moment, run, ends_at)) = self.paused.pop_first()
        {
            if now.wall.until(ends_at) > LATE {
                overdue.insert(&run, ends_at, moment);
                self.timers.insert(now.wall, run);
            }
        }
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

    /// When the first of the times is due.
    fn next(&self) -> Timestamp {
        self.timers
            .first()
            .map_or(Timestamp::MAX, |(due_at, _)| *due_at)
    }

    /// When the first of what failed is.
    fn next_again(&self) -> Option<Instant> {
        self.again.first().map(|(due_at, _)| *due_at)
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
        for (due_at, run) in read {
            self.timers.insert(due_at, run);
        }
        self.stay_bounded();
        Ok(())
    }

    /// How many are due, as far as they are read with one call.
    fn n_due(&self, now: Now) -> usize {
        let n_timers = self.timers.n_due(now.wall, MAX_READ);
        let n_again = self.again.n_due(now.moment, MAX_READ);
        (self.at_once.len() + n_again + n_timers).min(MAX_READ)
    }

    /// What is to be woken next and is due, but for what a pause `holds` back: its time is in `again`, or comes from the store once
    /// more.
    fn pop(&mut self, now: Now, holds: impl Fn(&RunId) -> bool) -> Option<RunId> {
        if let Some(first) = self.at_once.pop_front() {
            self.is_at_once.remove(&first);
            return Some(first);
        }
        loop {
            let again = self.again.pop_due(now.moment);
            let first = again.or_else(|| self.timers.pop_due(now.wall))?;
            if !holds(&first) {
                return Some(first);
            }
        }
    }
}

fn earlier(a: Option<Timer>, b: Option<Timer>) -> Option<Timer> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Wakes what is due until the engine shuts down or halts.
pub(crate) async fn run_timers(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Wake>) {
    let mut near = Near::default();
    // Whether the store may know of runs whose times are further away.
    let mut has_far = false;
    // When all that is due by the horizon is looked up again: at the moment, and also if the clock shows that time before. `None`: not
    // before there is a reason.
    let mut next_lookup: Option<(Instant, Timestamp)> = None;
    // When what is left of that may be looked up.
    let mut next_page = shared.clock.instant();
    loop {
        let n_due = near.n_due(Now::of(&shared.clock));
        let mut next = near.next();
        let mut moments = [near.next_again(), None, None, None];
        if let Some((moment, time)) = next_lookup {
            next = next.min(time);
            moments[1] = Some(moment);
        }
        if near.wants_more() {
            moments[2] = Some(next_page);
        }
        moments[3] = near.paused.first().map(|(moment, _, _)| *moment);
        let next_moment = moments.into_iter().flatten().min();
        tokio::select! {
            // In one order, so that a simulation can be repeated. What is due is looked for after each turn, so none starves.
            biased;
            () = shared.closing.cancelled() => return,
            request = requests.recv() => {
                let now = Now::of(&shared.clock);
                match request {
                    None => return,
                    Some(Wake::Mail(run)) if shared.is_to_be_woken(&run) => {
                        near.wake_at_once(run);
                    }
                    Some(Wake::Mail(_)) => {}
                    Some(Wake::Paused(ends_at, moment, run)) => near.pause(ends_at, moment, run),
                    Some(Wake::Again(due_at, run)) => near.again.insert(due_at, run),
                    Some(Wake::Slots) => shared.fill_slots(),
                    Some(Wake::LookUp) => {
                        (has_far, next_lookup) = (true, Some((now.moment, now.wall)));
                    }
                    Some(Wake::At(due_at, run)) if due_at <= now.wall.after(HORIZON) => {
                        near.insert(due_at, run);
                    }
                    Some(Wake::At(..)) => {
                        has_far = true;
                        next_lookup = next_lookup.or(Some(now.in_half_a_horizon()));
                    }
                }
            }
            permits = Arc::clone(&shared.wake_permits).acquire_many_owned(n_due as u32), if n_due > 0 => {
                match permits {
                    Ok(permits) => wake(&shared, &mut near, Now::of(&shared.clock), permits),
                    Err(_) => return,
                }
            }
            () = shared.clock.sleep_towards(next), if n_due == 0 && next < Timestamp::MAX => {}
            () = async { match next_moment {
                Some(moment) => shared.clock.sleep_until(moment).await,
                None => std::future::pending().await,
            } }, if n_due == 0 => {}
        }
        let now = Now::of(&shared.clock);
        near.wake_overdue(now, &shared.overdue);
        let is_time = has_far
            && next_lookup.is_some_and(|(moment, time)| moment <= now.moment || time <= now.wall);
        if is_time || near.wants_more() && next_page <= now.moment {
            let read = near.read(&shared, !is_time, now.wall.after(HORIZON));
            let read = tokio::select! {
                biased;
                () = shared.closing.cancelled() => return,
                read = read => read,
            };
            match read {
                Ok(()) if is_time => next_lookup = Some(now.in_half_a_horizon()),
                Ok(()) => {}
                Err(error) => {
                    warn!(%error, "could not look up timers; trying again");
                    next_page = later(now.moment, AGAIN_AFTER);
                    if is_time {
                        next_lookup = Some((next_page, now.wall.after(AGAIN_AFTER)));
                    }
                }
            }
        }
        // Since then, the clock may have been set back. What counts as due has to be woken by the same time, or this goes round for ever.
        let now = Now::of(&shared.clock);
        while let n_due @ 1.. = near.n_due(now)
            && let Ok(permits) =
                Arc::clone(&shared.wake_permits).try_acquire_many_owned(n_due as u32)
        {
            wake(&shared, &mut near, now, permits);
        }
    }
}

/// Wakes as many of what is due as there are permits.
fn wake(shared: &Arc<Shared>, near: &mut Near, now: Now, mut permits: OwnedSemaphorePermit) {
    let holds = |id: &RunId| shared.pauses.holds(id, now.moment);
    let mut due = Vec::with_capacity(permits.num_permits());
    while let Some(permit) = permits.split(1)
        && let Some(run) = near.pop(now, holds)
    {
        due.push((run, permit));
    }
    shared.spawn(Arc::clone(shared).wake_all(due));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize) -> RunId {
        RunId::new(format!("{n:06}")).unwrap()
    }

    /// When the clock shows this, and as many microseconds of monotonic time are past since a moment in the past.
    #[expect(clippy::disallowed_methods, reason = "any moment is as good")]
    fn at() -> impl Fn(u64) -> Now {
        let start = Instant::now();
        move |micros| Now {
            wall: Timestamp(micros),
            moment: later(start, Duration::from_micros(micros)),
        }
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
        let woken: Vec<RunId> = (0..3 * PAGE)
            .filter_map(|_| near.pop(at()(n as u64), |_| false))
            .collect();
        assert_eq!(woken[0], run(0));
        assert!(woken.is_sorted());
        // There is room for a page of each kind.
        assert!(near.wants_more());
    }

    #[test]
    fn due_is_what_has_mail_and_what_has_its_time() {
        let (mut near, at) = (Near::default(), at());
        for at in 0..2 * MAX_READ {
            near.insert(Timestamp(at as u64), run(at));
        }
        assert_eq!(near.n_due(at(9)), 10);
        near.wake_at_once(run(777));
        near.wake_at_once(run(777));
        assert_eq!(near.n_due(at(9)), 11);
        assert_eq!(near.n_due(at(u64::MAX)), MAX_READ);
        assert_eq!(near.pop(at(9), |_| false), Some(run(777)));
        assert_eq!(near.pop(at(9), |_| false), Some(run(0)));
    }

    #[test]
    fn an_id_has_one_time_which_is_the_earliest() {
        let (mut near, now) = (Near::default(), at()(9));
        for at in [7, 5, 9, 5] {
            near.insert(Timestamp(at), run(1));
        }
        near.insert(Timestamp(6), run(2));
        assert_eq!((near.timers.len(), near.next()), (2, Timestamp(5)));
        let woken: Vec<_> = (0..4).filter_map(|_| near.pop(now, |_| false)).collect();
        assert_eq!(woken, [run(1), run(2)]);
        assert_eq!(near.next(), Timestamp::MAX);
        // It may get another one then.
        near.insert(Timestamp(9), run(1));
        assert_eq!(near.n_due(now), 1);
    }

    #[test]
    fn what_a_pause_holds_is_not_woken_before_that_ends_and_holds_up_nobody() {
        let (mut near, at) = (Near::default(), at());
        near.insert(Timestamp(1), run(1));
        near.insert(Timestamp(2), run(2));
        near.insert(Timestamp(8), run(3));
        near.again.insert(at(9).moment, run(1));
        let holds = |id: &RunId| *id == run(1);
        assert_eq!(near.pop(at(7), holds), Some(run(2)));
        assert_eq!(near.pop(at(7), holds), None);
        assert_eq!(near.next(), Timestamp(8));
        let woken: Vec<_> = (0..4).filter_map(|_| near.pop(at(9), |_| false)).collect();
        assert_eq!(woken, [run(1), run(3)]);
    }
}
