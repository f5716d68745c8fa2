//! Looking after the next times of schedules: one that was stored while a clock was wrong is found out of the expression once more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstep_storage::{RunId, RunKind, Timestamp};
use tracing::{debug, warn};

use super::cron::Cron;
use super::{NAMESPACE, PAGE, Progress, name_of};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};

/// How often schedules are looked at whatever the clock says: others store times, too.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// How soon they are looked at again after the store could not be read or written.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A clock that goes a little slower for a while was not set.
const TOLERANCE: Duration = Duration::from_secs(1);

impl Shared {
    /// Looks after all schedules of the store, now and as long as there are some and the engine lives.
    pub(crate) fn look_after_schedules(self: &Arc<Self>) {
        if self.is_worker() && !self.looks_after_schedules.swap(true, Ordering::SeqCst) {
            self.spawn(look_after(Arc::clone(self)));
        }
    }
}

async fn look_after(shared: Arc<Shared>) {
    let engine = Engine::detached(Arc::clone(&shared));
    let mut seen = (shared.clock.timestamp(), shared.clock.instant());
    // For how long a clock that was set back has gone on, while what came in that time is not made up for.
    let mut since = Duration::ZERO;
    loop {
        let looked = engine.correct_all(since).await;
        let has_failed = looked.is_err();
        match looked {
            // Whoever says one has them looked after again. One that was said just now found that this goes on.
            Ok(false) => {
                let looks = &shared.looks_after_schedules;
                looks.store(false, Ordering::SeqCst);
                let is_any = matches!(engine.correct_all(Duration::ZERO).await, Ok(true));
                if !is_any || looks.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
            Ok(true) | Err(Error::ShutDown | Error::RuntimeEnded) => {}
            Err(error) => debug!(%error, "could not look after schedules"),
        }
        let look_every = if has_failed { AGAIN_AFTER } else { LOOK_EVERY };
        let look_at = shared.clock.after(look_every);
        if !has_failed {
            since = Duration::ZERO;
        }
        loop {
            let now = (shared.clock.timestamp(), shared.clock.instant());
            let passed = now.1.duration_since(seen.1);
            let was_set_back = now.0.until(seen.0.after(passed)) > TOLERANCE;
            seen = now;
            if was_set_back || !since.is_zero() {
                since += passed;
            }
            if was_set_back || now.1 >= look_at {
                break;
            }
            tokio::select! {
                // In one order, so that a simulation can be repeated.
                biased;
                () = shared.closing.cancelled() => return,
                () = shared.clock.until_set(look_at) => {}
            }
        }
    }
}

impl Engine {
    /// Whether there is any schedule.
    async fn correct_all(&self, since: Duration) -> Result<bool> {
        let shared = self.shared();
        let prefix = RunId::prefix_of_parts(&[NAMESPACE]);
        let (mut after, mut is_any) = (None, false);
        loop {
            let page = shared
                .storage
                .list_by_id(RunKind::Schedule, &prefix, after.as_ref(), PAGE)
                .await?;
            let now = shared.clock.timestamp();
            for listed in &page {
                // What is due is not late.
                if listed.record.wake_at.is_some_and(|at| at <= now) {
                    continue;
                }
                let _lock = shared.locks().lock(&listed.run).await;
                // What can't be read says so when it is due.
                let (spec, progress) = match self.read_schedule(&listed.run).await {
                    Ok(Some(stored)) => stored,
                    Err(error @ (Error::Storage(_) | Error::ShutDown)) => return Err(error),
                    Ok(None) | Err(_) => continue,
                };
                let Ok(cron) = Cron::parse(&spec.cron) else {
                    continue;
                };
                match self.correct(&listed.run, &cron, &progress, since).await {
                    // Another engine has it.
                    Ok(_) | Err(Error::Fenced { .. } | Error::ScheduleNotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            match page.into_iter().next_back() {
                Some(last) => (after, is_any) = (Some(last.run), true),
                None => return Ok(is_any),
            }
        }
    }

    /// Stores another next time of a schedule where the stored one cannot be right; whether it did. The caller holds its lock.
    pub(super) async fn correct(
        &self,
        id: &RunId,
        cron: &Cron,
        progress: &Progress,
        since: Duration,
    ) -> Result<bool> {
        let now = self.shared().clock.timestamp();
        let Some(next_at) = corrected(cron, progress, now, since) else {
            return Ok(false);
        };
        let next = Progress {
            next_at: Some(next_at),
            ..progress.clone()
        };
        self.commit_schedule(id, None, &next, Vec::new()).await?;
        let stored = progress.next_at.map(super::cron::in_utc);
        let next_at = super::cron::in_utc(next_at);
        warn!(
            schedule = name_of(id),
            ?stored,
            %next_at,
            "the next time of a schedule was too late: a clock was wrong when it was stored; it is corrected"
        );
        Ok(true)
    }
}

/// The next time of a schedule, if the stored one is later. `since`: for how long a clock that was set back has gone on since.
fn corrected(
    cron: &Cron,
    progress: &Progress,
    now: Timestamp,
    since: Duration,
) -> Option<Timestamp> {
    if progress.is_paused || progress.next_at.is_some_and(|next_at| next_at <= now) {
        return None;
    }
    let from = Timestamp(now.0.saturating_sub(Timestamp(0).after(since).0));
    let mut next_at = cron.next(from)?;
    // It has its run, which a clock started that is ahead by a little, or was a moment ago.
    if let Some(last_at) = progress.last_at
        && next_at <= last_at
        && (next_at == last_at || last_at <= now)
    {
        next_at = cron.next(last_at)?;
    }
    let is_earlier = progress.next_at.is_none_or(|stored| next_at < stored);
    is_earlier.then_some(next_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    fn progress(next_at: Option<u64>, last_at: Option<u64>) -> Progress {
        Progress {
            is_paused: false,
            next_at: next_at.map(Timestamp),
            last_at: last_at.map(Timestamp),
            earlier: Vec::new(),
        }
    }

    #[test]
    fn a_next_time_is_corrected_if_another_comes_before_it() {
        let cron = Cron::parse("*/10 * * * *").unwrap();
        let next = |progress: &Progress, now: u64, since: u64| {
            let since = Duration::from_micros(since);
            corrected(&cron, progress, Timestamp(now), since).map(|at| at.0 / MINUTE)
        };
        let now = 25 * MINUTE;
        assert_eq!(next(&progress(Some(30 * MINUTE), None), now, 0), None);
        let wrong = progress(Some(1000 * MINUTE), Some(990 * MINUTE));
        assert_eq!(next(&wrong, now, 0), Some(30));
        assert_eq!(next(&progress(None, None), now, 0), Some(30));
        // What came since the clock is right again is made up for.
        assert_eq!(next(&wrong, 31 * MINUTE, 2 * MINUTE), Some(30));
        // One that is due comes, and one that is paused does not.
        assert_eq!(next(&progress(Some(20 * MINUTE), None), now, 0), None);
        let paused = Progress {
            is_paused: true,
            ..progress(None, None)
        };
        assert_eq!(next(&paused, now, 0), None);
    }

    #[test]
    fn a_time_that_has_its_run_is_not_the_next() {
        let cron = Cron::parse("*/10 * * * *").unwrap();
        // Another machine, which is ahead by a second, has started it.
        let ahead = progress(Some(40 * MINUTE), Some(30 * MINUTE));
        let now = Timestamp(30 * MINUTE - 1_000_000);
        assert_eq!(corrected(&cron, &ahead, now, Duration::ZERO), None);
        let now = Timestamp(30 * MINUTE + 1_000_000);
        let since = Duration::from_secs(30);
        assert_eq!(corrected(&cron, &ahead, now, since), None);
    }
}
