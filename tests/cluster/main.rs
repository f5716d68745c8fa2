//! Several engines share a PostgreSQL store: each has connections of its own, as engines of several processes have.

#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../workflow-storage/tests/server/line.rs"]
mod line;
#[path = "../../workflow-storage/tests/server/mod.rs"]
mod server;

mod actors;
mod blocked;
mod chaos;
mod circles;
mod clocks;
mod example;
mod faults;
mod objects;
mod owners;
mod pools;
mod prompt;
mod quiet;
mod remote;
mod remote_faults;
mod runs;
#[cfg(feature = "schedules")]
mod schedules;
mod silent;

use std::time::Duration;

use keepstep::{Engine, EngineBuilder};

use common::World;

/// A store, and what the steps of all engines on it see.
struct Cluster {
    url: String,
    world: World,
}

impl Cluster {
    fn new() -> Self {
        Self {
            url: server::url(),
            world: World::default(),
        }
    }

    fn builder(&self) -> EngineBuilder {
        Engine::builder()
            .storage(self.url.as_str())
            .resource(self.world.clone())
            .lease(Duration::from_secs(30))
    }

    async fn worker(&self) -> Engine {
        self.builder().build().await.unwrap()
    }

    /// One whose lease is short: it is missed soon.
    async fn short_lived(&self) -> Engine {
        let lease = Duration::from_secs(1);
        self.builder().lease(lease).build().await.unwrap()
    }

    async fn submitter(&self) -> Engine {
        self.builder().worker(false).build().await.unwrap()
    }
}

/// Nothing here takes long, whatever the machine has to do besides.
async fn soon<T>(what: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what.into_future())
        .await
        .expect("it takes too long")
}
