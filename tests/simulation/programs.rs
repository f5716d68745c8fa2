//! Programs: trees that say what each step does, the workflows made of them, and what they come to by direct interpretation.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ledger::{Came, Ledger};

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
}

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

/// What an engine gives to the steps: which engine it is, and the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) engine: usize,
    pub(crate) ledger: Arc<Ledger>,
}

impl Probe {
    /// The body of every step: the token of its result, or what it fails with.
    async fn act(&self, spec: &Spec, inputs: &[&str]) -> Result<String, String> {
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
    let token = probe.act(&spec, &[input]).await?;
    Ok(out(&spec, value + value_of(&spec), token))
}

fn value_of(spec: &Spec) -> i64 {
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
        };
        let spec = self.spec();
        let workflow = workflow.retries(spec.retries);
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
            | Self::Catch(spec, _) => spec,
        }
    }

    /// What the program comes to, when all that was broken is mended; `None` if it fails.
    pub(crate) fn value(&self) -> Option<i64> {
        let spec = self.spec();
        if spec.fails > spec.retries {
            return None;
        }
        let own = value_of(spec);
        match self {
            Self::Leaf(_) => Some(own),
            Self::Gather(_, of) => {
                let of: Option<Vec<i64>> = of.iter().map(Self::value).collect();
                Some(of?.iter().sum::<i64>() + own)
            }
            Self::Twice(_, of) => Some(2 * of.value()? + own),
            Self::Expand(_, into) => into.value(),
            Self::Loop(_, rounds) => Some((1..=i64::from(*rounds)).sum()),
            Self::Catch(_, of) => Some(of.value().unwrap_or(-1) + own),
        }
    }

    /// Whether every part of it succeeds, so that all of them run.
    pub(crate) fn is_sure(&self) -> bool {
        let mut is_sure = true;
        self.each(&mut |part| is_sure &= part.value().is_some());
        is_sure
    }

    /// Every part of the program.
    pub(crate) fn each(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        match self {
            Self::Leaf(_) | Self::Loop(..) => {}
            Self::Gather(_, of) => of.iter().for_each(|prog| prog.each(visit)),
            Self::Twice(_, of) | Self::Expand(_, of) | Self::Catch(_, of) => of.each(visit),
        }
    }
}

impl Spec {
    pub(crate) fn name(&self) -> String {
        format!("n{}", self.label)
    }
}

/// Where a part of a program stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Another step takes what it yields.
    is_input: bool,
    is_caught: bool,
}

/// Makes random programs.
#[derive(Debug)]
pub(crate) struct Maker<'a> {
    pub(crate) rng: &'a mut fastrand::Rng,
    labels: u32,
    /// How many more steps the program may have.
    room: u32,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(rng: &'a mut fastrand::Rng) -> Self {
        let room = rng.u32(1..20);
        Self {
            rng,
            labels: 0,
            room,
        }
    }

    /// A program.
    pub(crate) fn program(&mut self) -> Prog {
        self.prog(4, Place::default())
    }

    fn prog(&mut self, depth: u32, place: Place) -> Prog {
        let leaf = self.spec(place);
        let spec = Spec {
            is_volatile: false,
            ..leaf.clone()
        };
        self.room = self.room.saturating_sub(1);
        if depth == 0 || self.room == 0 {
            return Prog::Leaf(leaf);
        }
        let inner = |maker: &mut Self, place| Box::new(maker.prog(depth - 1, place));
        let input = Place {
            is_input: true,
            ..place
        };
        let caught = Place {
            is_input: true,
            is_caught: true,
        };
        match self.rng.u8(..10) {
            0 | 1 => Prog::Leaf(leaf),
            2..=4 => {
                let width = self.rng.usize(1..=6);
                Prog::Gather(
                    spec,
                    (0..width).map(|_| self.prog(depth - 1, input)).collect(),
                )
            }
            5 => Prog::Twice(spec, inner(self, input)),
            6 | 7 => Prog::Expand(spec, inner(self, place)),
            8 => Prog::Loop(spec, self.rng.u32(0..6)),
            _ => Prog::Catch(spec, inner(self, caught)),
        }
    }

    fn spec(&mut self, place: Place) -> Spec {
        self.labels += 1;
        let rng = &mut *self.rng;
        let retries = rng.u32(0..4);
        let is_volatile = rng.u8(..6) == 0;
        let fails = match rng.u8(..20) {
            0..=13 => 0,
            14..=18 => rng.u32(0..=retries),
            _ => retries + 1,
        };
        Spec {
            label: self.labels,
            fails,
            retries,
            panics: rng.u8(..4) == 0,
            sleeps_ms: if rng.bool() { 0 } else { rng.u64(0..400) },
            is_polite: rng.bool(),
            is_volatile,
            is_patient: rng.u8(..6) == 0,
            // Who waits for a run would read its long output, and several do that in no certain order.
            is_big: place.is_input && !is_volatile && rng.u8(..40) == 0,
            is_named: rng.u8(..4) == 0,
            // What is caught must come to the same before and after it is mended.
            is_broken: !place.is_caught && rng.u8(..60) == 0,
            origin: String::new(),
        }
    }
}
