//! The steps that are measured, and the workflows made of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use keepstep::prelude::*;

/// How many bodies this process has executed of those that count.
pub(super) static EXECUTED: AtomicU64 = AtomicU64::new(0);
/// When the first of them began.
pub(super) static FIRST: OnceLock<Instant> = OnceLock::new();

fn count() {
    FIRST.get_or_init(Instant::now);
    EXECUTED.fetch_add(1, Ordering::Relaxed);
}

#[step]
async fn next(n: u64) -> u64 {
    n + 1
}

#[step]
async fn square(n: u64) -> u64 {
    count();
    n * n
}

#[step]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

#[step]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[step]
pub(super) async fn fib(n: u64) -> Workflow<u64> {
    if n <= 1 {
        return Workflow::value(n);
    }
    add(fib(n - 1), fib(n - 2))
}

/// A loop by tail call.
#[step]
pub(super) async fn count_down(rounds: u64) -> Workflow<u64> {
    count();
    super::long::note_round(rounds);
    if rounds == 0 {
        return Workflow::value(0);
    }
    count_down(rounds - 1)
}

pub(super) fn chain(length: u64) -> Workflow<u64> {
    (1..length).fold(next(0), |last, _| next(last))
}

pub(super) fn fan_out(width: u64) -> Workflow<u64> {
    sum((0..width).map(square).collect::<Vec<_>>())
}

pub(super) fn sum_of_squares(width: u64) -> u64 {
    (0..width).map(|n| n * n).sum()
}

pub(super) fn fibonacci(n: u64) -> u64 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
}

/// How many steps `fib(n)` comes to: each call, and an addition for each that is not a leaf.
pub(super) fn steps_of_fib(n: u64) -> u64 {
    let calls = 2 * fibonacci(n + 1) - 1;
    calls + (calls - 1) / 2
}
