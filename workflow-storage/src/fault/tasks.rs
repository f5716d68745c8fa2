//! The queue of tasks of a store in which chosen calls go wrong.

use async_trait::async_trait;

use super::faulty::Verdict;
use super::{Call, Faulty};
use crate::{
    FinishOutcome, Held, Limit, NodeId, Offer, Offered, Removal, Result, StorageError, Task,
    TaskId, TaskQueue, TaskResult, Wanted,
};

impl Faulty {
    fn queue(&self) -> Result<&dyn TaskQueue> {
        // `tasks` shows this one only where there is one.
        self.inner().tasks().ok_or_else(|| StorageError::Closed {
            location: "the queue of a store that has none".to_owned(),
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl TaskQueue for Faulty {
    async fn offer(&self, offers: &[Offer]) -> Result<Vec<Option<Offered>>> {
        let queue = self.queue()?;
        match self.enter(Call::Tasks).await {
            Verdict::Tear(picked, error) => {
                let some = offers.iter().filter(|offer| picked(&offer.run)).cloned();
                let some: Vec<_> = some.collect();
                queue.offer(&some).await.and(Err(error))
            }
            verdict => self.complete(verdict, queue.offer(offers)).await,
        }
    }

    async fn take(&self, wanted: &Wanted<'_>) -> Result<Vec<Task>> {
        let taking = self.queue()?.take(wanted);
        self.pass(Call::Tasks, taking).await
    }

    async fn begin(&self, node: NodeId, held: Held) -> Result<()> {
        let beginning = self.queue()?.begin(node, held);
        self.pass(Call::Tasks, beginning).await
    }

    async fn finish(&self, node: NodeId, results: &[TaskResult]) -> Result<Vec<FinishOutcome>> {
        let finishing = self.queue()?.finish(node, results);
        self.pass(Call::Tasks, finishing).await
    }

    async fn give_back(&self, node: NodeId, held: &[Held]) -> Result<()> {
        let giving = self.queue()?.give_back(node, held);
        self.pass(Call::Tasks, giving).await
    }

    async fn held(&self, node: NodeId) -> Result<Vec<Held>> {
        let looking = self.queue()?.held(node);
        self.pass(Call::Read, looking).await
    }

    async fn look(&self, tasks: &[TaskId]) -> Result<Vec<Offered>> {
        let looking = self.queue()?.look(tasks);
        self.pass(Call::Read, looking).await
    }

    async fn remove(&self, removals: &[Removal]) -> Result<()> {
        let removing = self.queue()?.remove(removals);
        self.pass(Call::Tasks, removing).await
    }

    async fn unserved(&self, pools: &[String]) -> Result<Vec<String>> {
        let looking = self.queue()?.unserved(pools);
        self.pass(Call::Read, looking).await
    }

    async fn set_limit(&self, pool: &str, limit: Limit, at_once: Option<u32>) -> Result<()> {
        let setting = self.queue()?.set_limit(pool, limit, at_once);
        self.pass(Call::Tasks, setting).await
    }

    async fn limit(&self, pool: &str, limit: Limit) -> Result<Option<u32>> {
        let looking = self.queue()?.limit(pool, limit);
        self.pass(Call::Read, looking).await
    }
}
