//! A store, a world and a clock that outlive engines: for what a crash leaves behind.

use std::sync::Arc;

use keepstep::storage::{Storage, memory};
use keepstep::{Clock, Engine, EngineBuilder};

use super::World;

/// A store in memory, and what engines on it share.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) world: World,
    pub(crate) clock: Clock,
    /// References to the store that are not an engine's.
    references: usize,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::on(memory())
    }

    /// A lab on a store to which the test keeps the references that it has now.
    pub(crate) fn on(store: Arc<dyn Storage>) -> Self {
        let references = Arc::strong_count(&store);
        Self {
            store,
            world: World::default(),
            clock: Clock::tokio(),
            references,
        }
    }

    pub(crate) fn builder(&self) -> EngineBuilder {
        Engine::builder()
            .storage(Arc::clone(&self.store))
            .resource(self.world.clone())
            .clock(self.clock.clone())
            .seed(1)
    }

    pub(crate) async fn engine(&self) -> Engine {
        self.builder().build().await.unwrap()
    }

    /// Ends an engine as a crash does, and waits until nothing of it is left. The test must have no handle of it.
    pub(crate) async fn crash(&self, engine: Engine) {
        drop(engine);
        for _ in 0..100_000 {
            if Arc::strong_count(&self.store) == self.references {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("something of the engine is left");
    }
}
