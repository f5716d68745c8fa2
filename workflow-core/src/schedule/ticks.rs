//! Starting the runs of a schedule whose time has come.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{RunId, Timestamp, WriteOutcome};
use tracing::{info, warn};

use super::cron::Cron;
use super::{Missed, Progress, Spec, name_of};
use crate::engine::{Admission, Engine, NewRun, Shared};
use crate::error::{Error, Result};

/// A time that is no longer past than this was not missed.
const GRACE: Duration = Duration::from_secs(60);
/// How many runs are created in one commit.
const MANY: usize = 100;
/// How long after a failure a schedule is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

impl Shared {
    /// A schedule may be due.
    pub(crate) fn wake_schedule(self: &Arc<Self>, id: RunId) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let engine = Engine::detached(Arc::clone(&shared));
            let mut uncertain = Vec::new();
            match engine.tick(&id, &mut uncertain).await {
                Ok(()) | Err(Error::ShutDown | Error::RuntimeEnded | Error::ScheduleNotFound { .. }) => return,
                Err(error) => {
                    warn!(schedule = name_of(&id), %error, "a schedule could not start its runs; trying again");
                }
            }
            let soon = shared.clock.timestamp().after(AGAIN);
            shared.set_timer(soon, id);
            // The commit that failed may have been done all the same; then nobody else knows of its runs.
            shared.lose(&uncertain);
            tokio::select! {
                () = shared.clock.sleep_towards(soon) => {}
                () = shared.halted.cancelled() => return,
            }
            for run in uncertain {
                if let Err(error) = engine.take_up(&run).await {
                    info!(%run, %error, "run not taken up");
                }
            }
        });
    }
}

impl Engine {
    /// Starts the runs that are due.
    async fn tick(&self, id: &RunId, uncertain: &mut Vec<RunId>) -> Result<()> {
        let shared = self.shared();
        let _lock = shared.locks().lock(id).await;
        loop {
            let Some((spec, progress)) = self.read_schedule(id).await? else {
                return Ok(());
            };
            let now = shared.clock.timestamp();
            let Some(first) = progress.next_at.filter(|at| *at <= now) else {
                // It was changed, or was woken for nothing.
                if let Some(next_at) = progress.next_at {
                    shared.set_timer(next_at, id.clone());
                }
                return Ok(());
            };
            let cron = Cron::parse(&spec.cron)?;
            let (times, last) = due(&cron, spec.missed, first, now);
            let mut next = Progress {
                is_paused: false,
                next_at: cron.next(last),
                last_at: times.last().copied().or(progress.last_at),
            };
            let (mut new, mut places) = (Vec::new(), Vec::new());
            for at in times {
                match shared.take_place() {
                    Ok(place) => {
                        new.push(self.run_at(id, &spec, at, &place).await?);
                        places.push(place);
                    }
                    Err(Error::QueueFull { .. }) if !new.is_empty() => {
                        next.next_at = Some(at);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            let writes = new.iter().map(|new| new.write.clone()).collect();
            uncertain.extend(new.iter().map(|new| new.write.run.clone()));
            let outcomes = self.commit_schedule(id, None, &next, writes).await?;
            uncertain.clear();
            for ((new, place), outcome) in new.into_iter().zip(places).zip(outcomes) {
                let run = new.write.run.clone();
                if outcome == WriteOutcome::Written {
                    info!(schedule = name_of(id), %run, "run started");
                    shared.begin_new(new, place)?;
                }
            }
        }
    }

    async fn run_at(
        &self,
        id: &RunId,
        spec: &Spec,
        at: Timestamp,
        place: &Admission,
    ) -> Result<NewRun> {
        let run = run_id(name_of(id), at)?;
        let is_admitted = matches!(place, Admission::Run(_));
        let plan = spec.plan.clone();
        let new = self
            .shared()
            .new_run(&run, plan, spec.hash, is_admitted, None);
        let mut new = new.await?;
        if matches!(place, Admission::Offer) {
            new.write.record.owner = None;
        }
        Ok(new)
    }
}

/// The times that get a run, and the last time that is done with.
fn due(
    cron: &Cron,
    missed: Missed,
    first: Timestamp,
    now: Timestamp,
) -> (Vec<Timestamp>, Timestamp) {
    match missed {
        Missed::All => {
            let all = cron.all(first, now, MANY);
            let last = all.last().copied().unwrap_or(first);
            (all, last)
        }
        Missed::One => {
            let last = cron.last(first, now).unwrap_or(first);
            (vec![last], last)
        }
        Missed::Skip => {
            let last = cron.last(first, now).unwrap_or(first);
            let is_missed = last.until(now) > GRACE;
            let times = if is_missed { Vec::new() } else { vec![last] };
            (times, last)
        }
    }
}

/// The id of the run for a time.
pub(super) fn run_id(name: &str, at: Timestamp) -> Result<RunId> {
    Ok(RunId::new(format!("{name}@{}", super::cron::in_utc(at)))?)
}
