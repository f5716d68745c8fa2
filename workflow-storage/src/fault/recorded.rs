//! The wrapper that remembers what passed through it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    Batch, BlobId, BlobReader, Committed, Description, Epoch, JournalEntry, ListedRun, Maintained,
    Message, MessageId, NodeId, Notice, Position, ReadRun, Result, RunId, RunKind, RunPage,
    RunQuery, RunRecord, Storage, StorageError, TaskQueue, Timestamp, ValueKey,
};

/// A store that keeps a log of every call that changed it, in the order in which they changed it. For that, such calls
/// go one at a time.
///
/// ```
/// # use std::sync::Arc;
/// # use keepstep_storage::fault::{Recorded, replay};
/// # use keepstep_storage::{Batch, Storage, memory};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_storage::Result<()> {
/// let store = Recorded::new(memory());
/// store.put_blob("abc".into()).await?;
/// store.commit(Batch::default()).await?;
///
/// let log = store.log();
/// for writes in 0..=log.len() {
///     let crashed = memory();
///     replay(&log[..writes], &*crashed).await?;
///     // `crashed` is what a crash after so many writes leaves: recover from it.
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Recorded {
    inner: Arc<dyn Storage>,
    log: Mutex<Vec<Mutation>>,
    /// Held across a call that changes the store, so that the log is in the store's order.
    turn: tokio::sync::Mutex<()>,
}

/// A call that changed a store, and the answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Mutation {
    /// [`Storage::commit`]
    Commit(Batch, Committed),
    /// [`Storage::claim`]
    Claim {
        /// The runs claimed.
        runs: Vec<RunId>,
        /// For whom.
        node: NodeId,
        /// For how long.
        lease: Duration,
        /// What they became.
        claimed: Vec<Option<RunRecord>>,
    },
    /// [`Storage::release`]
    Release(Vec<(RunId, Epoch)>),
    /// [`Storage::put_blob`], or [`Storage::put_blob_from`] of a reader that gave these bytes
    PutBlob(Bytes),
}

/// Does recorded calls again, in a fresh store of the same backend as the recorded one.
///
/// # Errors
/// What the store answers; [`StorageError::Corrupt`] if it answers otherwise than the recorded one did, which
/// means that it was not fresh or that one of the two is wrong.
pub async fn replay(log: &[Mutation], store: &dyn Storage) -> Result<()> {
    for (at, mutation) in log.iter().enumerate() {
        let same = match mutation {
            Mutation::Commit(batch, committed) => store.commit(batch.clone()).await? == *committed,
            Mutation::Claim {
                runs,
                node,
                lease,
                claimed,
            } => store.claim(runs, *node, *lease).await? == *claimed,
            Mutation::Release(runs) => {
                store.release(runs).await?;
                true
            }
            Mutation::PutBlob(bytes) => {
                let id = store.put_blob(bytes.clone()).await?;
                // Who had put it is gone.
                store.unpin_blob(&id);
                true
            }
        };
        if !same {
            return Err(StorageError::Corrupt {
                location: store.describe().location,
                what: format!("recorded call {at} had another answer when it was made again"),
            });
        }
    }
    Ok(())
}

impl Recorded {
    /// Wraps a store. What it holds already is not in the log.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            log: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Every successful call so far that changed the store.
    #[must_use]
    pub fn log(&self) -> Vec<Mutation> {
        self.entries().clone()
    }

    /// The store inside.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.inner
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Mutation>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Recorded {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn commit(&self, batch: Batch) -> Result<Committed> {
        let _turn = self.turn.lock().await;
        let committed = self.inner.commit(batch.clone()).await?;
        let answer = committed.clone();
        self.entries().push(Mutation::Commit(batch, answer));
        Ok(committed)
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        // Whoever waits here for something waits on the runtime.
        Err(batch)
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        self.inner.record(run).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        self.inner.list(query).await
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        self.inner.list_by_id(kind, id_prefix, after, limit).await
    }

    async fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        self.inner.journal(run, from, max_bytes).await
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        self.inner.value(run, key).await
    }

    async fn read_runs(&self, runs: &[RunId], max_bytes: usize) -> Result<Vec<Option<ReadRun>>> {
        self.inner.read_runs(runs, max_bytes).await
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        self.inner.due(kind, after, until, limit).await
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.inner.inbox(run, after, limit).await
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        self.inner.unread(after, limit).await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        let _turn = self.turn.lock().await;
        let claimed = self.inner.claim(runs, node, lease).await?;
        self.entries().push(Mutation::Claim {
            runs: runs.to_vec(),
            node,
            lease,
            claimed: claimed.clone(),
        });
        Ok(claimed)
    }

    async fn claim_free(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let _turn = self.turn.lock().await;
        let claimed = self
            .inner
            .claim_free(kind, except, node, lease, limit)
            .await?;
        self.entries().push(Mutation::Claim {
            runs: claimed.iter().map(|listed| listed.run.clone()).collect(),
            node,
            lease,
            claimed: claimed
                .iter()
                .map(|listed| Some(listed.record.clone()))
                .collect(),
        });
        Ok(claimed)
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.inner.renew(node, lease).await
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.inner.release(runs).await?;
        self.entries().push(Mutation::Release(runs.to_vec()));
        Ok(())
    }

    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.inner.decline(runs).await?;
        self.entries().push(Mutation::Release(runs.to_vec()));
        Ok(())
    }

    async fn notified(&self) {
        self.inner.notified().await;
    }

    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        self.inner.watch(runs).await
    }

    async fn want(&self, run: &RunId) -> Result<()> {
        self.inner.want(run).await
    }

    async fn workers(&self) -> Result<Vec<NodeId>> {
        self.inner.workers().await
    }

    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        self.inner.say_waits(node, waits).await
    }

    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        self.inner.waits().await
    }

    async fn notices(&self) -> Vec<Notice> {
        self.inner.notices().await
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        let _turn = self.turn.lock().await;
        let id = self.inner.put_blob(bytes.clone()).await?;
        self.entries().push(Mutation::PutBlob(bytes));
        Ok(id)
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        // What is in the log is in memory.
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes).await;
        let read = read.map_err(|error| StorageError::io("read", "what is to be stored", error))?;
        Ok((self.put_blob(bytes.into()).await?, read as u64))
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        self.inner.blob(id).await
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        self.inner.blob_reader(id).await
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        self.inner.blob_len(id).await
    }

    fn maps_blobs(&self) -> bool {
        self.inner.maps_blobs()
    }

    fn tasks(&self) -> Option<&dyn TaskQueue> {
        self.inner.tasks()
    }

    fn pin_blob(&self, id: &BlobId) {
        self.inner.pin_blob(id);
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.inner.unpin_blob(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.inner.maintain().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
