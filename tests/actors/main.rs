//! Virtual actors: order, durability, failures, times, workflows, and what is left after a crash.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod basics;
mod changes;
mod circles;
mod clocks;
mod failures;
mod listing;
mod many;
mod pauses;
mod restart;
mod times;
mod troupe;
mod workflows;
