//! Power cuts: what was not synced when a process died is gone, in whole or in parts, and nothing that was said to be
//! durable is.
//!
//! The judge, and the workflow of one of the tests, are those of the kill test, after which the page cache is still there.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod cut;
mod disk;
#[path = "../crash/judge.rs"]
mod judge;
#[expect(dead_code, reason = "the crash tests use another part of it")]
#[path = "../crash/ledger.rs"]
mod ledger;
mod objects;
#[path = "../common/preload.rs"]
mod preload;
mod random;
mod runs;
mod shim;
#[path = "../crash/workflow.rs"]
mod workflow;
