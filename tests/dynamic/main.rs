//! Workflows that grow while they run: recursion, nesting, loops, and recovery from the middle of them.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod catches;
mod large;
mod loops;
mod recovery;
mod recursion;
