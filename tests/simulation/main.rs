//! Faults and simulation: the whole engine on one thread and in virtual time, on a store that goes wrong on demand.
//!
//! `README.md` beside this file says how to rerun a seed.

mod calls;
mod faults;
mod hours;
mod invariants;
mod ledger;
mod maker;
mod oracle;
mod post;
mod programs;
mod regressions;
mod rest;
mod sim;
mod store;
mod tokens;
mod world;

use std::time::{Duration, Instant};

/// How many seeds are simulated where nothing says otherwise.
const SEEDS: u64 = 300;
/// One seed in so many is simulated twice, to see that it is the same both times.
const TWICE: u64 = 10;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn every_promise_holds_in_every_simulation() {
    if let Some(seed) = number("KEEPSTEP_SIM_SEED") {
        let outcome = sim::simulate(seed, true);
        println!("seed {seed}: {outcome:#x?}");
        assert!(outcome.violations.is_empty(), "seed {seed}");
        return;
    }
    let first = number("KEEPSTEP_SIM_FIRST").unwrap_or(1);
    let seeds = number("KEEPSTEP_SIM_SEEDS").unwrap_or(SEEDS);
    let began = Instant::now();
    let (mut n_bodies, mut n_refused, mut failed) = (0, 0, Vec::new());
    for seed in first..first + seeds {
        let outcome = sim::simulate(seed, false);
        n_bodies += outcome.n_bodies;
        n_refused += outcome.n_refused;
        if !outcome.violations.is_empty() {
            println!("KEEPSTEP_SIM_SEED={seed}: {:#?}", outcome.violations);
            failed.push(seed);
        }
        if seed % TWICE == 0 {
            let again = sim::simulate(seed, false);
            assert_eq!(outcome, again, "seed {seed} is not the same twice");
        }
    }
    let took = began.elapsed().max(Duration::from_millis(1));
    let per_minute = seeds as f64 / took.as_secs_f64() * 60.0;
    println!(
        "{seeds} seeds from {first} in {took:.1?}, {per_minute:.0} a minute; {n_bodies} bodies, {n_refused} writes refused"
    );
    assert!(failed.is_empty(), "seeds {failed:?} break promises");
}
