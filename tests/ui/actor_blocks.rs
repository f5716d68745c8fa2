//! What cannot be an actor.

use keepstep::virtual_actor;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[virtual_actor]
struct NotABlock;

#[virtual_actor]
impl Default for Counter {
    fn default() -> Self {
        Counter { count: 0 }
    }
}

#[derive(Serialize, Deserialize)]
struct Boxed<T>(T);

#[virtual_actor]
impl<T> Boxed<T> {
    pub fn new(value: T) -> Self {
        Boxed(value)
    }

    pub fn take(&mut self) {}
}

#[virtual_actor]
impl Boxed<u64> {
    pub fn new() -> Self {
        Boxed(0)
    }

    pub fn take(&mut self) {}
}

#[derive(Serialize, Deserialize)]
struct Orphan;

#[virtual_actor]
impl Orphan {
    pub fn poke(&mut self) {}
}

#[derive(Serialize, Deserialize)]
struct Mute;

#[virtual_actor]
impl Mute {
    pub fn new() -> Self {
        Mute
    }

    fn hidden(&mut self) {}
}

#[derive(Serialize, Deserialize)]
struct Odd;

#[virtual_actor]
impl Odd {
    pub fn new() -> u64 {
        0
    }

    pub fn poke(&mut self) {}
}

#[derive(Serialize, Deserialize)]
struct Options;

#[virtual_actor(nme = "x", retries = 3, version = "2", name = "")]
impl Options {
    pub fn new() -> Self {
        Options
    }

    pub fn poke(&mut self) {}
}

#[derive(Serialize, Deserialize)]
struct Migrated;

#[virtual_actor(migrate = from_nothing)]
impl Migrated {
    pub fn new() -> Self {
        Migrated
    }

    pub fn poke(&mut self) {}
}

fn from_nothing(_: keepstep::StoredState) -> keepstep::Result<Migrated> {
    Ok(Migrated)
}

fn main() {}
