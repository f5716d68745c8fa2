//! Nodes that wait for the world outside: for a time, for a message, for the end of another run; and nodes that wait for
//! others no longer than for a while.
//!
//! What ends such a wait is an event like the end of a step's body, so a run's journal says in which order things happened,
//! and a race has the same winner whoever reads it. Times are absolute from when the run reaches the node: only the driver
//! knows the time then, so it is asked to say it ([`Run::take_clocks`], [`Event::ClockStarted`](super::Event::ClockStarted)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{RunId, Timestamp};

use super::segment::{Segment, State};
use super::{Event, Failure, Phase, Run, StepId};
use crate::error::StepErrorKind;
use crate::plan::{Child, First, NodeKind, Until};
use crate::value::Value;

/// Everything that a run waits for outside itself.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Nodes whose clock is to start.
    clocks: Vec<StepId>,
    /// Nodes that wait for a time.
    sleeps: BTreeSet<(Timestamp, StepId)>,
    /// Nodes that wait for a date: only the wall clock says when that is.
    dates: BTreeSet<(Timestamp, StepId)>,
    /// When nodes fail that are not done by then.
    limits: BTreeMap<StepId, Timestamp>,
    limits_by_time: BTreeSet<(Timestamp, StepId)>,
    /// Nodes that wait for a message, by its name.
    listening: BTreeMap<Arc<str>, BTreeSet<StepId>>,
    /// The names of which the first node began to wait, or the last one ceased to.
    changed_names: Vec<Arc<str>>,
    /// Nodes that wait for another run.
    away: BTreeSet<StepId>,
    /// Those of them that nobody has looked after.
    to_begin: Vec<StepId>,
    /// Runs that were begun for a node that is no longer needed.
    pub(super) orphans: Vec<RunId>,
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) type ForAudit<'a> = (
    &'a BTreeMap<Arc<str>, BTreeSet<StepId>>,
    &'a BTreeSet<StepId>,
    &'a BTreeMap<StepId, Timestamp>,
);

/// Something whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A sleep is over.
    Woken(StepId),
    /// A node is not done and had so long.
    TimedOut(StepId, Duration),
}

/// A child run that is to be begun, or looked after.
#[derive(Debug)]
pub(crate) struct ChildToBegin {
    pub(crate) step: StepId,
    pub(crate) child: Child,
    /// Whether it is known to have been there.
    pub(crate) has_begun: bool,
}

fn earliest(times: &BTreeSet<(Timestamp, StepId)>) -> Option<Timestamp> {
    times.first().map(|(at, _)| *at)
}

impl Run {
    /// A node that waits for the world is reached: its inputs are there.
    pub(super) fn begin_wait(&mut self, id: StepId) {
        let Some((base, segment, index)) = self.locate(id) else {
            return;
        };
        let plan = Arc::clone(&segment.plan);
        let node = plan.node(index);
        let state = match &node.kind {
            NodeKind::Sleep(Until::After(_)) => State::Reached,
            NodeKind::Sleep(Until::At(due_at)) => {
                self.waits.dates.insert((*due_at, id));
                State::Sleeping(*due_at)
            }
            NodeKind::Event(name) => {
                let listening = self.waits.listening.entry(Arc::clone(name));
                let listening = listening.or_default();
                if listening.is_empty() {
                    self.waits.changed_names.push(Arc::clone(name));
                }
                listening.insert(id);
                State::Listening
            }
            NodeKind::Child(_) => {
                self.waits.away.insert(id);
                self.waits.to_begin.push(id);
                State::Away { has_begun: false }
            }
            _ => return,
        };
        if matches!(state, State::Reached) || node.time_limit().is_some() {
            self.waits.clocks.push(id);
        }
        if let Some(segment) = self.segments.get_mut(&base) {
            segment.nodes[index as usize].state = state;
        }
    }

    /// A node no longer waits, however it ended.
    pub(super) fn end_wait(&mut self, id: StepId, state: &State) {
        match state {
            State::Backoff(due_at) => {
                self.timers.remove(&(*due_at, id));
            }
            State::Sleeping(due_at) => {
                self.waits.sleeps.remove(&(*due_at, id));
                self.waits.dates.remove(&(*due_at, id));
            }
            State::Listening => {
                if let Some((_, segment, index)) = self.locate(id)
                    && let NodeKind::Event(name) = &segment.plan.node(index).kind
                {
                    let name = Arc::clone(name);
                    if let Some(listening) = self.waits.listening.get_mut(&name) {
                        listening.remove(&id);
                        if listening.is_empty() {
                            self.waits.listening.remove(&name);
                            self.waits.changed_names.push(name);
                        }
                    }
                }
            }
            State::Away { .. } => {
                self.waits.away.remove(&id);
            }
            _ => {}
        }
        if let Some(at) = self.waits.limits.remove(&id) {
            self.waits.limits_by_time.remove(&(at, id));
        }
    }

    /// Nothing needs a node any more: a run that was begun for it is nobody's.
    pub(super) fn abandon_child(&mut self, id: StepId) {
        if let Some((_, segment, index)) = self.locate(id)
            && let NodeKind::Child(child) = &segment.plan.node(index).kind
        {
            let child = child.id.clone();
            self.waits.orphans.push(child);
        }
    }

    /// Notes the nodes of a new segment whose time is counted from now on, although their inputs are not there.
    pub(super) fn note_limits(&mut self, base: u64) {
        let Some(segment) = self.segments.get(&base) else {
            return;
        };
        let limited = (0u32..)
            .zip(&segment.plan.nodes)
            .filter(|(_, node)| !node.kind.is_counted() && node.time_limit().is_some())
            .map(|(index, _)| StepId(base + u64::from(index)));
        self.waits.clocks.extend(limited);
    }

    /// A failed node is tried again: its time is counted anew.
    pub(super) fn renew_limit(&mut self, id: StepId) {
        self.waits.clocks.push(id);
    }

    /// Nodes whose clock is to start, since the last call.
    pub(crate) fn take_clocks(&mut self) -> Vec<StepId> {
        if self.phase != Phase::Active || self.output.is_some() {
            return Vec::new();
        }
        let mut clocks = std::mem::take(&mut self.waits.clocks);
        clocks.retain(|id| self.needs_clock(*id));
        clocks
    }

    fn needs_clock(&self, id: StepId) -> bool {
        let is_reached = |(_, segment, index): (_, &Segment, u32)| {
            matches!(segment.nodes[index as usize].state, State::Reached)
        };
        self.locate(id).is_some_and(is_reached)
            || self.may_have_limit(id) && !self.waits.limits.contains_key(&id)
    }

    fn may_have_limit(&self, id: StepId) -> bool {
        self.locate(id).is_some_and(|(_, segment, index)| {
            let is_settled = matches!(
                segment.nodes[index as usize].state,
                State::Done(_)
                    | State::Ran(_)
                    | State::Gone(_)
                    | State::Failed(_)
                    | State::Decided(_)
            );
            !is_settled && segment.plan.node(index).time_limit().is_some()
        })
    }

    /// The clocks of these nodes start.
    pub(super) fn start_clocks(&mut self, at: Timestamp, steps: &[StepId]) {
        for &id in steps {
            if !self.needs_clock(id) {
                continue;
            }
            let Some((base, segment, index)) = self.locate(id) else {
                continue;
            };
            let node = segment.plan.node(index);
            let limit = node.time_limit();
            let due_at = match (&segment.nodes[index as usize].state, &node.kind) {
                (State::Reached, NodeKind::Sleep(Until::After(micros))) => {
                    Some(at.after(Duration::from_micros(*micros)))
                }
                _ => None,
            };
            if let Some(due_at) = due_at {
                self.waits.sleeps.insert((due_at, id));
                if let Some(segment) = self.segments.get_mut(&base) {
                    segment.nodes[index as usize].state = State::Sleeping(due_at);
                }
            }
            if let Some(limit) = limit {
                self.set_limit(id, at.after(limit));
            }
        }
    }

    fn set_limit(&mut self, id: StepId, at: Timestamp) {
        self.waits.limits.insert(id, at);
        self.waits.limits_by_time.insert((at, id));
    }

    /// A child run is known to be there.
    pub(super) fn child_began(&mut self, id: StepId) {
        if let Some(node) = self.node_mut(id)
            && let State::Away { has_begun } = &mut node.state
        {
            *has_begun = true;
        }
    }

    /// What is due by this time and was due first, until the event of it is folded. Whoever has other things to fold asks for what
    /// was due before each of them: a run that nobody had in memory then goes the same way as one that somebody had.
    ///
    /// `shown` is the same time on the wall clock, by which dates come; after that was set back, the two are not the same.
    pub(crate) fn first_due(&self, until: Timestamp, shown: Timestamp) -> Option<Due> {
        let first = |times: &BTreeSet<(Timestamp, StepId)>, until: Timestamp| {
            times.first().copied().filter(|(at, _)| *at <= until)
        };
        let sleep = first(&self.waits.sleeps, until);
        let date = first(&self.waits.dates, shown);
        let sleep = sleep.into_iter().chain(date).min();
        match (sleep, first(&self.waits.limits_by_time, until)) {
            // What is done in time is done, to the very last moment.
            (Some(sleep), limit) if limit.is_none_or(|limit| sleep.0 <= limit.0) => {
                Some(Due::Woken(sleep.1))
            }
            (_, Some((_, id))) => {
                let limit = self
                    .locate(id)
                    .and_then(|(_, segment, index)| segment.plan.node(index).time_limit());
                Some(Due::TimedOut(id, limit.unwrap_or_default()))
            }
            _ => None,
        }
    }

    /// Steps whose next attempt is due become ready without a word; not those that a time limit may come before.
    pub(crate) fn retry_due(&mut self, now: Timestamp) {
        let until = earliest(&self.waits.limits_by_time).map_or(now, |limit| limit.min(now));
        while let Some(&(at, id)) = self.timers.first()
            && at <= until
        {
            self.timers.pop_first();
            self.activate(id);
        }
    }

    /// When something is due next.
    pub(crate) fn next_timer(&self) -> Option<Timestamp> {
        let next = [self.next_pause(), self.next_date()];
        next.into_iter().flatten().min()
    }

    /// When something is due next that was to last for a while.
    pub(crate) fn next_pause(&self) -> Option<Timestamp> {
        let next = [&self.timers, &self.waits.sleeps, &self.waits.limits_by_time];
        next.into_iter().filter_map(earliest).min()
    }

    /// The next date that is waited for.
    pub(crate) fn next_date(&self) -> Option<Timestamp> {
        earliest(&self.waits.dates)
    }

    /// Whether something outside may go on with the run although none of its timers is due.
    pub(crate) fn waits_for_others(&self) -> bool {
        !self.waits.listening.is_empty() || !self.waits.away.is_empty()
    }

    /// The first node that waits for a message of this name.
    pub(crate) fn listener(&self, name: &str) -> Option<StepId> {
        self.waits.listening.get(name)?.first().copied()
    }

    /// The names that a message is waited for of.
    pub(crate) fn listened_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.waits.listening.keys()
    }

    /// The names of which the run began or ceased to wait for a message, since the last call; some may be there twice.
    pub(crate) fn take_changed_names(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.waits.changed_names)
    }

    /// The event that something due is; `None` if nothing waits for it any more.
    pub(crate) fn event_of_due(&self, due: Due) -> Option<Event> {
        let (Due::Woken(step) | Due::TimedOut(step, _)) = due;
        let (_, segment, index) = self.locate(step)?;
        match (due, &segment.nodes[index as usize].state) {
            (Due::Woken(_), State::Sleeping(_)) => Some(Event::StepSucceeded {
                step,
                value: Value::of_nothing(),
            }),
            (Due::Woken(_), _)
            | (
                Due::TimedOut(..),
                State::Done(_)
                | State::Ran(_)
                | State::Failed(_)
                | State::Gone(_)
                | State::Decided(_),
            ) => None,
            (Due::TimedOut(_, limit), _) => Some(Event::AttemptFailed {
                step,
                failure: Failure {
                    kind: StepErrorKind::Timeout,
                    message: format!("it took longer than {limit:?}"),
                    causes: Vec::new(),
                },
                retry_at: None,
            }),
        }
    }

    /// The runs that were begun, or are to be, and are the run's as long as it is not canceled: that are waited for, or that took
    /// too long, so that the run fails, and would be waited for again if it was resumed.
    pub(crate) fn children(&self) -> Vec<RunId> {
        let mut children = Vec::new();
        for segment in self.segments.values() {
            for (node, index) in segment.nodes.iter().zip(0..) {
                if let NodeKind::Child(child) = &segment.plan.node(index).kind
                    && node.state.has_child()
                {
                    children.push(child.id.clone());
                }
            }
        }
        children
    }

    /// The runs that a failed run waits for, or failed by: what it needs when it is resumed.
    pub(crate) fn children_to_retry(&self) -> Vec<RunId> {
        let mut children = Vec::new();
        for segment in self.segments.values() {
            for (node, index) in segment.nodes.iter().zip(0..) {
                if let NodeKind::Child(child) = &segment.plan.node(index).kind
                    && matches!(node.state, State::Away { .. } | State::Failed(_))
                {
                    children.push(child.id.clone());
                }
            }
        }
        children
    }

    /// Child runs to be begun or looked after, since the last call.
    pub(crate) fn take_children(&mut self) -> Vec<ChildToBegin> {
        if self.phase != Phase::Active {
            return Vec::new();
        }
        let mut to_begin = std::mem::take(&mut self.waits.to_begin);
        // After a crash, some may stand there twice.
        to_begin.sort_unstable();
        to_begin.dedup();
        to_begin
            .into_iter()
            .filter_map(|step| self.child(step))
            .collect()
    }

    /// The run that a node waits for.
    pub(crate) fn child(&self, step: StepId) -> Option<ChildToBegin> {
        let (_, segment, index) = self.locate(step)?;
        let State::Away { has_begun } = segment.nodes[index as usize].state else {
            return None;
        };
        let NodeKind::Child(child) = &segment.plan.node(index).kind else {
            return None;
        };
        let child = (**child).clone();
        Some(ChildToBegin {
            step,
            child,
            has_begun,
        })
    }

    /// Runs that were begun for nodes that are no longer needed, since the last call.
    pub(crate) fn take_orphans(&mut self) -> Vec<RunId> {
        std::mem::take(&mut self.waits.orphans)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn sleeps_for_audit(&self) -> BTreeSet<(Timestamp, StepId)> {
        &self.waits.sleeps | &self.waits.dates
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn waits_for_audit(&self) -> ForAudit<'_> {
        (&self.waits.listening, &self.waits.away, &self.waits.limits)
    }

    /// The limits that are set, for a snapshot.
    pub(super) fn limits(&self) -> Vec<(StepId, Timestamp)> {
        self.waits
            .limits
            .iter()
            .map(|(id, at)| (*id, *at))
            .collect()
    }

    /// Takes over what a snapshot says of a node that waits.
    pub(super) fn restore_wait(&mut self, id: StepId, kind: &NodeKind, state: &State) {
        match state {
            State::Backoff(due_at) => {
                self.timers.insert((*due_at, id));
            }
            State::Sleeping(due_at) => {
                let times = match kind {
                    NodeKind::Sleep(Until::At(_)) => &mut self.waits.dates,
                    _ => &mut self.waits.sleeps,
                };
                times.insert((*due_at, id));
            }
            State::Away { .. } => {
                self.waits.away.insert(id);
                self.waits.to_begin.push(id);
            }
            _ => return,
        }
        // Its limit may not have been set yet.
        self.waits.clocks.push(id);
    }

    pub(super) fn restore_limits(&mut self, limits: Vec<(StepId, Timestamp)>) {
        for (id, at) in limits {
            if self.may_have_limit(id) {
                self.set_limit(id, at);
            }
        }
    }

    /// The result of a node that works it out of its inputs, if enough of them are done.
    pub(super) fn combined(&self, id: StepId) -> Option<Value> {
        let (_, segment, index) = self.locate(id)?;
        let node = segment.plan.node(index);
        let value = |input: u32| match &segment.nodes[input as usize].state {
            State::Done(value) | State::Ran(value) => Some(value),
            _ => None,
        };
        let is_complete = segment.nodes[index as usize].n_pending == 0;
        match &node.kind {
            NodeKind::Value(value) if is_complete => Some(value.clone()),
            NodeKind::Catch(inner) if is_complete => Some(value(*inner)?.ok()),
            NodeKind::All(inputs) if is_complete => {
                let values: Option<Vec<&Value>> =
                    inputs.iter().map(|input| value(*input)).collect();
                Some(Value::list(values?.into_iter()))
            }
            NodeKind::First(told, branches) => {
                let mut after = node.extra.iter().flat_map(|extra| extra.after.iter());
                if !after.all(|input| value(*input).is_some()) {
                    return None;
                }
                let decided = match segment.nodes[index as usize].state {
                    State::Decided(place) => Some(place),
                    _ => None,
                };
                let branches = (0u32..).zip(branches);
                let may_win = |place: u32| decided.is_none_or(|decided| decided == place);
                let may_win = branches.filter(|(place, _)| may_win(*place));
                let mut ended = may_win.filter_map(|(place, input)| {
                    let value = value(*input)?;
                    Some((place, value))
                });
                let (place, value) = ended.next()?;
                Some(match told {
                    First::Either => value.either(place == 0),
                    First::Alone => value.clone(),
                    First::Placed => Value::list([&Value::of_number(place), value].into_iter()),
                })
            }
            _ => None,
        }
    }
}
