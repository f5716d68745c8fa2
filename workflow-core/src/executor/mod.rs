//! The executor: drives one run. It takes what happened, folds and commits it, and does what the run then asks for.
//!
//! Each run in memory is one task. While a commit of it is being flushed, what happens gathers; nothing that an event
//! allows is done before the event is durable. After a failed write the task ends and writes nothing more.

mod abandoned;
mod alone;
mod arguments;
mod body;
mod children;
mod committer;
mod crew;
mod decline;
mod fold;
mod hear;
mod load;
mod mail;
mod order;
mod remote;
mod slot;
mod steps;
mod threads;
mod timers;
mod times;
mod watched;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use keepstep_storage::{RunId, RunRecord, StoredStatus, TaskId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

pub(crate) use abandoned::Abandoned;
pub use abandoned::{AbandonReason, AbandonedStep};
pub(crate) use alone::{RunSender, run_channel};
pub(crate) use arguments::load_arg;
pub(crate) use body::{Execution, Outcome, expansion, fit, panic_message, too_many};
pub(crate) use children::letters;
pub(crate) use committer::{
    CommitRequest, Committer, MAX_BATCH_BYTES, Reply, Written, deleted_bytes, run_committer,
};
pub(crate) use crew::Body;
pub(crate) use fold::COMPACT_ABOVE;
pub(crate) use load::{FIRST_PAGE_BYTES, finish_load, fold_journal, load_run};
pub(crate) use mail::Mail;
pub(crate) use steps::{ABANDON_AFTER, GRACE};
pub(crate) use threads::Threads;
pub(crate) use timers::{MAX_WAKING, Wake, run_timers};
pub(crate) use times::Overdue;
pub(crate) use watched::Watched;

use crate::clock::later;
use crate::context::RunLink;
use crate::engine::{Ended, OnProbation, Seat, Shared, Slot, WakePermit};
use crate::error::SuspendReason;
use crate::run::{Event, Failure, Impossible, Run, Settled, StepId};
use crate::status::Progress;
use crate::step::StepDef;
use crate::value::Value;
use children::{Found, Look};
use hear::Stretch;
use mail::Mailbox;
use slot::RunSlot;
use steps::Steps;

/// A run that waits for an event or another run leaves memory when it has heard nothing for so long: reading it back takes the
/// longer, the more has happened to it.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);
/// A run that has only timers left, all of them further away than this, leaves memory.
pub(crate) const PARK_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// What a run's task is told.
#[derive(Debug)]
pub(crate) enum RunMessage {
    /// An execution of a step ended.
    Ended {
        step: StepId,
        execution: u64,
        outcome: Outcome,
    },
    /// An execution that was offered to all workers ended at one of them.
    EndedElsewhere {
        step: StepId,
        execution: u64,
        outcome: Outcome,
        task: TaskId,
    },
    /// How a child run was found.
    Child {
        step: StepId,
        look: Look,
        found: Box<Found>,
    },
    /// The task of a child run is gone, and the child has not ended: its store failed.
    ChildWasLost(StepId),
    /// There is mail.
    Mail,
    /// What became of the commit that was under way.
    Committed(Box<Written>),
    /// Cancel the run.
    Cancel,
    /// Suspend the run.
    Suspend,
    /// The run has got the slot that it waited for.
    Slot(Slot),
    /// Which steps are executing now?
    Running(oneshot::Sender<Vec<StepId>>),
    /// The engine's leases have ended: stop without a trace, since another may have the run.
    LeaseLost,
    /// Stop without a trace: the engine is shutting down.
    ShutDown,
}

/// One run in execution.
pub(crate) struct RunTask {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    id: RunId,
    link: Arc<RunLink>,
    run: Run,
    /// The record as it is stored, or as the commit under way will leave it.
    record: RunRecord,
    is_committing: bool,
    messages: mpsc::UnboundedReceiver<RunMessage>,
    inbox: Vec<RunMessage>,
    /// What became of a commit that was made on this thread.
    written_here: Option<Written>,
    stretch: Stretch,
    /// What was last reported.
    reported: Progress,
    sender: RunSender,
    /// What happened and is not yet folded.
    happened: VecDeque<Happened>,
    steps: Steps,
    slot: RunSlot,
    mailbox: Mailbox,
    /// How many child runs are being begun or looked at.
    n_looking: usize,
    /// How many of them are not known to be there.
    n_beginning: usize,
    /// How many of them may have ended before the run came into memory.
    n_catching_up: usize,
    /// Tasks whose results are folded. They can go once the commit under way is durable.
    folded: Vec<TaskId>,
    /// Runs that are to be canceled once the commit under way is durable.
    to_cancel: Vec<RunId>,
    /// When the run leaves memory if it hears nothing until then.
    lingers_until: Option<tokio::time::Instant>,
    /// A body that was to start, and may be polled in this task's place.
    lone: Option<Body>,
    /// Whether the engine's runtime has several threads.
    may_block: bool,
    /// Whether it is being polled where it may block.
    is_in_place: bool,
    /// An event to begin with: the run goes on after a failure or a suspension.
    opening: Option<Event>,
    /// What time it was for the run, and at which moment.
    passed: Option<(Timestamp, tokio::time::Instant)>,
    /// How long the last snapshot was.
    snapshot_bytes: u64,
    /// Held from when the run is woken until what was due is durable.
    pub(crate) waking: Option<WakePermit>,
    /// The run was cut short more than once.
    pub(crate) probation: Option<OnProbation>,
    is_shutting_down: bool,
    /// Whether the run has a step that this program has not, and goes to another engine as soon as nothing is executing.
    is_leaving: bool,
    /// Why this program cannot go on with the run, if others may.
    declines: Option<SuspendReason>,
    /// Whether it has said how the run left the engine, or that it waits outside memory.
    has_left: bool,
}

impl Drop for RunTask {
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        // Only the end of its runtime drops a task that has not.
        let ended = self.shared.ended_over();
        let (shared, id) = (Arc::clone(&self.shared), self.id.clone());
        let (seat, parent) = (Arc::clone(&self.seat), self.record.parent.clone());
        // Not from here, if this thread has locked the roster: whoever sends a message to a run has, and sets a task going that a
        // runtime refuses which ends.
        self.shared.once_roster_is_free(move || {
            if matches!(ended, Ended::NoRuntime) {
                shared.runtime_ended();
            }
            shared.leave(&id, parent.as_ref(), &seat, ended);
        });
    }
}

/// Something that the run waited for, and that is not yet folded.
enum Happened {
    /// An execution of a step ended.
    Body {
        step: StepId,
        def: &'static StepDef,
        outcome: Outcome,
        /// The task it was, if it was one of a worker's.
        task: Option<TaskId>,
    },
    /// A child run is there.
    ChildBegan { step: StepId },
    /// A child run has ended so, then.
    Ended {
        step: StepId,
        value: Value,
        at: Timestamp,
    },
    /// A child run gives no result, since then.
    Failed {
        step: StepId,
        failure: Failure,
        at: Timestamp,
    },
}

/// What a run's task comes to.
enum Next {
    /// Nothing is to be done until this body has been polled.
    Lone(Body),
    /// Nothing more is to be done in place: the run has to wait for something, or has kept its thread for long enough.
    Leave,
    Exit(Exit),
}

/// Why a run's task is over.
enum Exit {
    Ended(Ended),
    /// Until there is mail, or something is due.
    Parked,
}

impl RunTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        seat: Arc<Seat>,
        id: RunId,
        run: Run,
        record: RunRecord,
        opening: Option<Event>,
        (sender, messages): (RunSender, mpsc::UnboundedReceiver<RunMessage>),
    ) -> Self {
        let link = RunLink::new(
            Arc::clone(&shared),
            id.clone(),
            record.incarnation,
            sender.messages.clone(),
            record.parent.is_some(),
        );
        let stretch = Stretch::new(shared.clock.instant());
        let passed = shared.overdue.take(&id);
        let passed = passed.filter(|(due_at, _)| run.next_pause() == Some(*due_at));
        let may_block = alone::may_block_on(shared.home.runtime());
        Self {
            shared,
            seat,
            id,
            link: Arc::new(link),
            run,
            record,
            is_committing: false,
            messages,
            inbox: Vec::new(),
            written_here: None,
            stretch,
            reported: Progress::default(),
            sender,
            happened: VecDeque::new(),
            steps: Steps::default(),
            slot: RunSlot::None,
            mailbox: Mailbox::default(),
            n_looking: 0,
            n_beginning: 0,
            n_catching_up: 0,
            folded: Vec::new(),
            to_cancel: Vec::new(),
            lingers_until: None,
            passed,
            lone: None,
            may_block,
            is_in_place: false,
            opening,
            snapshot_bytes: 0,
            waking: None,
            probation: None,
            is_shutting_down: false,
            is_leaving: false,
            declines: None,
            has_left: false,
        }
    }

    /// Drives the run until it ends, stops, or leaves memory.
    pub(crate) async fn drive(mut self: Box<Self>) {
        self.is_in_place = false;
        self.stretch = Stretch::new(self.shared.clock.instant());
        loop {
            let next = match self.until_next().await {
                Next::Lone(body) if self.stretch.is_worth_blocking() => self.go_on_in_place(body),
                Next::Lone(body) => {
                    let back = self.wait_in_berth(body).await;
                    back.map(|task| (task, Next::Leave))
                }
                next => Some((self, next)),
            };
            match next {
                Some((task, Next::Exit(exit))) => return task.exit(exit),
                Some((task, _)) => self = task,
                // Another task has it.
                None => return,
            }
            self.give_way().await;
        }
    }

    async fn until_next(&mut self) -> Next {
        let next = AssertUnwindSafe(self.drive_on()).catch_unwind().await;
        next.unwrap_or_else(|_| {
            if self.shared.is_runtime_gone() {
                // Its timers panic then.
                return Next::Exit(Exit::Ended(Ended::NoRuntime));
            }
            let what = "its task panicked".to_owned();
            Next::Exit(Exit::Ended(Ended::Suspended(SuspendReason::Invariant {
                what,
            })))
        })
    }

    fn exit(mut self: Box<Self>, exit: Exit) {
        self.steps.abort_all();
        self.has_left = true;
        match exit {
            Exit::Ended(ended) => {
                debug!(run = %self.id, ?ended, "run left the engine");
                let parent = self.record.parent.as_ref();
                self.shared.leave(&self.id, parent, &self.seat, ended);
            }
            Exit::Parked => {
                debug!(run = %self.id, "run waits outside memory");
                let times = self.times();
                if let Some(ends_at) = self.run.next_pause() {
                    let moment = later(times.moment, times.passed.until(ends_at));
                    self.shared.set_pause(ends_at, moment, self.id.clone());
                }
                if let Some(date) = self.run.next_date() {
                    self.shared.set_timer(date, self.id.clone());
                }
            }
        }
        self.give_slot_back();
    }

    async fn drive_on(&mut self) -> Next {
        // What it begins with comes before whatever it is told.
        let mut is_opening = self.opening.is_some();
        loop {
            if !std::mem::take(&mut is_opening)
                && self.has_heard()
                && let Some(exit) = self.take_all()
            {
                return Next::Exit(exit);
            }
            // It lingers as long as each look finds it ready to leave: a time to leave that nobody looks at any more would make
            // this loop go round for ever.
            let lingers_until = self.lingers_until.take();
            // Before anything is folded: what comes of a body while its runtime ends is no outcome.
            if self.shared.home.has_ended() {
                return Next::Exit(Exit::Ended(Ended::NoRuntime));
            }
            if self.may_fold() {
                if let Err(ended) = self.read_mail().await {
                    return Next::Exit(self.lost(ended));
                }
                if self.run.next_pause().is_some() && self.run.is_active() {
                    let now = self.times().passed;
                    self.run.retry_due(now);
                }
                // A body that was dropped without anybody asking for it is tried again.
                self.allow_ready();
            }
            if self.may_fold() {
                match self.fold_and_commit() {
                    Ok(()) => {}
                    Err(Impossible(what)) => {
                        // The state in memory is not to be trusted; what is stored is.
                        warn!(run = %self.id, what, "an invariant does not hold; the run is left as it is stored");
                        let reason = SuspendReason::Invariant {
                            what: what.to_owned(),
                        };
                        return Next::Exit(Exit::Ended(Ended::Suspended(reason)));
                    }
                }
                if !self.is_committing && self.may_decline() {
                    if let Err(ended) = self.decline().await {
                        return Next::Exit(self.lost(ended));
                    }
                    if !self.run.is_active() {
                        continue;
                    }
                }
                if !self.is_committing
                    && let Some(exit) = self.exit_if_at_rest(lingers_until)
                {
                    return Next::Exit(exit);
                }
            }
            let mut timer = None;
            if self.run.next_timer().is_some()
                && self.run.is_active()
                && self.may_fold()
                && self.n_catching_up == 0
            {
                let times = self.times();
                timer = self.next_due(&times);
                // Not before what this task has been told, such as that it is canceled.
                if self.messages.is_empty() && timer.is_some_and(|due_at| due_at <= times.shown) {
                    self.timers_fired();
                    continue;
                }
            }
            if !self.is_committing {
                self.waking = None;
            }
            if let Some(body) = self.lone.take() {
                if self.steps.is_one() && !self.is_committing && timer.is_none() {
                    return Next::Lone(body);
                }
                body.spawn();
            }
            if !self.is_in_place {
                self.give_way().await;
            } else if self.stretch.is_over(&self.shared.clock) {
                return Next::Leave;
            }
            if self.shared.halted.is_cancelled() && !self.is_shutting_down {
                return Next::Exit(Exit::Ended(self.shared.ended_over()));
            }
            if self.written_here.is_some() || !self.messages.is_empty() {
                continue;
            }
            if self.is_in_place {
                return Next::Leave;
            }
            if !self.is_committing {
                self.give_slot_back_if_waiting();
            }
            let clock = &self.shared.clock;
            tokio::select! {
                biased;
                n = self.messages.recv_many(&mut self.inbox, hear::AT_ONCE) => {
                    debug_assert!(n > 0, "the task holds a sender itself");
                }
                permit = self.steps.permit(&self.shared.step_permits), if self.slot.is_held() => {
                    self.steps.spare = permit;
                }
                () = self.steps.until_overdue() => self.steps.abort_overdue(),
                () = self.slot.until_due() => self.take_slot_anyway(),
                () = OnProbation::admission(&mut self.probation) => {}
                () = async { match timer {
                    Some(due_at) => clock.sleep_towards(due_at).await,
                    None => std::future::pending().await,
                } } => self.timers_fired(),
                () = async { match self.lingers_until {
                    Some(until) => clock.sleep_until(until).await,
                    None => std::future::pending().await,
                } } => continue,
                () = self.shared.halted.cancelled(), if !self.is_shutting_down => {
                    return Next::Exit(Exit::Ended(self.shared.ended_over()));
                }
            }
            self.stretch = Stretch::new(self.shared.clock.instant());
            if let Some(exit) = self.take_all() {
                return Next::Exit(exit);
            }
        }
    }

    /// Lets others have their turn, if this run has kept its thread from them for long.
    async fn give_way(&mut self) {
        if self.stretch.is_over(&self.shared.clock) {
            tokio::task::yield_now().await;
            self.stretch = Stretch::new(self.shared.clock.instant());
        }
    }

    /// A time has come: what is due is folded next. What was sent to the run before that comes first, and nobody may have told of it.
    fn timers_fired(&mut self) {
        if self.run.waits_for_others() {
            self.mailbox.look_again();
        }
    }

    /// Whether what happened may be folded: not while a commit is under way, nor while a child is being begun. What happens may
    /// make the child unneeded, and one that is not there yet cannot be told so; a crash after it came to be would leave it alone.
    fn may_fold(&self) -> bool {
        !self.is_committing && self.n_beginning == 0
    }

    /// A write or a read failed, or was refused: what is stored counts, and this task is no longer the run's owner.
    fn lost(&mut self, ended: Ended) -> Exit {
        if self.shared.is_runtime_gone() {
            // It takes the threads that the store needs with it.
            return Exit::Ended(Ended::NoRuntime);
        }
        let why = match &ended {
            Ended::Fenced => "another engine has taken it over",
            Ended::Unreadable(_) => "what is stored of it cannot be read",
            _ => "its store failed",
        };
        warn!(run = %self.id, ?ended, "run stopped: {why}");
        Exit::Ended(ended)
    }

    /// Does what durable events allow.
    fn go_on(&mut self) {
        self.cancel_children();
        if !self.run.is_suspect() && !self.waits_for_admission() {
            self.probation = None;
        }
        if self.is_shutting_down {
            return;
        }
        self.allow_ready();
    }

    /// Starts what has become ready. All that was folded must be durable; a run that was pending, failed or suspended is
    /// first made running.
    fn allow_ready(&mut self) {
        if self.record.status == StoredStatus::Running && self.opening.is_none() {
            let ready = self.run.take_ready();
            if !ready.is_empty() {
                self.allow_steps(ready);
            }
            self.start_steps();
            if !self.is_shutting_down && !self.is_leaving {
                self.begin_children();
            }
        }
        let progress = self.run.progress();
        if progress != self.reported {
            self.reported = progress;
            self.seat.report(progress);
        }
    }

    /// Whether nothing can happen any more without a timer or the world outside.
    fn exit_if_at_rest(&mut self, lingers_until: Option<tokio::time::Instant>) -> Option<Exit> {
        if !self.steps.is_idle() || !self.happened.is_empty() || self.n_looking > 0 {
            return None;
        }
        // A run that has ended is not given up: who waits for it gets what it came to.
        if self.is_shutting_down && !self.is_successful() {
            return Some(Exit::Ended(Ended::ShutDown));
        }
        if self.is_leaving && self.run.is_active() && self.record.status.is_active() {
            return Some(Exit::Ended(Ended::LeftToOthers));
        }
        if self.waits_for_admission() {
            return None;
        }
        match self.run.settle(true) {
            Settled::Successful => {
                let output = self
                    .run
                    .output()
                    .cloned()
                    .unwrap_or_else(|| Value::from_bytes(&[]));
                Some(Exit::Ended(Ended::Successful(output)))
            }
            Settled::Stopped => Some(Exit::Ended(
                match (self.run.failure(), self.run.suspended()) {
                    (Some(error), _) => Ended::Failed(Arc::new(error.clone())),
                    (_, Some(reason)) => Ended::Suspended(reason.clone()),
                    _ => Ended::Canceled,
                },
            )),
            Settled::Waiting(Some(due_at)) if !self.steps.has_work() => {
                let times = self.times();
                let next_due = self.next_due(&times);
                let far = next_due.is_some_and(|at| times.shown.until(at) > PARK_AFTER);
                // The store wakes it at the time that is written there.
                let is_known = self.record.wake_at == Some(due_at);
                (far && is_known && self.may_leave(lingers_until)).then_some(Exit::Parked)
            }
            // What is ready and waits for a permit or a slot is told of it in memory only.
            Settled::Waiting(None) if self.run.waits_for_others() && !self.steps.has_work() => {
                self.may_leave(lingers_until).then_some(Exit::Parked)
            }
            Settled::Waiting(None) if !self.steps.has_work() => {
                self.run.suspend(SuspendReason::Invariant {
                    what: "the run waits for nothing".to_owned(),
                });
                None
            }
            _ => None,
        }
    }

    /// Whether the run may not execute yet. One that is to stop does not wait for that.
    fn waits_for_admission(&self) -> bool {
        self.run.is_active() && OnProbation::waits(self.probation.as_ref())
    }

    /// Lets the run leave memory, unless it has just heard something of others, or does now.
    fn may_leave(&mut self, lingers_until: Option<tokio::time::Instant>) -> bool {
        if self.run.waits_for_others() && !self.shared.has_queue() {
            let now = self.shared.clock.instant();
            let until = lingers_until.unwrap_or_else(|| later(now, LINGER));
            if now < until {
                self.lingers_until = Some(until);
                return false;
            }
        }
        self.shared.park(&self.id, &self.seat, &mut self.messages)
    }

    /// Whether its end is durable, asked while no commit is under way. A run that failed may be here to go on.
    fn is_successful(&self) -> bool {
        self.record.status == StoredStatus::Successful
    }

    fn is_ending(&self) -> bool {
        self.record.status.is_final()
    }
}
