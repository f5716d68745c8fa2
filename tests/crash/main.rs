//! Crashes after every write there is, and of real processes at any moment: the same output, and nothing done is done again.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod actors;
mod every_write;
mod judge;
mod killed;
mod killed_actors;
mod killed_waits;
mod ledger;
mod process;
mod waits;
mod workflow;
