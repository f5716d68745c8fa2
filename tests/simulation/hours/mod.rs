//! Simulations of hours: limits with restarts, a store that fails for long, clocks that are set, engines that start together,
//! renewals that get no answer, bodies that end their process. Whatever can go on must do so within a bounded time.
//!
//! Here nobody resumes anything: engines must go on by themselves. Each seed has one kind of trouble.

mod actors;
mod leases;
mod live;
mod small;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use keepstep::Clock;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use self::leases::Leases;

use self::actors::Done;
use crate::maker::Maker;
use crate::programs::{Prog, Spec};
use crate::sim::Outcome;
use crate::world::{Limits, Opened, World, block_on};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// How many seeds of each trouble are simulated where nothing says otherwise.
const SEEDS: u64 = 10;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Engines are killed and shut down, and limits are low.
    Restarts,
    /// The store takes no writes for hours.
    Outage,
    /// Wall clocks are set an hour forward and back, or a year for a minute.
    Clocks,
    /// Several engines start at once, and set up the same.
    Together,
    /// Renewals get no answer while a body executes.
    Blocked,
    /// A body ends its process each time.
    Bomb,
}

/// A run that users know.
#[derive(Debug)]
struct Known {
    id: String,
    prog: Prog,
    is_started: bool,
}

/// A call that a user waits for.
#[derive(Debug)]
struct Waiting {
    task: JoinHandle<()>,
    engine: usize,
    what: String,
    since: Instant,
    /// It waits for the end of a run, which may take long.
    is_long: bool,
}

struct Hours {
    rng: fastrand::Rng,
    trouble: Trouble,
    world: World,
    limits: Limits,
    engines: Vec<Opened>,
    known: Vec<Known>,
    /// Runs of bodies that are bad for their process.
    harmful: Vec<String>,
    waiting: Vec<Waiting>,
    done: Arc<Done>,
    /// What the right clock shows, and when it did.
    epoch: (Instant, SystemTime),
    /// Since when nothing is wrong.
    well_since: Option<Instant>,
    /// Something could not be written since the engines were opened: where nobody else may go on with it, it waits for that.
    may_have_stopped: bool,
    n_outages: u32,
    /// What has been added, and what may have been.
    added: Arc<AtomicU64>,
    n_schedules: u64,
    /// How many calls engines had made when this hour of an outage began.
    calls_before: u64,
}

impl Hours {
    fn new(trouble: Trouble, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(31).wrapping_add(trouble as u64));
        let is_shared = match trouble {
            Trouble::Together | Trouble::Blocked => true,
            _ => rng.bool(),
        };
        let world = match is_shared {
            true => World::shared(rng.u64(..)),
            false => World::new(rng.u64(..)),
        };
        let slowest = [0, 5, 60][rng.usize(..3)];
        world.pace.slowest.store(slowest, Ordering::Relaxed);
        let runs = (rng.u8(..3) > 0).then(|| rng.usize(1..4));
        let limits = Limits {
            steps: (rng.u8(..3) == 0).then(|| rng.usize(1..4)),
            runs,
            pending: (runs.is_some() && rng.bool()).then(|| rng.usize(1..4)),
            resumes: true,
            only_submits: false,
        };
        let mut known: Vec<Known> = (0..rng.usize(2..8))
            .map(|n| Known {
                id: format!("r{n}"),
                prog: Maker::new(&mut rng, format!("r{n}")).program(),
                is_started: false,
            })
            .collect();
        // Some work for long, and some sleep.
        for n in 0..rng.u32(2..6) {
            let spec = Spec {
                label: 1,
                retries: 3,
                is_polite: true,
                ..Spec::default()
            };
            let prog = match rng.bool() {
                true => Prog::Leaf(Spec {
                    sleeps_ms: 60_000 * rng.u64(5..40),
                    ..spec
                }),
                false => Prog::Nap(spec, rng.u64(1000..2_400_000)),
            };
            known.push(Known {
                id: format!("long{n}"),
                prog,
                is_started: false,
            });
        }
        rng.shuffle(&mut known);
        Self {
            trouble,
            world,
            limits,
            engines: Vec::new(),
            known,
            harmful: Vec::new(),
            waiting: Vec::new(),
            done: Arc::default(),
            // A date of its own, so that times are the same whenever this is simulated.
            epoch: (
                Instant::now(),
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            ),
            well_since: Some(Instant::now()),
            may_have_stopped: false,
            n_outages: 0,
            added: Arc::default(),
            n_schedules: 0,
            calls_before: 0,
            rng,
        }
    }

    fn is_shared(&self) -> bool {
        self.world.leases.is_some()
    }

    /// What the right clock shows.
    fn now(&self) -> SystemTime {
        self.epoch.1 + self.epoch.0.elapsed()
    }

    fn trace(&self, what: &str) {
        self.world.ledger.trace(what);
    }

    fn violated(&self, what: String) {
        self.world.ledger.violated(what);
    }
}

fn simulate(trouble: Trouble, seed: u64, say: bool) -> Outcome {
    block_on(async {
        let mut hours = Hours::new(trouble, seed);
        hours.world.ledger.say(say);
        hours.live().await;
        hours.come_to_rest().await;
        let ledger = &hours.world.ledger;
        let (n_bodies, n_refused) = ledger.counts();
        Outcome {
            violations: ledger.violations(),
            hash: ledger.hash(),
            n_bodies,
            n_refused,
        }
    })
}

fn seeds_of(trouble: Trouble) {
    if let Some(seed) = crate::number("KEEPSTEP_HOURS_SEED") {
        let outcome = simulate(trouble, seed, true);
        println!("{trouble:?} {seed}: {outcome:#x?}");
        assert!(outcome.violations.is_empty(), "{trouble:?}, seed {seed}");
        return;
    }
    let seeds = crate::number("KEEPSTEP_HOURS_SEEDS").unwrap_or(SEEDS);
    let first = crate::number("KEEPSTEP_HOURS_FIRST").unwrap_or(1);
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        let outcome = simulate(trouble, seed, false);
        if !outcome.violations.is_empty() {
            println!(
                "KEEPSTEP_HOURS_SEED={seed}: {trouble:?} {:#?}",
                outcome.violations
            );
            failed.push(seed);
        }
        if seed % 5 == 0 {
            let again = simulate(trouble, seed, false);
            assert_eq!(outcome, again, "{trouble:?} {seed} is not the same twice");
        }
    }
    assert!(
        failed.is_empty(),
        "{trouble:?}: seeds {failed:?} break promises"
    );
}

#[test]
fn everything_goes_on_after_restarts_with_limits() {
    seeds_of(Trouble::Restarts);
}

#[test]
fn everything_goes_on_after_hours_without_a_write() {
    seeds_of(Trouble::Outage);
}

#[test]
fn everything_goes_on_when_clocks_are_set() {
    seeds_of(Trouble::Clocks);
}

#[test]
fn engines_that_start_together_set_up_the_same() {
    seeds_of(Trouble::Together);
}

#[test]
fn a_body_that_keeps_leases_from_being_renewed_stops_nothing_else() {
    seeds_of(Trouble::Blocked);
}

#[test]
fn a_body_that_ends_its_process_stops_nothing_else() {
    seeds_of(Trouble::Bomb);
}

/// An engine's clock, which shows the right time so far.
fn clock_at(now: SystemTime) -> Clock {
    let clock = Clock::tokio();
    clock.set(now);
    clock
}
