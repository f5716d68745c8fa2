//! Objects: large values that are stored once and passed by reference, how long they stay, and what crashes leave of them.

#![expect(clippy::unwrap_used, reason = "these are tests")]
#![allow(
    clippy::mutable_key_type,
    reason = "what a reference is compared by never changes"
)]

#[path = "../common/mod.rs"]
mod common;

mod basics;
#[cfg(feature = "object_store")]
mod bucket;
mod crashes;
mod damage;
mod killed;
mod lifetime;
mod nested;
mod spawn;
mod streams;
