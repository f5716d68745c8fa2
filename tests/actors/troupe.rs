//! The actors of the tests.

use std::time::Duration;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use crate::common::World;

/// Counts, and does to the world what it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counter {
    pub(crate) count: u64,
}

#[virtual_actor(name = "counter")]
impl Counter {
    pub(crate) fn new() -> Self {
        Self { count: 0 }
    }

    pub(crate) async fn incr(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub(crate) async fn add(&mut self, n: u64) -> u64 {
        self.count += n;
        self.count
    }

    /// Changes the state, and then does what the world says.
    pub(crate) async fn act(
        &mut self,
        who: &str,
        #[resource] world: &World,
    ) -> Result<u64, String> {
        self.count += 1;
        world.act(who).await?;
        Ok(self.count)
    }

    #[method(retries = 2, backoff = "1m..1m")]
    pub(crate) async fn persist(
        &mut self,
        who: &str,
        #[resource] world: &World,
    ) -> Result<u64, String> {
        self.count += 1;
        world.act(who).await?;
        Ok(self.count)
    }

    #[method(timeout = "5s")]
    pub(crate) async fn hurry(&mut self, who: &str, #[resource] world: &World) {
        self.count += 1;
        drop(world.act(who).await);
    }

    pub(crate) fn get(&self) -> u64 {
        self.count
    }

    /// Looks, when the world lets it.
    pub(crate) async fn watch(&self, who: &str, #[resource] world: &World) -> Result<u64, String> {
        world.act(who).await?;
        Ok(self.count)
    }

    /// The state is committed, then the workflow runs.
    pub(crate) async fn bill(&mut self, who: String) -> Workflow<u64> {
        self.count += 1;
        billed(who, self.count)
    }

    /// As `bill`, and others wait for it.
    #[exclusive]
    pub(crate) async fn settle(&mut self, who: String) -> Workflow<u64> {
        self.count += 1;
        billed(who, self.count)
    }

    /// Its workflow calls it.
    #[exclusive]
    pub(crate) async fn twice(&mut self) -> Result<Workflow<u64>> {
        self.count += 1;
        let me = Counter::get_actor("me").await?;
        Ok(sum(me.incr().step(), me.incr().step()))
    }

    /// Awaits a call of its own.
    pub(crate) async fn trip(&mut self) -> Result<u64> {
        Counter::get_actor("me").await?.incr().await
    }

    /// Awaits a call of another, which awaits one of this.
    pub(crate) async fn ask(&mut self, other: String) -> Result<u64> {
        self.count += 1;
        match &*other {
            "me" => Counter::get_actor("me").await?.incr().await,
            other => Counter::get_actor(other).await?.ask("me".to_owned()).await,
        }
    }

    /// Sends itself a call.
    pub(crate) async fn again(&mut self) -> Result<()> {
        let me = Counter::get_actor("me").await?;
        me.incr().delay(Duration::from_secs(1)).send().await?;
        me.incr().send().await
    }

    /// Runs a workflow where it must not.
    pub(crate) async fn run_inside(&mut self) -> Result<u64> {
        Workflow::value(1).run("inside").await
    }

    pub(crate) async fn finished(&mut self) -> Workflow<u64> {
        self.count += 1;
        Workflow::value(self.count)
    }
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[step(name = "billed", retries = 0)]
async fn billed(
    who: String,
    n: u64,
    #[resource] world: &World,
) -> std::result::Result<u64, String> {
    world.act(&who).await?;
    Ok(n * 100)
}

#[step(name = "sum")]
pub(crate) async fn sum(a: u64, b: u64) -> u64 {
    a + b
}
