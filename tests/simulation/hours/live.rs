//! What happens while something is wrong: users' calls, engines that come and go, and the trouble itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstep::storage::StorageError;
use keepstep::{Error, Result};
use tokio::time::Instant;

use super::actors::{Harm, TallyHost, block, bomb};
use super::{HOUR, Hours, MINUTE, Trouble, Waiting, clock_at};
use crate::programs::{Message, Out, Prog, Spec};
use crate::world::Opened;

/// How long a shutdown may take, whatever is wrong.
const SHUTDOWN: Duration = Duration::from_secs(10 * 60);
/// How many processes a body may end before its run is stopped, with those of the crashes that go on meanwhile.
const MAX_BOMBS: u64 = 30;
/// How many calls of the store an engine may make in an hour in which no write is taken: it looks for work and renews its leases
/// each second then, and asks for what it has.
const MAX_CALLS_AN_HOUR: u64 = 16_000;
/// How often actors' calls may be made in such an hour.
const MAX_ADDS_AN_HOUR: u64 = 200;

impl Hours {
    pub(super) async fn live(&mut self) {
        for known in &self.known {
            self.trace(&format!("{} is {:?}", known.id, known.prog));
        }
        let n = if self.is_shared() {
            self.rng.usize(2..4)
        } else {
            1
        };
        for _ in 0..n {
            self.open().await;
        }
        self.set_up_schedule().await;
        for _ in 0..self.rng.usize(10..30) {
            self.happen().await;
            let pause = match self.rng.u8(..10) {
                0..=4 => Duration::from_millis(self.rng.u64(0..5000)),
                5..=8 => Duration::from_secs(self.rng.u64(5..300)),
                _ => MINUTE * self.rng.u32(5..40),
            };
            self.pass(pause).await;
            if !self.world.ledger.violations().is_empty() {
                return;
            }
        }
    }

    async fn happen(&mut self) {
        let engine = self.rng.usize(..self.engines.len());
        match self.rng.u8(..100) {
            0..=39 => self.call_start(engine),
            40..=54 => self.call_send(engine),
            55..=69 => self.call_add(engine),
            70..=74 => self.call_look(engine),
            _ => self.go_wrong(engine).await,
        }
    }

    async fn go_wrong(&mut self, engine: usize) {
        match self.trouble {
            Trouble::Restarts if self.rng.bool() => self.crash(engine).await,
            Trouble::Restarts => self.shut_down(engine).await,
            Trouble::Outage => self.break_down().await,
            Trouble::Clocks => self.set_clock(engine).await,
            Trouble::Together => self.start_together().await,
            Trouble::Blocked => self.start_harm(engine, "block").await,
            Trouble::Bomb => self.start_harm(engine, "bomb").await,
        }
    }

    /// Opens an engine. Where its store fails, again a minute later.
    pub(super) async fn open(&mut self) {
        let clock = clock_at(self.now());
        // Each process may have other limits than the one before.
        let mut limits = self.limits;
        limits.runs = limits.runs.map(|runs| self.rng.usize(1..=runs));
        limits.pending = limits.pending.map(|runs| self.rng.usize(1..=runs));
        let done = Arc::clone(&self.done);
        loop {
            let done = Arc::clone(&done);
            let opening = self
                .world
                .open_with(limits, clock.clone(), |builder, engine, wire| {
                    builder.resource(Harm {
                        engine,
                        wire: Arc::clone(wire),
                        done,
                    })
                });
            match opening.await {
                Ok(opened) => {
                    self.trace(&format!("engine {} opens", opened.number));
                    self.engines.push(opened);
                    return;
                }
                Err(error) => {
                    self.trace(&format!("opening: {error}"));
                    tokio::time::sleep(MINUTE).await;
                }
            }
        }
    }

    pub(super) async fn crash(&mut self, at: usize) {
        let dead = self.engines.remove(at);
        self.trace(&format!("engine {} dies", dead.number));
        for waiting in self.waiting.extract_if(.., |w| w.engine == dead.number) {
            waiting.task.abort();
        }
        dead.crash();
        // A process takes a moment to come back, in which nothing of the old one is left.
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.open().await;
        // Whoever starts a process has it set up its schedules.
        self.set_up_schedule().await;
    }

    pub(super) async fn shut_down(&mut self, at: usize) {
        let old = self.engines.remove(at);
        self.trace(&format!("engine {} shuts down", old.number));
        match tokio::time::timeout(SHUTDOWN, old.engine.shutdown()).await {
            Ok(shut) => self.trace(&format!("shut down: {shut:?}")),
            Err(_) => self.violated(format!("engine {} does not shut down", old.number)),
        }
        for waiting in self.waiting.extract_if(.., |w| w.engine == old.number) {
            let what = waiting.what;
            if tokio::time::timeout(SHUTDOWN, waiting.task).await.is_err() {
                self.world
                    .ledger
                    .violated(format!("{what} waits for an engine that was shut down"));
            }
        }
        old.crash();
        self.open().await;
        self.set_up_schedule().await;
    }

    /// No engine can write for minutes or hours. Then it can again.
    async fn break_down(&mut self) {
        self.n_outages += 1;
        if self.n_outages > 2 {
            return;
        }
        let error = match self.rng.u8(..3) {
            // What a full disk says.
            0 => StorageError::Io {
                operation: "write",
                path: "a full disk".into(),
                source: Arc::new(io::ErrorKind::StorageFull.into()),
            },
            1 => StorageError::Io {
                operation: "write",
                path: "a slow disk".into(),
                source: Arc::new(io::ErrorKind::TimedOut.into()),
            },
            _ => StorageError::Io {
                operation: "write",
                path: "a bad disk".into(),
                source: Arc::new(io::Error::other("injected fault")),
            },
        };
        self.trace(&format!("from now on writes fail: {error}"));
        self.set_outage(Some(&error));
        let hours = self.rng.u32(1..4);
        for hour in 0..hours {
            self.calls_before = self.n_calls();
            let adds = self.done.n_adds.load(Ordering::Relaxed);
            let engine = self.rng.usize(..self.engines.len());
            if self.rng.u8(..8) == 0 {
                self.call_add(engine);
            }
            for _ in 0..60 {
                self.pass(MINUTE).await;
                let made = self.n_calls() - self.calls_before;
                if made > MAX_CALLS_AN_HOUR * self.engines.len() as u64 {
                    return self.violated(format!("14: {made} calls in an hour without a write"));
                }
            }
            let made = self.n_calls() - self.calls_before;
            self.trace(&format!("{made} calls in hour {hour} of an outage"));
            let added = self.done.n_adds.load(Ordering::Relaxed) - adds;
            if added > MAX_ADDS_AN_HOUR {
                self.violated(format!(
                    "14: a call that can't be written was made {added} times"
                ));
            }
        }
        if self.rng.u8(..4) == 0 {
            let at = self.rng.usize(..self.engines.len());
            let old = self.engines[at].number;
            self.trace(&format!(
                "engine {old} shuts down while nothing can be written"
            ));
            let shutdown = self.engines[at].engine.clone();
            if tokio::time::timeout(SHUTDOWN, shutdown.shutdown())
                .await
                .is_err()
            {
                self.violated(format!("engine {old} does not shut down"));
            }
            self.trace("the store is well");
            self.set_outage(None);
            return self.crash(at).await;
        }
        self.trace("the store is well");
        self.set_outage(None);
    }

    /// How many calls all engines made of the store.
    fn n_calls(&self) -> u64 {
        let calls = |opened: &Opened| opened.wire.n_calls.load(Ordering::Relaxed);
        self.engines.iter().map(calls).sum()
    }

    fn set_outage(&mut self, error: Option<&StorageError>) {
        for opened in &self.engines {
            let mut outage = opened.wire.outage.lock().expect("nobody panics with it");
            *outage = error.cloned();
        }
        self.well_since = error.is_none().then(Instant::now);
        self.may_have_stopped = true;
    }

    /// An engine's clock is set, for a while. No process ends meanwhile: what its clock said is all that the next would know.
    async fn set_clock(&mut self, at: usize) {
        let clock = self.engines[at].clock.clone();
        let (what, to, pause) = match self.rng.u8(..3) {
            0 => (
                "an hour ahead",
                clock.now() + HOUR,
                MINUTE * self.rng.u32(1..30),
            ),
            1 => (
                "an hour back",
                clock.now() - HOUR,
                MINUTE * self.rng.u32(1..30),
            ),
            _ => ("a year ahead", clock.now() + 365 * 24 * HOUR, MINUTE),
        };
        let number = self.engines[at].number;
        self.trace(&format!("the clock of engine {number} is set {what}"));
        self.well_since = None;
        clock.set(to);
        self.pass(pause).await;
        self.trace(&format!("the clock of engine {number} is right"));
        clock.set(self.now());
        self.well_since = Some(Instant::now());
    }

    /// All processes are replaced by new ones at once, which have another expression for the schedule.
    async fn start_together(&mut self) {
        let n = self.engines.len();
        for _ in 0..n {
            let old = self.engines.remove(0);
            for waiting in self.waiting.extract_if(.., |w| w.engine == old.number) {
                waiting.task.abort();
            }
            old.crash();
        }
        for _ in 0..n {
            self.open().await;
        }
        self.n_schedules += 1;
        let cron = ["*/10 * * * *", "*/5 * * * *"][self.n_schedules as usize % 2];
        let mut calls = Vec::new();
        for opened in &self.engines {
            let (engine, workflow) = (opened.engine.clone(), scheduled());
            calls.push(tokio::spawn(async move {
                let schedule = engine.schedule("often", cron, workflow);
                schedule.await
            }));
        }
        for call in calls {
            match tokio::time::timeout(MINUTE, call).await {
                Ok(Ok(Ok(()))) => {}
                other => self.violated(format!("24: a schedule could not be set up: {other:?}")),
            }
        }
    }

    async fn set_up_schedule(&mut self) {
        let engine = self.engines[self.engines.len() - 1].engine.clone();
        let cron = ["*/10 * * * *", "*/5 * * * *"][self.n_schedules as usize % 2];
        let schedule = engine.schedule("often", cron, scheduled());
        let set_up = tokio::time::timeout(10 * MINUTE, schedule).await;
        match set_up {
            Ok(Ok(())) => {}
            Ok(Err(Error::Storage(_))) if self.well_since.is_none() => {}
            other => self.violated(format!("a schedule could not be set up: {other:?}")),
        }
    }

    async fn start_harm(&mut self, engine: usize, what: &'static str) {
        if self.harmful.len() > 1 {
            return;
        }
        let id = format!("{what}{}", self.harmful.len());
        self.trace(&format!("somebody starts {id}"));
        let engine = &self.engines[engine].engine;
        let started = match what {
            "bomb" => engine.start(&id, bomb()).await.map(drop),
            _ => engine.start(&id, block(45)).await.map(drop),
        };
        match started {
            Ok(()) => self.harmful.push(id),
            Err(error) => self.trace(&format!("starting {id}: {error}")),
        }
    }

    /// Has a user make a call.
    fn call(
        &mut self,
        engine: usize,
        what: String,
        is_long: bool,
        call: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let number = self.engines[engine].number;
        let what = format!("{what} on {number}");
        self.trace(&what);
        let ledger = Arc::clone(&self.world.ledger);
        let says = what.clone();
        let task = tokio::spawn(async move {
            let told = match call.await {
                Ok(()) => "done".to_owned(),
                Err(error) => error.to_string(),
            };
            ledger.trace_unordered(&format!("{says}: {told}"));
        });
        self.waiting.push(Waiting {
            task,
            engine: number,
            what,
            since: Instant::now(),
            is_long,
        });
    }

    fn call_start(&mut self, engine: usize) {
        let at = self.rng.usize(..self.known.len());
        self.known[at].is_started = true;
        let (id, workflow) = (self.known[at].id.clone(), self.known[at].prog.build(""));
        let called = self.engines[engine].engine.clone();
        let waits = self.rng.bool();
        self.call(engine, format!("run {id}"), waits, async move {
            let handle = called.start(&id, workflow).await?;
            if waits {
                handle.await?;
            }
            Ok(())
        });
    }

    fn call_send(&mut self, engine: usize) {
        let at = self.rng.usize(..self.known.len());
        let id = self.known[at].id.clone();
        let names: Vec<String> = self.known[at].prog.waits_for().into_keys().collect();
        let Some(name) = self.rng.choice(names) else {
            return;
        };
        let text = self.world.ledger.post(|post| post.write(&id, &name, None));
        let called = self.engines[engine].engine.clone();
        self.call(engine, format!("send {name} to {id}"), false, async move {
            let message = Message { text };
            called.send_event(&id, &name, &message).await
        });
    }

    fn call_add(&mut self, engine: usize) {
        let called = self.engines[engine].engine.clone();
        let added = Arc::clone(&self.added);
        self.call(engine, "add to the tally".to_owned(), false, async move {
            let tally = TallyHost::get_or_create(&called).await?;
            tally.add(1).send().await?;
            added.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
    }

    fn call_look(&mut self, engine: usize) {
        let at = self.rng.usize(..self.known.len());
        let id = self.known[at].id.clone();
        let called = self.engines[engine].engine.clone();
        self.call(engine, format!("look at {id}"), false, async move {
            called.status(&id).await.map(drop)
        });
    }

    /// Lets time pass. Processes whose body ends them end meanwhile, and each minute somebody looks whether all goes on.
    pub(super) async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let next = until.min(Instant::now() + MINUTE);
            let done = Arc::clone(&self.done);
            let has_doomed = tokio::select! {
                biased;
                () = done.has_doomed.notified() => true,
                () = tokio::time::sleep_until(next) => false,
            };
            for number in self.done.take_doomed() {
                if let Some(at) = self.engines.iter().position(|of| of.number == number) {
                    self.crash(at).await;
                }
            }
            if self.done.n_bombs.load(Ordering::Relaxed) > MAX_BOMBS {
                self.violated("22: a body ends its process again and again".to_owned());
                return;
            }
            if !has_doomed {
                self.look();
            }
            if Instant::now() >= until || !self.world.ledger.violations().is_empty() {
                return;
            }
        }
    }
}

/// What each run of the schedule is.
fn scheduled() -> keepstep::Workflow<Out> {
    let spec = Spec {
        label: 1,
        ..Spec::default()
    };
    Prog::Leaf(spec).build("")
}
