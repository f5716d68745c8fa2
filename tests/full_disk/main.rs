//! A disk that is full: the run stops with an error that says so, nothing that was durable is lost or done again, and the run goes
//! on once there is room.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod full;
#[expect(dead_code, reason = "the crash tests use another part of it")]
#[path = "../crash/ledger.rs"]
mod ledger;
#[path = "../common/preload.rs"]
mod preload;
mod process;
#[expect(dead_code, reason = "the power-loss tests use another part of it")]
#[path = "../power_loss/random.rs"]
mod random;
