//! What users write and what it does.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod attributes;
mod basics;
mod contexts;
mod graphs;
mod ids;
mod in_place;
mod lone_body;
mod looking;
mod pools;
mod resources;
mod returns;
mod values;
