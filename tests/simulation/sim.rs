//! One simulation: engines that come and go, users that start, cancel, suspend, resume and delete runs of random programs, and
//! a store that goes wrong. All of it follows from one seed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstep::storage::fault::{Call, Effect, Fault, On};
use keepstep::{Error, Result, Status};
use tokio::task::JoinHandle;

use crate::invariants::{error_is_fair, outcome_is_true, unknown_is_not_found, views_agree};
use crate::programs::{Maker, Out, Prog};
use crate::world::{Limits, Opened, World, block_on};

/// Longer than anything takes in virtual time.
const HANG: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a run may be interrupted once the store is well: by what came late.
const MAX_TURNS: usize = 30;

/// What came of a simulation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) hash: u64,
    pub(crate) n_bodies: u64,
    pub(crate) n_refused: u64,
}

/// Simulates a seed; `say` prints what happens.
pub(crate) fn simulate(seed: u64, say: bool) -> Outcome {
    block_on(async {
        let mut sim = Sim::new(seed);
        sim.world.ledger.say(say);
        sim.live().await;
        sim.come_to_rest().await;
        let ledger = &sim.world.ledger;
        let (n_bodies, n_refused) = ledger.counts();
        Outcome {
            violations: ledger.violations(),
            hash: ledger.hash(),
            n_bodies,
            n_refused,
        }
    })
}

/// An id that users use.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) id: String,
    pub(crate) prog: Prog,
    /// Somebody has asked to cancel the run.
    pub(crate) may_be_canceled: bool,
    /// Somebody deletes it now: nobody else does anything to it.
    pub(crate) is_being_deleted: bool,
}

/// A call that a user waits for.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) task: JoinHandle<()>,
    pub(crate) engine: usize,
    pub(crate) name: usize,
    /// It stops the run: two of these at once would wake up in no certain order.
    pub(crate) stops: bool,
}

pub(crate) struct Sim {
    pub(crate) rng: fastrand::Rng,
    pub(crate) world: World,
    pub(crate) engines: Vec<Opened>,
    pub(crate) names: Vec<Name>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) n_calls: usize,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let world = World::new(rng.u64(..));
        world
            .pace
            .slowest
            .store([0, 5, 60, 2000][rng.usize(..4)], Ordering::Relaxed);
        let names = (0..rng.usize(1..=5))
            .map(|n| Name::new(format!("r{n}"), &mut rng))
            .collect();
        Self {
            rng,
            world,
            engines: Vec::new(),
            names,
            waiting: Vec::new(),
            n_calls: 0,
        }
    }

    /// Faults, crashes and users' calls.
    async fn live(&mut self) {
        self.open().await;
        let has_faults = self.rng.u8(..4) > 0;
        for at in 0..self.rng.usize(5..60) {
            self.happen(has_faults).await;
            self.pass_time().await;
            self.tidy();
            let ids: Vec<String> = self.names.iter().map(|name| name.id.clone()).collect();
            views_agree(&self.world, &self.engines, &ids, at).await;
            if !self.world.ledger.violations().is_empty() {
                return;
            }
        }
    }

    async fn happen(&mut self, has_faults: bool) {
        let engine = self.rng.usize(..self.engines.len());
        match self.rng.u8(..100) {
            0..=39 => self.call_run(engine),
            40..=47 => self.call_stop(engine, true),
            48..=59 => self.call_stop(engine, false),
            60..=69 => self.call_resume(engine),
            70..=74 => self.call_delete(engine),
            75..=77 => {
                self.world.ledger.trace("somebody asks for nobody");
                let opened = self.engines[engine].clone();
                let asked = unknown_is_not_found(&self.world, &opened);
                if tokio::time::timeout(Duration::from_secs(60), asked)
                    .await
                    .is_err()
                {
                    self.world.faulty.release_held();
                }
            }
            78..=80 => self.crash(engine).await,
            81..=83 => self.shut_down(engine).await,
            84..=86 if self.engines.len() < 2 => self.open().await,
            87..=95 if has_faults => self.inject(),
            _ => {
                self.world.ledger.trace("the store is well");
                self.world.faulty.heal();
                self.world.faulty.release_held();
            }
        }
    }

    async fn pass_time(&mut self) {
        let pause = match self.rng.u8(..10) {
            0..=3 => 0,
            4..=7 => self.rng.u64(1..100),
            8 => self.rng.u64(100..3000),
            _ => self.rng.u64(3000..30_000),
        };
        if pause == 0 {
            for _ in 0..self.rng.usize(0..6) {
                tokio::task::yield_now().await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Forgets calls that are over, and gives a new program to ids that are free.
    fn tidy(&mut self) {
        self.waiting.retain(|waiting| !waiting.task.is_finished());
        for at in 0..self.names.len() {
            let is_used = self.waiting.iter().any(|waiting| waiting.name == at);
            let name = &mut self.names[at];
            if name.is_being_deleted && !is_used {
                let is_gone = self.world.ledger.stored(&name.id, |_| ()).is_none();
                name.is_being_deleted = false;
                if is_gone {
                    *name = Name::new(name.id.clone(), &mut self.rng);
                }
            }
        }
    }

    async fn open(&mut self) {
        let rng = &mut self.rng;
        let limits = Limits {
            steps: (rng.u8(..3) == 0).then(|| rng.usize(1..4)),
            runs: (rng.u8(..3) == 0).then(|| rng.usize(1..4)),
        };
        let opened = self.world.open(limits).await;
        let what = format!("engine {} opens", opened.number);
        self.world.ledger.trace(&what);
        self.engines.push(opened);
    }

    /// An engine's process dies, and another one comes.
    async fn crash(&mut self, at: usize) {
        let dead = self.engines.remove(at);
        let number = dead.number;
        self.world.ledger.trace(&format!("engine {number} dies"));
        for waiting in &self.waiting {
            if waiting.engine == number {
                waiting.task.abort();
            }
        }
        dead.crash();
        for _ in 0..self.rng.usize(0..4) {
            tokio::task::yield_now().await;
        }
        if self.engines.is_empty() {
            self.open().await;
        }
    }

    async fn shut_down(&mut self, at: usize) {
        let old = self.engines.remove(at);
        let what = format!("engine {} shuts down", old.number);
        self.world.ledger.trace(&what);
        let mut shutdown = Box::pin(old.engine.shutdown());
        let mut turns = 0;
        let shut = loop {
            let patience = Duration::from_secs(60);
            match tokio::time::timeout(patience, &mut shutdown).await {
                Ok(shut) => break shut,
                Err(_) if turns > 100 => {
                    self.world.ledger.violated("shutdown hangs".to_owned());
                    break Ok(());
                }
                Err(_) => self.world.faulty.release_held(),
            }
            turns += 1;
        };
        drop(shutdown);
        if let Err(error) = shut {
            error_is_fair(&self.world.ledger, "shutdown", &error);
        }
        // What waits for it is told.
        for waiting in &mut self.waiting {
            if waiting.engine != old.number {
                continue;
            }
            // A call that was in the middle may be held up by the store.
            let patience = Duration::from_secs(60);
            let mut turns = 0;
            while tokio::time::timeout(patience, &mut waiting.task)
                .await
                .is_err()
            {
                self.world.faulty.release_held();
                turns += 1;
                if turns > 100 {
                    let what = "somebody waits for an engine that was shut down".to_owned();
                    self.world.ledger.violated(what);
                    break;
                }
            }
        }
        let number = old.number;
        self.waiting.retain(|waiting| waiting.engine != number);
        if self.engines.is_empty() {
            self.open().await;
        }
    }

    fn inject(&mut self) {
        let rng = &mut self.rng;
        let calls = [
            Call::Commit,
            Call::Commit,
            Call::Commit,
            Call::Claim,
            Call::Release,
            Call::Delete,
            Call::PutBlob,
            Call::Read,
        ];
        let on = match rng.u8(..6) {
            0 => On::Any,
            1 => On::AnyWrite,
            _ => On::Call(calls[rng.usize(..calls.len())]),
        };
        let picked = rng.u8(..);
        let effect = match rng.u8(..16) {
            0..=3 => Effect::Fail,
            4..=7 => Effect::FailAfter,
            8..=9 => Effect::tear(move |run| {
                let n = run.as_str().as_bytes().last().map_or(0, |byte| byte % 8);
                picked & (1 << n) != 0
            }),
            10..=11 => Effect::Delay,
            12..=13 => Effect::DelayAfter,
            14 => Effect::Poison,
            _ => Effect::Crash,
        };
        let nth = rng.u64(1..8);
        let what = format!("at {on:?} {nth}: {effect:?}");
        self.world.ledger.trace(&what);
        self.world.faulty.inject(Fault::at(on, nth, effect));
    }

    /// The store is well from now on: every call returns, and every run ends as its program says.
    async fn come_to_rest(&mut self) {
        let ledger = Arc::clone(&self.world.ledger);
        if !ledger.violations().is_empty() {
            return;
        }
        ledger.trace("all is well");
        ledger.mend();
        self.world.faulty.heal();
        self.world.faulty.release_held();
        for waiting in std::mem::take(&mut self.waiting) {
            if tokio::time::timeout(HANG, waiting.task).await.is_err() {
                let id = &self.names[waiting.name].id;
                let what = format!("a call about {id} on {} hangs", waiting.engine);
                return ledger.violated(what);
            }
        }
        self.tidy();
        while self.engines.len() > 1 {
            let at = self.rng.usize(..self.engines.len());
            self.crash(at).await;
        }
        if self.rng.bool() {
            self.crash(0).await;
        }
        for at in 0..self.names.len() {
            match tokio::time::timeout(HANG, self.end(at)).await {
                Ok(Ok(())) => {}
                Ok(Err(what)) => return ledger.violated(what),
                Err(_) => {
                    let what = format!("{} does not end", self.names[at].id);
                    return ledger.violated(what);
                }
            }
        }
        let ids: Vec<String> = self.names.iter().map(|name| name.id.clone()).collect();
        views_agree(&self.world, &self.engines, &ids, 0).await;
    }

    /// Goes on with a run until it has ended.
    async fn end(&self, at: usize) -> Result<(), String> {
        let Name {
            id,
            prog,
            may_be_canceled,
            ..
        } = &self.names[at];
        let engine = &self.engines[0].engine;
        let ledger = &self.world.ledger;
        let expected = prog.value();
        let mut was_resumed = false;
        for turn in 0..MAX_TURNS {
            let what = format!("the last run of {id}, turn {turn}");
            ledger.trace(&what);
            let outcome: Result<Out> = if was_resumed {
                match engine.resume(id).await {
                    Ok(handle) => handle.await,
                    Err(error) => Err(error),
                }
            } else {
                engine.run(id, prog.build("")).await
            };
            outcome_is_true(ledger, id, &what, &outcome);
            match outcome {
                Ok(out) if Some(out.value) == expected => return self.kept(at, &out).await,
                Ok(out) => return Err(format!("{id} is {out:?}, not {expected:?}")),
                Err(Error::Canceled { .. }) if *may_be_canceled => return Ok(()),
                // It failed before what was broken was mended.
                Err(Error::Failed { .. }) if !was_resumed => was_resumed = true,
                Err(Error::Failed { .. }) if expected.is_none() => return Ok(()),
                Err(Error::Failed { error, .. }) => {
                    return Err(format!("{id} failed: {error}; it should be {expected:?}"));
                }
                Err(Error::Suspended { .. } | Error::Fenced { .. } | Error::Interrupted { .. }) => {
                }
                // What the engine drives was deleted by another, which it learns at its next write.
                Err(Error::IdConflict { .. }) if ledger.has_deleted() => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
                Err(error) => return Err(format!("{what}: {error}")),
            }
        }
        Err(format!("{id} comes to no end"))
    }

    /// What is kept of a run that was successful.
    async fn kept(&self, at: usize, out: &Out) -> Result<(), String> {
        let Name { id, prog, .. } = &self.names[at];
        let engine = &self.engines[0].engine;
        let says = |error: Error| format!("3: what is kept of {id}: {error}");
        let status = engine.status(id).await.map_err(says)?;
        let stored: Out = engine.output(id).await.map_err(says)?;
        if status != Status::Successful || stored != *out {
            return Err(format!("3: {id} is {status:?} and {stored:?}, not {out:?}"));
        }
        let mut named = Vec::new();
        prog.each(&mut |part| {
            if part.spec().is_named && part.value().is_some() && !part.spec().is_volatile {
                named.push((part.spec().name(), part.value()));
            }
        });
        for (name, value) in named {
            match engine.step_output::<Out>(id, &name).await {
                Ok(kept) if Some(kept.value) == value => {}
                // It is in a part that was caught before it came to that.
                Err(Error::StepNotFound { .. }) if !prog.is_sure() => {}
                other => return Err(format!("{id}: {name} is {other:?}, not {value:?}")),
            }
        }
        Ok(())
    }
}

impl Name {
    fn new(id: String, rng: &mut fastrand::Rng) -> Self {
        Self {
            id,
            prog: Maker::new(rng).program(),
            may_be_canceled: false,
            is_being_deleted: false,
        }
    }
}
