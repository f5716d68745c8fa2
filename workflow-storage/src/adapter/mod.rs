//! [`Storage`] on an [`OrderedMap`]: what every embedded store has in common.
//!
//! Commits, claims and releases go through one writer, which reads the records it needs, checks epochs and
//! turns everything into one batch of the map. Reads go past the writer.

mod claim;
mod commit;
mod core;
mod delete;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod head;
mod keys;
mod list;
mod maintain;
mod read;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;

use self::core::Core;
use crate::directory::Directory;
use crate::{
    Batch, BlobId, BlobReader, Blobs, Committed, Description, Durability, Epoch, JournalEntry,
    ListedRun, Maintained, Message, MessageId, NodeId, OrderedMap, Position, ReadRun, Result,
    RunId, RunKind, RunPage, RunQuery, RunRecord, Storage, StorageError, Timestamp, ValueKey,
};

/// How much of a stream is in memory, about.
const CHUNK: usize = 1 << 20;

/// A [`Storage`] made of an ordered map and a place for blobs.
///
/// This is how a new embedded backend becomes a store: implement [`OrderedMap`] and open an adapter on it. Only one
/// process may have the map open; the adapter grants every claim.
///
/// ```
/// # use keepstep_storage::{Op, OrderedMap, Result};
/// # use bytes::Bytes;
/// # use std::ops::{Bound, ControlFlow};
/// # #[derive(Debug, Default)]
/// # struct MyMap(std::sync::RwLock<std::collections::BTreeMap<Vec<u8>, Bytes>>);
/// # impl OrderedMap for MyMap {
/// #     fn backend(&self) -> &'static str { "mine" }
/// #     fn max_value_bytes(&self) -> usize { 4096 }
/// #     fn blocks(&self) -> bool { false }
/// #     fn get(&self, key: &[u8]) -> Result<Option<Bytes>> { Ok(self.0.read().unwrap().get(key).cloned()) }
/// #     fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>), _: bool, visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<()> {
/// #         for (k, v) in self.0.read().unwrap().range::<[u8], _>(range) { if visit(k, v).is_break() { break } }
/// #         Ok(())
/// #     }
/// #     fn apply(&self, ops: Vec<Op>) -> Result<()> {
/// #         for op in ops { match op { Op::Put(k, v) => { self.0.write().unwrap().insert(k, v); } Op::Remove(k) => { self.0.write().unwrap().remove(&k); } } }
/// #         Ok(())
/// #     }
/// #     fn compact(&self) -> Result<u64> { Ok(0) }
/// #     fn close(&self) -> Result<()> { Ok(()) }
/// # }
/// use keepstep_storage::{Adapter, Blobs, Storage};
///
/// let store = Adapter::open(MyMap::default(), Blobs::in_memory(), "somewhere")?;
/// assert_eq!(store.describe().backend, "mine");
/// # Ok::<(), keepstep_storage::StorageError>(())
/// ```
#[derive(Debug)]
pub struct Adapter {
    core: Arc<Core>,
}

impl Adapter {
    /// Opens a store on a map. An empty map becomes an empty store. `location` names the store in errors.
    ///
    /// # Errors
    /// [`StorageError::UnknownFormat`] if a later version wrote the map, [`StorageError::Corrupt`] if it holds
    /// something else, and whatever the map fails with.
    pub fn open(map: impl OrderedMap, blobs: Blobs, location: impl Into<String>) -> Result<Self> {
        let core = Core::new(Box::new(map), blobs, location.into());
        core.check_format(true)?;
        Ok(Self { core: core.into() })
    }

    /// Opens a store in a directory, on the map that lives there. Takes the directory's lock along.
    pub(crate) fn open_in(
        directory: Arc<Directory>,
        map: Box<dyn OrderedMap>,
        blobs: Blobs,
    ) -> Result<Self> {
        let location = directory.root().display().to_string();
        let mut core = Core::new(map, blobs, location);
        // An empty map in a directory that has been a store before is damage, not a new store.
        core.check_format(directory.is_new())?;
        directory.finish()?;
        core.directory = Some(directory);
        Ok(Self { core: core.into() })
    }

    /// Calls `f` where it may block: here if the map never waits, else on a thread for that.
    async fn on_map<T: std::marker::Send + 'static>(
        &self,
        f: impl FnOnce(&Core) -> Result<T> + std::marker::Send + 'static,
    ) -> Result<T> {
        let blocks = self.core.map.blocks();
        self.call(blocks, move |core| f(core)).await
    }

    /// As [`on_map`](Self::on_map), for what also waits for blobs.
    async fn on_blobs<T: std::marker::Send + 'static>(
        &self,
        f: impl FnOnce(&Arc<Core>) -> Result<T> + std::marker::Send + 'static,
    ) -> Result<T> {
        let blocks = self.core.map.blocks() || self.core.blobs.block();
        self.call(blocks, f).await
    }

    async fn call<T: std::marker::Send + 'static>(
        &self,
        blocks: bool,
        f: impl FnOnce(&Arc<Core>) -> Result<T> + std::marker::Send + 'static,
    ) -> Result<T> {
        self.core.check_open()?;
        if !blocks {
            return f(&self.core);
        }
        let core = Arc::clone(&self.core);
        match tokio::task::spawn_blocking(move || f(&core)).await {
            Ok(result) => result,
            Err(error) => Err(self.unfinished(error)),
        }
    }

    /// Commits deletes. Blobs that nothing names any more are removed before the answer where that takes no time; those that are
    /// far away after it, on the same thread: whoever commits next does not wait for a network, and whoever stores such a blob
    /// again does not wait for a thread.
    async fn commit_deletes(&self, batch: Batch) -> Result<Committed> {
        if !self.core.blobs.are_far() {
            let commit = move |core: &Arc<Core>| {
                let (committed, unnamed) = core.commit(batch)?;
                core.remove_blobs(unnamed);
                Ok(committed)
            };
            return self.on_blobs(commit).await;
        }
        self.core.check_open()?;
        let core = Arc::clone(&self.core);
        let (reply, answer) = oneshot::channel();
        let committing = tokio::task::spawn_blocking(move || {
            let (committed, unnamed) = core.commit(batch)?;
            let blobs = Arc::clone(&core.blobs);
            // Whoever closes the store waits for this. Whoever drops it need not.
            let _removing = blobs.removing();
            let is_open = core.check_open().is_ok();
            drop(core);
            // Whoever asked may have gone.
            drop(reply.send(committed));
            if is_open {
                blobs.remove_all(unnamed);
            }
            Ok(())
        });
        if let Ok(committed) = answer.await {
            return Ok(committed);
        }
        match committing.await {
            Ok(committed) => committed.and_then(|()| Err(self.core.closed())),
            Err(error) => Err(self.unfinished(error)),
        }
    }

    fn unfinished(&self, error: tokio::task::JoinError) -> StorageError {
        if error.is_cancelled() {
            return self.core.closed();
        }
        StorageError::Backend {
            backend: self.core.map.backend(),
            operation: "finish a call",
            source: Arc::new(error),
        }
    }
}

/// A pin that somebody waits for, taken away again if nobody does any more.
struct Pinned {
    core: Arc<Core>,
    id: BlobId,
    is_claimed: bool,
}

impl Pinned {
    fn new(core: &Arc<Core>, id: BlobId) -> Self {
        Self {
            core: Arc::clone(core),
            id,
            is_claimed: false,
        }
    }

    fn claim(mut self) -> BlobId {
        self.is_claimed = true;
        self.id
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.is_claimed {
            self.core.blobs.unpin(&self.id);
        }
    }
}

#[async_trait]
impl Storage for Adapter {
    fn describe(&self) -> Description {
        Description {
            backend: self.core.map.backend(),
            location: self.core.location.clone(),
            durability: if self.core.map.blocks() {
                Durability::PowerLoss
            } else {
                Durability::Process
            },
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Committed> {
        if !batch.deletes.is_empty() {
            return self.commit_deletes(batch).await;
        }
        self.on_map(|core| core.commit(batch).map(|(committed, _)| committed))
            .await
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        Ok(self.core.commit(batch).map(|(committed, unnamed)| {
            self.core.remove_blobs(unnamed);
            committed
        }))
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        self.core.check_open()?;
        if let Some(record) = self.core.recent_record(run) {
            return Ok(Some(record));
        }
        let run = run.clone();
        self.on_map(move |core| core.record(&run)).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        let query = query.clone();
        self.on_map(move |core| core.list(&query)).await
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let (prefix, after) = (id_prefix.to_owned(), after.cloned());
        self.on_map(move |core| core.list_by_id(kind, &prefix, after.as_ref(), limit))
            .await
    }

    async fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        let run = run.clone();
        self.on_map(move |core| core.journal(&run, from, max_bytes))
            .await
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        let (run, key) = (run.clone(), key.clone());
        self.on_map(move |core| core.value(&run, &key)).await
    }

    async fn read_runs(&self, runs: &[RunId], max_bytes: usize) -> Result<Vec<Option<ReadRun>>> {
        let runs = runs.to_vec();
        self.on_map(move |core| core.read_runs(&runs, max_bytes))
            .await
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        let after = after.cloned();
        self.on_map(move |core| core.due(kind, after.as_ref(), until, limit))
            .await
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        let run = run.clone();
        self.on_map(move |core| core.inbox(&run, after, limit))
            .await
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        let after = after.cloned();
        self.on_map(move |core| core.unread(after.as_ref(), limit))
            .await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        _lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        let runs = runs.to_vec();
        self.on_map(move |core| core.claim(runs, node)).await
    }

    async fn renew(&self, _node: NodeId, _lease: Duration) -> Result<Timestamp> {
        // Nobody else can take a run of this store, so a claim lasts as long as the store is open.
        self.core.check_open()?;
        Ok(Timestamp(0))
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        let runs = runs.to_vec();
        self.on_map(move |core| core.release(runs)).await
    }

    async fn notified(&self) {
        self.core.arrived.notified().await;
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        let put = self.on_blobs(move |core| Ok(Pinned::new(core, core.blobs.put(bytes)?)));
        put.await.map(Pinned::claim)
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        let mut new = self.on_blobs(|core| core.blobs.begin()).await?;
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            while chunk.len() < CHUNK {
                let mut rest = (&mut *reader).take((CHUNK - chunk.len()) as u64);
                let read = rest.read_buf(&mut chunk).await;
                let what = "what is to be stored";
                if read.map_err(|error| StorageError::io("read", what, error))? == 0 {
                    break;
                }
            }
            if chunk.is_empty() {
                break;
            }
            let write = move |_: &Arc<Core>| {
                new.write(&chunk)?;
                chunk.clear();
                Ok((new, chunk))
            };
            (new, chunk) = self.on_blobs(write).await?;
        }
        let finish = self.on_blobs(move |core| {
            let (id, len) = core.blobs.finish(new)?;
            Ok((Pinned::new(core, id), len))
        });
        finish.await.map(|(pinned, len)| (pinned.claim(), len))
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        let id = *id;
        self.on_blobs(move |core| core.blobs.get(&id)).await
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        let id = *id;
        self.on_blobs(move |core| core.blobs.reader(&id)).await
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        let id = *id;
        self.on_blobs(move |core| core.blobs.len(&id)).await
    }

    fn maps_blobs(&self) -> bool {
        self.core.blobs.are_mapped()
    }

    fn pin_blob(&self, id: &BlobId) {
        self.core.blobs.pin(id);
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.core.blobs.unpin(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.on_blobs(|core| core.maintain()).await
    }

    async fn close(&self) -> Result<()> {
        self.on_map(Core::close).await
    }
}

#[cfg(test)]
mod tests;
