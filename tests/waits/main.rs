//! Workflows that wait: for times, events, child runs, and the first of several.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod children;
mod clocks;
mod deletes;
mod events;
mod families;
mod late;
mod listeners;
mod races;
mod times;
