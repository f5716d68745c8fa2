//! A counter that nothing forgets: its state is durable, and it is in memory only while it is called.
//!
//! Run it again and again: it goes on counting.

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[virtual_actor]
impl Counter {
    pub fn new() -> Self {
        Counter { count: 0 }
    }

    pub async fn incr(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub async fn get(&self) -> u64 {
        self.count
    }
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    keepstep::init(Engine::open("data").await?);

    let c1 = Counter::get_or_create("counter_1").await?;
    let before = c1.get().await?;
    assert_eq!(c1.incr().await?, before + 1);
    assert_eq!(c1.incr().await?, before + 2);

    // The same call again, because its answer got lost perhaps: it happens once.
    let first = c1.incr().id(format!("request-{before}")).await?;
    assert_eq!(c1.incr().id(format!("request-{before}")).await?, first);

    println!("counter_1 = {}", c1.get().await?);
    keepstep::default_engine().await?.shutdown().await
}
