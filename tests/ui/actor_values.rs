//! What an actor cannot keep, take or give, and how it cannot be called.

use std::rc::Rc;

use keepstep::virtual_actor;
use serde::{Deserialize, Serialize};

struct NotStored;

#[virtual_actor]
impl NotStored {
    pub fn new() -> Self {
        NotStored
    }

    pub async fn poke(&mut self) {}
}

struct Opaque;

#[derive(Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[virtual_actor]
impl Counter {
    pub fn new(start: u64) -> Self {
        Counter { count: start }
    }

    pub async fn takes(&mut self, _value: Opaque) {}

    pub async fn gives(&mut self) -> Opaque {
        Opaque
    }

    pub async fn holds(&mut self) {
        let shared = Rc::new(1);
        std::future::ready(()).await;
        self.count += *shared;
    }

    pub async fn add(&mut self, n: u64) -> u64 {
        self.count += n;
        self.count
    }

    pub async fn get(&self) -> u64 {
        self.count
    }
}

async fn calls() -> keepstep::Result<()> {
    let counter = Counter::get_or_create("c").await?;
    let counter = Counter::get_or_create("c", 1).await?;
    counter.add("one").await?;
    let _: String = counter.add(1).await?;
    counter.add(1).delay(std::time::Duration::ZERO).await?;
    counter.get().send().await?;
    counter.get().id("x").await?;
    Ok(())
}

fn main() {}
