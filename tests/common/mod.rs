//! What the tests share: a world that steps act in, a tree that builds workflows, and a lab whose engines crash.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses another part of it"
)]

mod lab;
mod tampered;
mod tree;
mod world;

pub(crate) use lab::Lab;
pub(crate) use tampered::{Tampered, rewritten};
pub(crate) use tree::{Tree, act, caught, grow, join, leaf};
pub(crate) use world::{Do, World};
