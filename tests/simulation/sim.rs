//! One simulation: engines that come and go, users that start, cancel, suspend, resume and delete runs of random programs and
//! send them messages, and a store that goes wrong. All of it follows from one seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keepstep::storage::fault::{Call, Effect, Fault, On};
use tokio::task::JoinHandle;

use crate::invariants::{error_is_fair, unknown_is_not_found, views_agree};
use crate::maker::Maker;
use crate::programs::Prog;
use crate::world::{Limits, Opened, World, block_on};

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
    /// The programs of the runs that it starts in turn, and their ids.
    pub(crate) children: Vec<(String, Prog)>,
    /// How many programs the id had before.
    generation: u32,
    /// How often somebody asked to start the run.
    pub(crate) n_starts: Arc<AtomicUsize>,
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
    /// Runs whose parent was deleted.
    pub(crate) orphans: Vec<(String, Prog)>,
    /// Two engines were open at a time: what one commits, the other is not told of.
    pub(crate) had_two: bool,
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
            .map(|n| Name::new(format!("r{n}"), 0, &mut rng))
            .collect();
        Self {
            rng,
            world,
            engines: Vec::new(),
            names,
            waiting: Vec::new(),
            n_calls: 0,
            orphans: Vec::new(),
            had_two: false,
        }
    }

    /// Faults, crashes and users' calls.
    async fn live(&mut self) {
        for name in &self.names {
            let what = format!("{} is {:?}", name.id, name.prog);
            self.world.ledger.trace(&what);
        }
        self.open().await;
        let has_faults = self.rng.u8(..4) > 0;
        for at in 0..self.rng.usize(5..60) {
            self.happen(has_faults).await;
            self.pass_time().await;
            self.tidy();
            let ids = self.ids();
            views_agree(&self.world, &self.engines, &ids, at).await;
            if !self.world.ledger.violations().is_empty() {
                return;
            }
        }
    }

    async fn happen(&mut self, has_faults: bool) {
        let engine = self.rng.usize(..self.engines.len());
        match self.rng.u8(..100) {
            0..=27 => self.call_run(engine),
            28..=38 => self.call_send(engine),
            39 => self.call_maintain(engine),
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
    pub(crate) fn tidy(&mut self) {
        self.waiting.retain(|waiting| !waiting.task.is_finished());
        for at in 0..self.names.len() {
            let is_used = self.waiting.iter().any(|waiting| waiting.name == at);
            let name = &mut self.names[at];
            if name.is_being_deleted && !is_used {
                let is_gone = self.world.ledger.stored(&name.id, |_| ()).is_none();
                name.is_being_deleted = false;
                if is_gone {
                    let next = Name::new(name.id.clone(), name.generation + 1, &mut self.rng);
                    let gone = std::mem::replace(name, next);
                    self.orphans.extend(gone.children);
                }
            }
        }
    }

    /// The ids of all runs that there may be.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.runs().map(|(id, _)| id.to_owned()).collect()
    }

    /// All runs that there may be: parents before their children.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&str, &Prog)> {
        let names = self.names.iter();
        let named = names.flat_map(|name| {
            let children = name.children.iter().map(|(id, prog)| (&**id, prog));
            std::iter::once((&*name.id, &name.prog)).chain(children)
        });
        named.chain(self.orphans.iter().map(|(id, prog)| (&**id, prog)))
    }

    async fn open(&mut self) {
        let rng = &mut self.rng;
        let runs = (rng.u8(..3) == 0).then(|| rng.usize(1..4));
        let mut limits = Limits {
            steps: (rng.u8(..3) == 0).then(|| rng.usize(1..4)),
            runs,
            pending: (runs.is_some() && rng.bool()).then(|| rng.usize(..3)),
            resumes: rng.u8(..3) == 0,
            only_submits: false,
        };
        let faulty = Arc::clone(&self.world.faulty);
        loop {
            let mut opening = Box::pin(self.world.try_open(limits));
            let patience = Duration::from_secs(60);
            let opened = loop {
                match tokio::time::timeout(patience, &mut opening).await {
                    Ok(opened) => break opened,
                    Err(_) => faulty.release_held(),
                }
            };
            drop(opening);
            match opened {
                Ok(opened) => {
                    let what = format!("engine {} opens", opened.number);
                    self.world.ledger.trace(&what);
                    self.engines.push(opened);
                    self.had_two |= self.engines.len() > 1;
                    return;
                }
                Err(error) => error_is_fair(&self.world.ledger, "opening", &error),
            }
            limits.resumes = false;
        }
    }

    /// An engine's process dies, and another one comes.
    pub(crate) async fn crash(&mut self, at: usize) {
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
            // A batch is atomic: what is torn apart are runs that have nothing to say to each other.
            8..=9 => Effect::tear(move |run| {
                let n = run.as_str().as_bytes().get(1).map_or(0, |byte| byte % 8);
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
}

impl Name {
    fn new(id: String, generation: u32, rng: &mut fastrand::Rng) -> Self {
        let prog = Maker::new(rng, format!("{id}-{generation}")).program();
        Self {
            children: prog.children(),
            id,
            prog,
            generation,
            n_starts: Arc::default(),
            may_be_canceled: false,
            is_being_deleted: false,
        }
    }
}
