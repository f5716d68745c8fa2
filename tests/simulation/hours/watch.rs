//! What must hold: whatever can go on does so within a bounded time, once nothing is wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstep::storage::{NodeId, RunId, RunKind, RunQuery, StoredStatus, Timestamp};
use keepstep::{Error, SuspendReason};
use tokio::time::Instant;

use super::actors::TallyHost;
use super::{HOUR, Hours, MINUTE, Trouble};
use crate::oracle::Witness;
use crate::programs::{Message, Out};

/// How late something may be that is due.
const LATE: Duration = Duration::from_secs(3 * 60);
/// How long a run rests, at most, that executed each time its owner lost its leases: twenty leases.
const LONGEST_REST: Duration = Duration::from_secs(20 * 30);
/// How long a run may stay pending at an engine that has no place while another engine has nothing to do.
const IDLE: Duration = Duration::from_secs(3 * 60);
/// How long a call may take that waits for no run's end.
const ANSWER: Duration = Duration::from_secs(15 * 60);
/// How long after everything is well runs may go on: all that they do and wait for takes less.
const REST: Duration = Duration::from_secs(6 * 3600);

/// How long after everything is well a person cancels what costs workers their leases, if it has not been suspended.
const HARM: Duration = Duration::from_secs(2 * 3600);

impl Hours {
    /// Looks whether all goes on.
    pub(super) fn look(&mut self) {
        self.waiting.retain(|waiting| !waiting.task.is_finished());
        let Some(well_since) = self.well_since else {
            return;
        };
        let well_for = well_since.elapsed();
        if well_for > ANSWER {
            let slow = |of: &&super::Waiting| !of.is_long && of.since.elapsed() > ANSWER;
            if let Some(waiting) = self.waiting.iter().find(slow) {
                self.violated(format!("{} is not answered", waiting.what));
            }
        }
        // Where a write failed and nobody else may go on, that is for the next opening.
        if well_for > LATE && (self.is_shared() || !self.may_have_stopped) {
            self.nothing_is_late();
            self.nobody_is_idle();
        }
    }

    fn nothing_is_late(&self) {
        let now = Timestamp::from(self.now());
        // A run beside one that costs its owner its leases is lost with it, and nobody knows which of them did that: both rest.
        let most = match self.trouble {
            Trouble::Blocked | Trouble::Bomb => LATE + LONGEST_REST,
            _ => LATE,
        };
        let mut late = Vec::new();
        self.world.ledger.each_stored(|run, stored| {
            let record = &stored.record;
            let due = record.wake_at.filter(|_| record.status.is_active());
            let is_late = due.is_some_and(|due| due.until(now) > most);
            // A schedule waits for room in the queue.
            let may_wait = match record.kind {
                RunKind::Workflow => false,
                RunKind::Schedule => self.limits.pending.is_some(),
                RunKind::Actor => true,
            };
            if is_late && stored.changed_at.elapsed() > most && !may_wait {
                late.push((run.clone(), due, record.owner));
            }
        });
        late.retain(|(_, _, owner)| !owner.is_some_and(|owner| self.executes_all_it_may(owner)));
        for (run, due, _) in late {
            self.violated(format!("12: {run} was due at {due:?}, and it is {now:?}"));
        }
    }

    /// Whether a node executes as many steps as its limit allows. A step of another of its runs that is due waits for one of
    /// those, which may take long, and the run stays where it is.
    fn executes_all_it_may(&self, node: NodeId) -> bool {
        let ledger = &self.world.ledger;
        let engine = ledger.engine_of(node);
        let n_executing = engine.map_or(0, |engine| ledger.n_executing(engine));
        self.limits.steps.is_some_and(|most| n_executing >= most)
    }

    /// No run waits for a place at one engine while another one has nothing at all.
    fn nobody_is_idle(&self) {
        let Some(leases) = &self.world.leases else {
            return;
        };
        let ledger = &self.world.ledger;
        let (mut busy, mut pending) = (Vec::new(), Vec::new());
        ledger.each_stored(|run, stored| {
            let record = &stored.record;
            if !record.status.is_active() || record.kind != RunKind::Workflow {
                return;
            }
            let owner = record.owner.filter(|owner| leases.lasts(*owner));
            busy.extend(owner);
            if record.status == StoredStatus::Pending && stored.changed_at.elapsed() > IDLE {
                pending.push((run.clone(), owner));
            }
        });
        let busy: Vec<usize> = busy
            .into_iter()
            .filter_map(|node| ledger.engine_of(node))
            .collect();
        // One whose leases have ended takes nothing up.
        let mut idle = self.engines.iter();
        let idle = idle.find(|of| !busy.contains(&of.number) && leases.has_lease(of.number));
        if let (Some(idle), Some((run, owner))) = (idle, pending.first()) {
            let number = idle.number;
            self.violated(format!(
                "11: {run} is pending at {owner:?} while engine {number} is idle"
            ));
        }
    }

    /// Nothing is wrong from now on, and users send what runs wait for. All must end.
    pub(super) async fn come_to_rest(&mut self) {
        if !self.world.ledger.violations().is_empty() {
            return;
        }
        self.trace("all is well");
        self.world.ledger.mend();
        self.well_since = Some(Instant::now());
        if !self.is_shared() && self.may_have_stopped {
            self.shut_down(0).await;
            self.may_have_stopped = false;
        }
        let until = Instant::now() + REST;
        let mut harm_ends_at =
            Some(Instant::now() + HARM).filter(|_| self.trouble == Trouble::Blocked);
        loop {
            if harm_ends_at
                .take_if(|ends_at| *ends_at <= Instant::now())
                .is_some()
            {
                self.cancel_what_is_harmful().await;
            }
            self.send_what_is_missing().await;
            self.resume_what_is_innocent().await;
            self.pass(MINUTE).await;
            if !self.world.ledger.violations().is_empty() {
                return;
            }
            let left = self.left();
            if left.is_empty() {
                break;
            }
            if Instant::now() > until {
                return self.violated(format!("these do not end: {}", left.join("; ")));
            }
        }
        // Nothing of theirs is left that keeps a schedule from starting more.
        self.pass(40 * MINUTE).await;
        self.schedule_goes_on().await;
        self.outputs_are_right().await;
        self.tally_is_right().await;
    }

    /// What has not ended, and why it should.
    fn left(&self) -> Vec<String> {
        let now = Timestamp::from(self.now());
        let mut left = Vec::new();
        self.world.ledger.each_stored(|run, stored| {
            let record = &stored.record;
            let is_harmful = self.harmful.iter().any(|id| id == run.as_str());
            let has_stopped = record.status.is_final()
                // The engine stops what does no good. What never keeps its lease can't end.
                || is_harmful
                    && (record.status == StoredStatus::Suspended
                        || self.trouble == Trouble::Blocked);
            // What a schedule started may have begun a moment ago.
            let is_old = !run.as_str().contains('@') || stored.changed_at.elapsed() > LATE;
            if record.kind == RunKind::Workflow && !has_stopped && is_old {
                left.push((run.clone(), record.clone()));
            }
        });
        let told = left.into_iter().map(|(run, record)| {
            let (status, wake_at) = (record.status, record.wake_at);
            let wakes_in = wake_at.map(|at| now.until(at));
            let owner = record.owner;
            let owner = owner.and_then(|node| self.world.ledger.engine_of(node));
            format!("{run} {status:?} of engine {owner:?}, wakes in {wakes_in:?}")
        });
        told.collect()
    }

    async fn send_what_is_missing(&self) {
        let ledger = &self.world.ledger;
        let engine = &self.engines[0].engine;
        let known = self
            .known
            .iter()
            .map(|known| (known.id.clone(), known.prog.clone()));
        let children = self.known.iter().flat_map(|known| known.prog.children());
        for (id, prog) in known.chain(children) {
            let status = ledger.stored(&id, |stored| stored.record.status);
            if status.is_none_or(StoredStatus::is_final) {
                continue;
            }
            for (name, n) in prog.waits_for() {
                for _ in ledger.post(|post| post.n_arrived(&id, &name))..n {
                    let text = ledger.post(|post| post.write(&id, &name, None));
                    let message = Message { text };
                    let sending = async {
                        drop(engine.send_event(&id, &name, &message).await);
                    };
                    if tokio::time::timeout(ANSWER, sending).await.is_err() {
                        self.violated(format!("a message to {id} is not answered"));
                    }
                }
            }
        }
    }

    /// What takes longer than the longest rest need not end beside what costs its worker the leases after each rest: it starts over.
    /// The rest has ended by now, where no limit has it wait for a slot of what starts over.
    async fn cancel_what_is_harmful(&self) {
        let is_long = |id: &str| {
            self.known
                .iter()
                .any(|known| known.id == id && id.starts_with("long"))
        };
        if self.limits.runs.is_none() && self.limits.steps.is_none() {
            let left = self.left();
            let mut short = left
                .iter()
                .filter(|left| !left.split(' ').next().is_some_and(is_long));
            if let Some(left) = short.next() {
                self.violated(format!(
                    "10: {left} does not end beside what costs workers their leases"
                ));
            }
        }
        for id in &self.harmful {
            let canceling = self.engines[0].engine.cancel(id);
            match tokio::time::timeout(ANSWER, canceling).await {
                Ok(canceled) => self.trace(&format!("somebody cancels {id}: {canceled:?}")),
                Err(_) => self.violated(format!("canceling {id} is not answered")),
            }
        }
    }

    /// A step that takes long may have been executing each time a worker lost its leases, as often as the one that costs workers
    /// their leases: workers that live cannot tell which of the two it is, and suspend both. A person can, and resumes it.
    async fn resume_what_is_innocent(&self) {
        if self.trouble != Trouble::Blocked {
            return;
        }
        let engine = &self.engines[0].engine;
        for known in &self.known {
            let id = &known.id;
            let status = self.world.ledger.stored(id, |stored| stored.record.status);
            if status != Some(StoredStatus::Suspended) {
                continue;
            }
            let resuming = async {
                let reason = engine.metadata(id).await?.suspended;
                if !matches!(reason, Some(SuspendReason::Interrupted { .. })) {
                    self.violated(format!("{id} is suspended: {reason:?}"));
                }
                engine.resume::<Out>(id).await.map(drop)
            };
            match tokio::time::timeout(ANSWER, resuming).await {
                Ok(Ok(())) => self.trace(&format!("somebody resumes {id}")),
                Ok(Err(error)) => self.trace(&format!("resuming {id}: {error}")),
                Err(_) => self.violated(format!("resuming {id} is not answered")),
            }
        }
    }

    async fn schedule_goes_on(&self) {
        if self.limits.pending.is_some() {
            // Its run may have been refused.
            return;
        }
        let query = RunQuery {
            id_prefix: "often@".to_owned(),
            limit: 10_000,
            ..RunQuery::default()
        };
        let runs = self.world.bottom.memory.list(&query).await;
        let runs = runs.expect("memory does not fail").runs;
        let now = Timestamp::from(self.now());
        // By the time that each is for, and not by when it was started: a clock that was an hour ahead has started some that were
        // not due yet, and no time has two.
        let times = runs.iter().filter_map(|run| time_of(&run.run));
        let last = times.filter(|at| *at <= now).map(|at| at.until(now)).min();
        if last.is_none_or(|ago| ago >= 12 * MINUTE) {
            self.violated(format!(
                "20: the last time that the schedule has a run for was {last:?} ago"
            ));
        }
        let mut next = None;
        self.world.ledger.each_stored(|_, stored| {
            if stored.record.kind == RunKind::Schedule {
                next = stored.record.wake_at.map(|at| now.until(at));
            }
        });
        // The next time may have its run already.
        if next.is_none_or(|next| next > 21 * MINUTE) {
            self.violated(format!("20: the schedule is to go on in {next:?}"));
        }
    }

    async fn outputs_are_right(&self) {
        let engine = &self.engines[0].engine;
        let ledger = &self.world.ledger;
        for known in &self.known {
            let id = &known.id;
            let status = ledger.stored(id, |stored| stored.record.status);
            if status != Some(StoredStatus::Successful) {
                continue;
            }
            let reading = tokio::time::timeout(HOUR, engine.output::<Out>(id)).await;
            let expected = known.prog.value(Witness { ledger, run: id });
            match reading {
                Ok(Ok(out)) if Some(out.value) == expected => {}
                other => self.violated(format!("{id} is {other:?}, not {expected:?}")),
            }
        }
    }

    /// Every call that was accepted was made once.
    async fn tally_is_right(&self) {
        let engine = &self.engines[0].engine;
        let added = self.added.load(Ordering::Relaxed);
        let sum = async {
            let tally = TallyHost::get_or_create(engine).await?;
            tally.add(0).await
        };
        match tokio::time::timeout(HOUR, sum).await {
            // A call whose answer was lost may have been made.
            Ok(Ok(sum)) if sum >= added && (sum == added || self.trouble != Trouble::Together) => {}
            Ok(Err(Error::QueueFull { .. })) => {}
            other => self.violated(format!("the tally is {other:?}, and {added} were added")),
        }
    }
}

/// The time that a run of a schedule is for, out of its id: `often@2027-01-15T08:20:00Z`.
fn time_of(run: &RunId) -> Option<Timestamp> {
    let (_, time) = run.as_str().split_once('@')?;
    let fields: Vec<u64> = time
        .split(['-', 'T', ':', 'Z'])
        .filter_map(|field| field.parse().ok())
        .collect();
    let [year, month, day, hour, minute, second] = fields[..] else {
        return None;
    };
    // Days since 1970, of years that begin in March.
    let (year, month) = match month {
        ..3 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = (((days - 719_468) * 24 + hour) * 60 + minute) * 60 + second;
    Some(Timestamp(0).after(Duration::from_secs(seconds)))
}

#[test]
fn the_time_of_a_scheduled_run_is_in_its_id() {
    let time = |id| time_of(&RunId::new(id).expect("an id"));
    let micros = |seconds: u64| Some(Timestamp(seconds * 1_000_000));
    assert_eq!(time("often@1970-01-01T00:00:00Z"), micros(0));
    assert_eq!(time("often@2027-01-15T08:00:00Z"), micros(1_800_000_000));
    assert_eq!(time("often@2028-02-29T00:00:01Z"), micros(1_835_395_201));
    assert_eq!(time("r1"), None);
}
