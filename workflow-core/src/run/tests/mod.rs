//! What the state machine is held to: random programs, driven as the executor drives a run, end as a direct interpreter
//! of the program says they do; from every prefix of their journals, too. And the transitions one by one.

mod arbitrary;
mod crashes;
mod expansions;
mod failures;
mod interpreter;
mod known;
mod programs;
mod resumption;
mod script;
mod sim;
mod steps;
mod strategy;
mod tail_calls;
mod waits;

use proptest::test_runner::Config;

/// How many random cases a property gets.
fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    }
}
