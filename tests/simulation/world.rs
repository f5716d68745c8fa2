//! A simulated machine: a memory that outlives engines, a store over it that goes wrong on demand, and engines on that.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, Once};

use keepstep::storage::{Storage, fault::Faulty, memory};
use keepstep::{Clock, Engine, EngineBuilder, Result};
use tokio::sync::Semaphore;

use crate::hours::Leases;
use crate::ledger::Ledger;
use crate::programs::Probe;
use crate::store::{Bottom, Pace, Wire};
use crate::tokens::MAGIC;

/// Journals are compacted when they have more than so many bytes, and far more than what is needed of them.
const COMPACT_ABOVE: u64 = 4 << 10;

/// What outlives engines.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) bottom: Arc<Bottom>,
    pub(crate) faulty: Arc<Faulty>,
    pub(crate) pace: Arc<Pace>,
    /// Where several engines share the store.
    pub(crate) leases: Option<Arc<Leases>>,
    clock: Clock,
    seed: u64,
    n_engines: usize,
}

/// An engine with what it has of the world.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) number: usize,
    pub(crate) wire: Arc<Wire>,
    pub(crate) clock: Clock,
}

impl World {
    /// A new world. To be called in a runtime whose time is paused.
    pub(crate) fn new(seed: u64) -> Self {
        Self::on(memory(), None, seed)
    }

    /// A world whose store several engines share.
    pub(crate) fn shared(seed: u64) -> Self {
        let leases = Arc::new(Leases::new(memory()));
        Self::on(Arc::clone(&leases) as Arc<dyn Storage>, Some(leases), seed)
    }

    fn on(memory: Arc<dyn Storage>, leases: Option<Arc<Leases>>, seed: u64) -> Self {
        let ledger = Arc::new(Ledger::default());
        let bottom = Arc::new(Bottom {
            memory,
            ledger: Arc::clone(&ledger),
        });
        Self {
            faulty: Arc::new(Faulty::new(Arc::clone(&bottom) as Arc<dyn Storage>)),
            ledger,
            bottom,
            pace: Arc::new(Pace::seeded(seed)),
            leases,
            clock: Clock::tokio(),
            seed,
            n_engines: 0,
        }
    }

    /// Opens another engine. All of them have one clock.
    ///
    /// # Panics
    /// If the engine is to resume what it finds, and cannot.
    pub(crate) async fn open(&mut self, limits: Limits) -> Opened {
        let opened = self.try_open(limits).await;
        opened.expect("opening reads nothing")
    }

    /// Opens another engine, which may read, and fail.
    pub(crate) async fn try_open(&mut self, limits: Limits) -> Result<Opened> {
        let clock = self.clock.clone();
        self.open_with(limits, clock, |builder, _, _| builder).await
    }

    /// Opens another engine with a clock of its own, and whatever else it is given.
    pub(crate) async fn open_with(
        &mut self,
        limits: Limits,
        clock: Clock,
        with: impl FnOnce(EngineBuilder, usize, &Arc<Wire>) -> EngineBuilder,
    ) -> Result<Opened> {
        self.n_engines += 1;
        let number = self.n_engines;
        let wire = Arc::new(Wire {
            engine: number,
            faulty: Arc::clone(&self.faulty) as Arc<dyn Storage>,
            bottom: Arc::clone(&self.bottom),
            pace: Arc::clone(&self.pace),
            alive: Semaphore::new(0),
            is_closed: AtomicBool::new(false),
            shared: self.leases.as_ref().map(|leases| {
                let notices = tokio::sync::Mutex::new(leases.listen(number));
                (Arc::clone(leases), notices)
            }),
            outage: Mutex::default(),
            holds_renewals: Mutex::default(),
            n_calls: AtomicU64::new(0),
        });
        let mut builder = Engine::builder()
            .storage(Arc::clone(&wire))
            .clock(clock.clone())
            .worker(!limits.only_submits)
            .seed(self.seed.wrapping_add(number as u64))
            .resource(Probe {
                engine: number,
                ledger: Arc::clone(&self.ledger),
            });
        if let Some(steps) = limits.steps {
            builder = builder.max_concurrent_steps(steps);
        }
        if let Some(runs) = limits.runs {
            builder = builder.max_running_runs(runs);
        }
        if let Some(runs) = limits.pending {
            builder = builder.max_pending_runs(runs);
        }
        let engine = with(builder, number, &wire)
            .compact_above(COMPACT_ABOVE)
            .resume_on_open(limits.resumes)
            .build()
            .await?;
        Ok(Opened {
            engine,
            number,
            wire,
            clock,
        })
    }
}

/// What an engine may do at a time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) steps: Option<usize>,
    pub(crate) runs: Option<usize>,
    pub(crate) pending: Option<usize>,
    /// Opening goes on with what was interrupted.
    pub(crate) resumes: bool,
    /// It executes nothing.
    pub(crate) only_submits: bool,
}

impl Opened {
    /// The process dies: from now on nothing of it reaches the store.
    pub(crate) fn crash(self) {
        self.wire.alive.close();
    }
}

/// Keeps the panics that programs ask for out of the output.
pub(crate) fn hush_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let message = panic.payload().downcast_ref::<String>();
            if !message.is_some_and(|message| message.starts_with(MAGIC)) {
                others(panic);
            }
        }));
    });
}

/// Everything on one thread, in virtual time.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    hush_panics();
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}
