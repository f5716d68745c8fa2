//! Starting the runs of a schedule whose time has come.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{RunId, Timestamp, WriteOutcome};
use tracing::{info, warn};

use super::cron::Cron;
use super::{Earlier, Missed, Progress, Spec, Tries, name_of};
use crate::engine::{Admission, Engine, Growth, NewRun, Shared};
use crate::error::{Error, Result};

/// A time that is no longer past than this was not missed.
const GRACE: Duration = Duration::from_secs(60);
/// How many runs are created in one commit.
const MANY: usize = 100;

impl Shared {
    /// A schedule may be due.
    pub(crate) fn wake_schedule(self: &Arc<Self>, id: RunId) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let engine = Engine::detached(Arc::clone(&shared));
            let mut uncertain = Vec::new();
            let ticked = engine.tick(&id, &mut uncertain).await;
            let error = match ticked {
                Ok(())
                | Err(Error::ShutDown | Error::RuntimeEnded | Error::ScheduleNotFound { .. }) => {
                    return shared.pauses.succeeded(&id);
                }
                Err(error) => error,
            };
            // Until then, it is not woken again.
            let again_in = shared.wake_again(&id, Growth::OF_SCHEDULES);
            warn!(schedule = name_of(&id), %error, ?again_in, "a schedule could not start its runs; trying again");
            if uncertain.is_empty() {
                return;
            }
            // The commit that failed may have been done all the same; then nobody else knows of its runs.
            shared.lose(&uncertain);
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => return,
                () = shared.clock.sleep(again_in) => {}
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
        let mut tries = Tries::default();
        loop {
            match self.tick_once(id, uncertain).await {
                Ok(true) => tries = Tries::default(),
                Ok(false) => return Ok(()),
                // Another engine has it, and may have started them.
                Err(Error::Fenced { .. }) if tries.again(self.shared()).await => uncertain.clear(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts runs that are due, as many as go into one commit; whether there may be more.
    async fn tick_once(&self, id: &RunId, uncertain: &mut Vec<RunId>) -> Result<bool> {
        let shared = self.shared();
        let _lock = shared.locks().lock(id).await;
        let Some((spec, progress)) = self.read_schedule(id).await? else {
            return Ok(false);
        };
        let now = shared.clock.timestamp();
        if progress.is_paused {
            return Ok(false);
        }
        let Some(mut due) = due(&spec, &progress, now)? else {
            // It was changed, or was woken for nothing.
            let cron = Cron::parse(&spec.cron)?;
            if self.correct(id, &cron, &progress, Duration::ZERO).await? {
                return Ok(true);
            }
            if let Some(next_at) = progress.next_at {
                shared.set_timer(next_at, id.clone());
            }
            return Ok(false);
        };
        let (mut new, mut places) = (Vec::new(), Vec::new());
        for at in std::mem::take(&mut due.times) {
            match shared.take_place() {
                Ok(place) => {
                    new.push(self.run_at(id, &spec, at, &place).await?);
                    places.push(place);
                    due.next.last_at = Some(at);
                }
                Err(Error::QueueFull { .. }) if !new.is_empty() => {
                    due.stop_before(at);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let writes = new.iter().map(|new| new.write.clone()).collect();
        uncertain.extend(new.iter().map(|new| new.write.run.clone()));
        let outcomes = self.commit_schedule(id, None, &due.next, writes).await?;
        uncertain.clear();
        for ((new, place), outcome) in new.into_iter().zip(places).zip(outcomes) {
            let run = new.write.run.clone();
            if outcome == WriteOutcome::Written {
                info!(schedule = name_of(id), %run, "run started");
                shared.begin_new(new, place)?;
            }
        }
        Ok(true)
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

/// Times that have come.
#[derive(Debug)]
struct Due {
    /// Those that get a run.
    times: Vec<Timestamp>,
    /// What the progress is when they have it.
    next: Progress,
    /// Of an expression that was replaced.
    earlier: Option<Earlier>,
}

impl Due {
    /// The runs of this time and of those after it are not started yet.
    fn stop_before(&mut self, at: Timestamp) {
        match self.earlier.take() {
            Some(earlier) => {
                let rest = Earlier {
                    next_at: at,
                    ..earlier
                };
                match self.next.earlier.first_mut() {
                    Some(first) if first.until == rest.until => *first = rest,
                    _ => self.next.earlier.insert(0, rest),
                }
            }
            None => self.next.next_at = Some(at),
        }
    }
}

/// What of a schedule is due: first what is left of expressions that were replaced, the oldest first.
fn due(spec: &Spec, progress: &Progress, now: Timestamp) -> Result<Option<Due>> {
    let mut next = progress.clone();
    let Some(earlier) = progress.earlier.first() else {
        let Some(first) = progress.next_at.filter(|at| *at <= now) else {
            return Ok(None);
        };
        let cron = Cron::parse(&spec.cron)?;
        let (times, last) = due_of(&cron, spec.missed, first, now, now);
        next.next_at = cron.next(last);
        return Ok(Some(Due {
            times,
            next,
            earlier: None,
        }));
    };
    next.earlier.remove(0);
    let cron = match Cron::parse(&earlier.cron) {
        Ok(cron) => cron,
        Err(error) => {
            warn!(%error, "times of a schedule's earlier expression can't be told any more; they have no runs");
            return Ok(Some(Due {
                times: Vec::new(),
                next,
                earlier: None,
            }));
        }
    };
    let (mut times, last) = due_of(&cron, spec.missed, earlier.next_at, earlier.until, now);
    let is_last = next.earlier.is_empty() && next.next_at.is_none_or(|at| at > now);
    if spec.missed == Missed::One && !is_last {
        // A later time has the one run.
        times.clear();
    }
    if let Some(next_at) = cron.next(last).filter(|at| *at <= earlier.until) {
        let rest = Earlier {
            next_at,
            ..earlier.clone()
        };
        next.earlier.insert(0, rest);
    }
    let earlier = Some(earlier.clone());
    Ok(Some(Due {
        times,
        next,
        earlier,
    }))
}

/// The times from `first` up to `until` that get a run, and the last time that is done with.
fn due_of(
    cron: &Cron,
    missed: Missed,
    first: Timestamp,
    until: Timestamp,
    now: Timestamp,
) -> (Vec<Timestamp>, Timestamp) {
    let last = || cron.last(first, until).unwrap_or(first);
    match missed {
        Missed::All => {
            let all = cron.all(first, until, MANY);
            let last = all.last().copied().unwrap_or(first);
            (all, last)
        }
        Missed::One => {
            let last = last();
            (vec![last], last)
        }
        Missed::Skip => {
            let last = last();
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
