//! Failures, crashes and interventions: what runs again, what does not, and who is told.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod cancel;
mod code_changes;
mod damage;
mod delete;
mod failures;
mod given_up;
mod owners;
mod queue;
mod restart;
mod resume;
mod retries;
mod slots;
mod statuses;
mod suspend;
mod volatile;
mod writes;
