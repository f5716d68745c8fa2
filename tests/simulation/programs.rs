//! Programs: trees that say what each step does, and the workflows made of them. `oracle.rs` says what they come to, `maker.rs`
//! makes random ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ledger::{Came, Ledger, Saw};

/// Longer than what is kept in a journal.
const BIG: usize = 70 << 10;

/// A program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Prog {
    Leaf(Spec),
    /// Many side by side, and a step that takes them all.
    Gather(Spec, Vec<Prog>),
    /// One workflow used twice.
    Twice(Spec, Box<Prog>),
    /// A step, and what it returns to run in its place.
    Expand(Spec, Box<Prog>),
    /// A step that returns itself, so many times.
    Loop(Spec, u32),
    /// Goes on whatever the inner one comes to.
    Catch(Spec, Box<Prog>),
    /// A step after a sleep of so many milliseconds.
    Nap(Spec, u64),
    /// A step after another one, whose result it does not use.
    After(Spec, Box<Prog>),
    /// The first of several, read by two steps.
    First(Spec, [Spec; 2], Vec<Prog>, Limit),
    /// One against a sleep of so many milliseconds, read by two steps.
    Race(Spec, [Spec; 2], Box<Prog>, u64),
    /// A list of all, and a step that takes it.
    All(Spec, Vec<Prog>, Limit),
    /// A step that takes a message of this name.
    Event(Spec, String, Limit),
    /// A run of this id, and a step that takes its output.
    Child(Spec, String, Box<Prog>, Limit),
}

/// How many milliseconds a wait may take.
pub(crate) type Limit = Option<u64>;

/// What a race yields when the clock wins.
pub(crate) const CLOCK: i64 = 7;

/// What one step does.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Another one for every step of a program; never 0.
    pub(crate) label: u32,
    /// Its first executions fail.
    pub(crate) fails: u32,
    pub(crate) retries: u32,
    /// It fails by a panic.
    pub(crate) panics: bool,
    pub(crate) sleeps_ms: u64,
    /// How many milliseconds an attempt may take; 0 for as many as it wants.
    pub(crate) limit_ms: u64,
    /// It takes its token, and ends early when it is told to stop.
    pub(crate) is_polite: bool,
    pub(crate) is_volatile: bool,
    /// Its retries wait for so long that the run leaves memory.
    pub(crate) is_patient: bool,
    pub(crate) is_big: bool,
    pub(crate) is_named: bool,
    /// It fails until the ledger says that what was broken is mended.
    pub(crate) is_broken: bool,
    /// The token of the expansion it belongs to.
    pub(crate) origin: String,
}

/// What a step yields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Out {
    pub(crate) value: i64,
    /// Tells which execution it is of.
    pub(crate) token: String,
    padding: String,
}

/// What a user sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Tells which one it is.
    pub(crate) text: String,
}

/// What an engine gives to the steps: which engine it is, and the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) engine: usize,
    pub(crate) ledger: Arc<Ledger>,
}

impl Probe {
    /// The body of every step: the token of its result, or what it fails with.
    async fn act(&self, spec: &Spec, inputs: &[&str]) -> Result<String, String> {
        self.act_on(spec, inputs, None).await
    }

    /// The body of a step that may be given one thing or another: `saw` is which, and the label of what decides that.
    async fn act_on(
        &self,
        spec: &Spec,
        inputs: &[&str],
        saw: Option<(u32, Saw)>,
    ) -> Result<String, String> {
        if let Some((label, saw)) = saw {
            self.ledger.saw(label, saw);
        }
        let mut inputs = inputs.to_vec();
        inputs.push(&spec.origin);
        let (label, retries) = (spec.label, spec.retries);
        let execution = self
            .ledger
            .begin(self.engine, label, retries, spec.is_volatile, &inputs);
        if spec.sleeps_ms > 0 {
            let sleep = tokio::time::sleep(Duration::from_millis(spec.sleeps_ms));
            if spec.is_polite {
                let token = context().cancellation_token();
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    () = sleep => {}
                }
            } else {
                sleep.await;
            }
        }
        let is_broken = spec.is_broken && !self.ledger.is_mended();
        if context().attempt() > spec.fails && !is_broken {
            return Ok(execution.ends(Came::Well));
        }
        let token = execution.ends(Came::Failed);
        assert!(!spec.panics, "{token}");
        Err(token)
    }
}

fn out(spec: &Spec, value: i64, token: String) -> Out {
    let padding = if spec.is_big {
        "x".repeat(BIG)
    } else {
        String::new()
    };
    Out {
        value,
        token,
        padding,
    }
}

#[step(backoff = "20ms..1s")]
async fn leaf(spec: Spec, #[resource] probe: &Probe) -> Result<Out, String> {
    let token = probe.act(&spec, &[]).await?;
    Ok(out(&spec, value_of(&spec), token))
}

#[step(backoff = "8s..20s")]
async fn patient_leaf(spec: Spec, #[resource] probe: &Probe) -> Result<Out, String> {
    let token = probe.act(&spec, &[]).await?;
    Ok(out(&spec, value_of(&spec), token))
}

#[step(backoff = "20ms..1s", checkpoint = false)]
async fn volatile_leaf(spec: Spec, #[resource] probe: &Probe) -> Result<Out, String> {
    let token = probe.act(&spec, &[]).await?;
    Ok(out(&spec, value_of(&spec), token))
}

#[step(backoff = "20ms..1s")]
async fn gather(spec: Spec, of: Vec<Out>, #[resource] probe: &Probe) -> Result<Out, String> {
    let inputs: Vec<&str> = of.iter().map(|out| &*out.token).collect();
    let token = probe.act(&spec, &inputs).await?;
    let sum: i64 = of.iter().map(|out| out.value).sum();
    Ok(out(&spec, sum + value_of(&spec), token))
}

#[step(backoff = "20ms..1s")]
async fn pair(spec: Spec, a: Out, b: Out, #[resource] probe: &Probe) -> Result<Out, String> {
    let token = probe.act(&spec, &[&a.token, &b.token]).await?;
    Ok(out(&spec, a.value + b.value + value_of(&spec), token))
}

#[step(backoff = "20ms..1s")]
async fn expand(
    spec: Spec,
    into: Prog,
    #[resource] probe: &Probe,
) -> Result<Workflow<Out>, String> {
    let token = probe.act(&spec, &[]).await?;
    Ok(into.build(&token))
}

#[step(backoff = "20ms..1s")]
async fn round(
    spec: Spec,
    left: u32,
    sum: i64,
    #[resource] probe: &Probe,
) -> Result<Workflow<Out>, String> {
    let token = probe.act(&spec, &[]).await?;
    if left == 0 {
        return Ok(Workflow::value(out(&spec, sum, token)));
    }
    let next = Spec {
        origin: token,
        ..spec.clone()
    };
    Ok(round(next, left - 1, sum + i64::from(left)).retries(spec.retries))
}

#[step(backoff = "20ms..1s")]
async fn recover(
    spec: Spec,
    of: Result<Out, StepError>,
    #[resource] probe: &Probe,
) -> Result<Out, String> {
    let (input, value) = match &of {
        Ok(out) => (&out.token, out.value),
        Err(error) => (&error.message, -1),
    };
    let saw = Saw {
        place: of.as_ref().ok().map(|_| 0),
        what: String::new(),
    };
    let saw = Some((spec.label, saw));
    let token = probe.act_on(&spec, &[input], saw).await?;
    Ok(out(&spec, value + value_of(&spec), token))
}

#[step(backoff = "20ms..1s")]
async fn woken(spec: Spec, _slept: (), #[resource] probe: &Probe) -> Result<Out, String> {
    let token = probe.act(&spec, &[]).await?;
    Ok(out(&spec, value_of(&spec), token))
}

#[step(backoff = "20ms..1s")]
async fn one(spec: Spec, of: Out, #[resource] probe: &Probe) -> Result<Out, String> {
    let token = probe.act(&spec, &[&of.token]).await?;
    Ok(out(&spec, of.value + value_of(&spec), token))
}

/// Reads what the race of this label came to.
#[step(backoff = "8s..20s")]
async fn reader(
    spec: Spec,
    race: u32,
    first: (usize, Out),
    #[resource] probe: &Probe,
) -> Result<Out, String> {
    let (place, of) = first;
    let saw = Saw {
        place: Some(place),
        what: of.token.clone(),
    };
    let token = probe.act_on(&spec, &[&of.token], Some((race, saw))).await?;
    Ok(out(&spec, of.value, token))
}

/// Reads what the race of this label against the clock came to.
#[step(backoff = "8s..20s")]
async fn clock_reader(
    spec: Spec,
    race: u32,
    first: Either<Out, ()>,
    #[resource] probe: &Probe,
) -> Result<Out, String> {
    let (place, value, of) = match first {
        Either::Left(of) => (0, of.value, of.token),
        Either::Right(()) => (1, CLOCK, String::new()),
    };
    let saw = Saw {
        place: Some(place),
        what: of.clone(),
    };
    let token = probe.act_on(&spec, &[&of], Some((race, saw))).await?;
    Ok(out(&spec, value, token))
}

#[step(backoff = "20ms..1s")]
async fn told(spec: Spec, message: Message, #[resource] probe: &Probe) -> Result<Out, String> {
    probe.ledger.uses(&message.text);
    let token = probe.act(&spec, &[]).await?;
    Ok(out(&spec, value_of(&spec), token))
}

pub(crate) fn value_of(spec: &Spec) -> i64 {
    i64::from(spec.label) * 1000
}

impl Prog {
    /// The workflow, as part of the expansion whose token is `origin`.
    pub(crate) fn build(&self, origin: &str) -> Workflow<Out> {
        let with_origin = |spec: &Spec| Spec {
            origin: origin.to_owned(),
            ..spec.clone()
        };
        let spec = with_origin(self.spec());
        let workflow = match self {
            Self::Leaf(_) if spec.is_volatile => volatile_leaf(spec),
            Self::Leaf(_) if spec.is_patient => patient_leaf(spec),
            Self::Leaf(_) => leaf(spec),
            Self::Gather(_, of) => {
                let of: Vec<_> = of.iter().map(|prog| prog.build(origin)).collect();
                gather(spec, of)
            }
            Self::Twice(_, of) => {
                let of = of.build(origin);
                pair(spec, of.clone(), of)
            }
            Self::Expand(_, into) => expand(spec, (**into).clone()),
            Self::Loop(_, rounds) => round(spec, *rounds, 0),
            Self::Catch(_, of) => recover(spec, of.build(origin).catch()),
            Self::Nap(_, ms) => woken(spec, sleep(millis(*ms))),
            Self::After(_, of) => leaf(spec).after(&of.build(origin)),
            Self::First(_, readers, of, limit) => {
                let label = spec.label;
                let of = of.iter().map(|prog| prog.build(origin));
                let first = within(select(of), *limit);
                let [a, b] = readers.each_ref().map(|of| {
                    let workflow = reader(with_origin(of), label, &first);
                    of.options(workflow)
                });
                pair(spec, a, b)
            }
            Self::Race(_, readers, of, ms) => {
                let label = spec.label;
                let first = race(of.build(origin), sleep(millis(*ms)));
                let [a, b] = readers.each_ref().map(|of| {
                    let workflow = clock_reader(with_origin(of), label, &first);
                    of.options(workflow)
                });
                pair(spec, a, b)
            }
            Self::All(_, of, limit) => {
                let of = of.iter().map(|prog| prog.build(origin));
                gather(spec, within(all(of), *limit))
            }
            Self::Event(_, name, limit) => told(spec, within(event(name), *limit)),
            Self::Child(_, id, of, limit) => one(spec, within(child(id, of.build(origin)), *limit)),
        };
        let spec = self.spec();
        let workflow = spec.options(workflow);
        if spec.is_named {
            workflow.name(spec.name())
        } else {
            workflow
        }
    }

    pub(crate) fn spec(&self) -> &Spec {
        match self {
            Self::Leaf(spec)
            | Self::Gather(spec, _)
            | Self::Twice(spec, _)
            | Self::Expand(spec, _)
            | Self::Loop(spec, _)
            | Self::Catch(spec, _)
            | Self::Nap(spec, _)
            | Self::After(spec, _)
            | Self::First(spec, ..)
            | Self::Race(spec, ..)
            | Self::All(spec, ..)
            | Self::Event(spec, ..)
            | Self::Child(spec, ..) => spec,
        }
    }

    /// What it directly consists of.
    pub(crate) fn parts(&self) -> &[Self] {
        match self {
            Self::Leaf(_) | Self::Loop(..) | Self::Nap(..) | Self::Event(..) => &[],
            Self::Gather(_, of) | Self::First(_, _, of, _) | Self::All(_, of, _) => of,
            Self::Twice(_, of)
            | Self::Expand(_, of)
            | Self::Catch(_, of)
            | Self::After(_, of)
            | Self::Race(_, _, of, _)
            | Self::Child(_, _, of, _) => std::slice::from_ref(of),
        }
    }

    /// Every part of the program that belongs to the same run.
    pub(crate) fn each(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        if !matches!(self, Self::Child(..)) {
            self.parts().iter().for_each(|part| part.each(visit));
        }
    }

    /// Whether any part of it fails until all that is broken is mended.
    pub(crate) fn is_broken(&self) -> bool {
        let readers: &[Spec] = match self {
            Self::First(_, readers, ..) | Self::Race(_, readers, ..) => readers,
            _ => &[],
        };
        self.spec().is_broken
            || readers.iter().any(|spec| spec.is_broken)
            || self.parts().iter().any(Self::is_broken)
    }

    /// Whether it may come to need no more what it began.
    pub(crate) fn may_abandon(&self) -> bool {
        let limit = match self {
            Self::First(..) | Self::Race(..) | Self::Catch(..) => return true,
            Self::All(_, _, limit) | Self::Child(_, _, _, limit) => *limit,
            _ => None,
        };
        limit.is_some() || self.parts().iter().any(Self::may_abandon)
    }

    /// How many messages of which name it may wait for.
    pub(crate) fn waits_for(&self) -> BTreeMap<String, usize> {
        let mut waits = BTreeMap::new();
        self.each(&mut |part| {
            if let Self::Event(_, name, _) = part {
                *waits.entry(name.clone()).or_default() += 1;
            }
        });
        waits
    }

    /// The program of each run that it starts in turn, outermost first.
    pub(crate) fn children(&self) -> Vec<(String, Self)> {
        let mut found = Vec::new();
        self.each(&mut |part| {
            if let Self::Child(_, id, of, _) = part {
                found.push((id.clone(), (**of).clone()));
            }
        });
        let deeper: Vec<_> = found.iter().flat_map(|(_, of)| of.children()).collect();
        found.extend(deeper);
        found
    }
}

impl Spec {
    pub(crate) fn name(&self) -> String {
        format!("n{}", self.label)
    }

    fn options(&self, workflow: Workflow<Out>) -> Workflow<Out> {
        let workflow = workflow.retries(self.retries);
        match self.limit_ms {
            0 => workflow,
            ms => workflow.timeout(millis(ms)),
        }
    }
}

fn within<T>(workflow: Workflow<T>, limit: Limit) -> Workflow<T> {
    match limit {
        None => workflow,
        Some(ms) => workflow.timeout(millis(ms)),
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
