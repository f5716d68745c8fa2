//! The layers of a simulated store: a [`Wire`] for each engine, which is slow, can be cut, and lies over a `Faulty`; and one
//! [`Bottom`] under that, which tells the ledger what became durable.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepstep::storage::{
    Batch, BlobId, BlobReader, Committed, Description, Epoch, JournalEntry, ListedRun, Maintained,
    Message, MessageId, NodeId, Notice, Position, ReadRun, Result, RunId, RunKind, RunPage,
    RunQuery, RunRecord, Storage, StorageError, TaskQueue, Timestamp, ValueKey,
};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::hours::Leases;
use crate::ledger::Ledger;

/// What the memory holds, and the ledger of it.
#[derive(Debug)]
pub(crate) struct Bottom {
    pub(crate) memory: Arc<dyn Storage>,
    pub(crate) ledger: Arc<Ledger>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Bottom {
    fn describe(&self) -> Description {
        self.memory.describe()
    }

    fn is_shared(&self) -> bool {
        self.memory.is_shared()
    }

    async fn commit(&self, batch: Batch) -> Result<Committed> {
        let committed = self.memory.commit(batch.clone()).await?;
        self.ledger.committed(&batch, &committed);
        Ok(committed)
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        Err(batch)
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        self.memory.record(run).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        self.memory.list(query).await
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        self.memory.list_by_id(kind, id_prefix, after, limit).await
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        self.memory.unread(after, limit).await
    }

    async fn journal(&self, run: &RunId, from: Position, max: usize) -> Result<Vec<JournalEntry>> {
        self.memory.journal(run, from, max).await
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        self.memory.value(run, key).await
    }

    async fn read_runs(&self, runs: &[RunId], max: usize) -> Result<Vec<Option<ReadRun>>> {
        self.memory.read_runs(runs, max).await
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        self.memory.due(kind, after, until, limit).await
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.memory.inbox(run, after, limit).await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        let claimed = self.memory.claim(runs, node, lease).await?;
        self.ledger.claimed(&claimed, runs);
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
        let free = self.memory.claim_free(kind, except, node, lease, limit);
        let free = free.await?;
        let (runs, records): (Vec<_>, Vec<_>) = free
            .iter()
            .map(|listed| (listed.run.clone(), Some(listed.record.clone())))
            .unzip();
        self.ledger.claimed(&records, &runs);
        Ok(free)
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.memory.renew(node, lease).await
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.memory.release(runs).await?;
        self.ledger.released(runs);
        Ok(())
    }

    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.memory.decline(runs).await?;
        self.ledger.released(runs);
        Ok(())
    }

    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        self.memory.watch(runs).await
    }

    async fn want(&self, run: &RunId) -> Result<()> {
        self.memory.want(run).await
    }

    async fn workers(&self) -> Result<Vec<NodeId>> {
        self.memory.workers().await
    }

    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        self.memory.say_waits(node, waits).await
    }

    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        self.memory.waits().await
    }

    async fn notices(&self) -> Vec<Notice> {
        self.memory.notices().await
    }

    async fn notified(&self) {
        self.memory.notified().await;
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        let id = self.memory.put_blob(bytes.clone()).await?;
        self.ledger.put(id, &bytes);
        Ok(id)
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        // The ledger has whole blobs.
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes).await;
        let len = read.map_err(|error| StorageError::Io {
            operation: "read",
            path: "a reader".into(),
            source: Arc::new(error),
        })?;
        Ok((self.put_blob(bytes.into()).await?, len as u64))
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        self.memory.blob(id).await
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        self.memory.blob_reader(id).await
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        self.memory.blob_len(id).await
    }

    fn maps_blobs(&self) -> bool {
        self.memory.maps_blobs()
    }

    fn tasks(&self) -> Option<&dyn TaskQueue> {
        self.memory.tasks()
    }

    fn pin_blob(&self, id: &BlobId) {
        self.memory.pin_blob(id);
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.memory.unpin_blob(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.memory.maintain().await
    }

    async fn close(&self) -> Result<()> {
        // The next engine opens the same memory.
        Ok(())
    }
}

/// How long calls take, in virtual time.
#[derive(Debug)]
pub(crate) struct Pace {
    rng: Mutex<fastrand::Rng>,
    /// At most so many milliseconds before a call, and as many after it.
    pub(crate) slowest: AtomicUsize,
    /// While the invariants are checked, calls go straight through.
    pub(crate) is_checking: AtomicBool,
    /// Something failed that an engine looked up for itself.
    pub(crate) has_missed: AtomicBool,
}

impl Pace {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            slowest: AtomicUsize::new(0),
            is_checking: AtomicBool::new(false),
            has_missed: AtomicBool::new(false),
        }
    }

    fn draw(&self) -> Duration {
        let slowest = self.slowest.load(Ordering::Relaxed) as u64;
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        if slowest > 0 && rng.u8(..4) == 0 {
            Duration::from_millis(rng.u64(0..=slowest))
        } else {
            Duration::ZERO
        }
    }
}

/// What one engine has of the store.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Which engine.
    pub(crate) engine: usize,
    pub(crate) faulty: Arc<dyn Storage>,
    pub(crate) bottom: Arc<Bottom>,
    pub(crate) pace: Arc<Pace>,
    /// Closed when the process is dead: nothing of it reaches the store any more, nor does what was on its way.
    pub(crate) alive: Semaphore,
    pub(crate) is_closed: AtomicBool,
    /// Where others share the store: what this engine is told of them.
    pub(crate) shared: Option<(
        Arc<Leases>,
        tokio::sync::Mutex<mpsc::UnboundedReceiver<Notice>>,
    )>,
    /// What every call fails with that changes something, for as long as it is there.
    pub(crate) outage: Mutex<Option<StorageError>>,
    /// Until when renewals get no answer.
    pub(crate) holds_renewals: Mutex<Option<Instant>>,
    /// Calls so far.
    pub(crate) n_calls: AtomicU64,
}

impl Wire {
    fn check(&self) -> Result<()> {
        if self.alive.is_closed() || self.is_closed.load(Ordering::Relaxed) {
            return Err(Self::closed());
        }
        Ok(())
    }

    fn closed() -> StorageError {
        let location = "a wire".to_owned();
        StorageError::Closed { location }
    }

    async fn call<T>(&self, what: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
        self.check()?;
        self.n_calls.fetch_add(1, Ordering::Relaxed);
        self.bottom
            .ledger
            .trace(&format!("engine {} {what}", self.engine));
        self.wait().await;
        self.check()?;
        let done = tokio::select! {
            biased;
            // It has no permits: this is its end.
            _ = self.alive.acquire() => Err(Self::closed()),
            done = doing => done,
        };
        self.wait().await;
        if let Err(error) = &done {
            self.bottom
                .ledger
                .trace(&format!("engine {} {what}: {error}", self.engine));
        }
        done
    }

    /// As [`call`](Self::call), of what changes something.
    async fn write<T>(&self, what: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
        let outage = self.outage();
        let doing = async move {
            match outage {
                Some(error) => Err(error),
                None => doing.await,
            }
        };
        self.call(what, doing).await
    }

    fn outage(&self) -> Option<StorageError> {
        let outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.clone()
    }

    /// From now on, renewals get no answer for so long.
    pub(crate) fn hold_renewals(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut held = self
            .holds_renewals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *held = (*held).max(Some(until));
    }

    fn renewals_held_until(&self) -> Option<Instant> {
        let held = self
            .holds_renewals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.filter(|until| *until > Instant::now())
    }

    fn is_node(&self, node: NodeId) {
        self.bottom.ledger.is_node(node, self.engine);
        if let Some((leases, _)) = &self.shared {
            leases.is_node(node, self.engine);
        }
    }

    async fn wait(&self) {
        let pause = self.pace.draw();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Of what an engine looks up for itself, so that no caller is told if it fails.
    fn look_up<T>(&self, asked: Result<T>) -> Result<T> {
        asked.inspect_err(|_| self.pace.has_missed.store(true, Ordering::Relaxed))
    }

    fn is_checking(&self) -> bool {
        self.pace.is_checking.load(Ordering::Relaxed)
    }
}

/// Passes a read on: at once while invariants are checked.
macro_rules! read {
    ($wire:ident, $what:expr, $call:ident($($arg:expr),*)) => {
        if $wire.is_checking() {
            $wire.bottom.$call($($arg),*).await
        } else {
            $wire.call($what, $wire.faulty.$call($($arg),*)).await
        }
    };
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Wire {
    fn describe(&self) -> Description {
        self.bottom.describe()
    }

    fn is_shared(&self) -> bool {
        self.bottom.is_shared()
    }

    async fn commit(&self, batch: Batch) -> Result<Committed> {
        let mut what = "commits".to_owned();
        for write in &batch.writes {
            what += &format!(" {} {:?}", write.run, write.record.status);
            if let Some(node) = write.record.owner {
                self.is_node(node);
            }
        }
        for delete in &batch.deletes {
            what += &format!(" without {}", delete.run);
        }
        self.write(&what, self.faulty.commit(batch)).await
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        Err(batch)
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        read!(self, &format!("reads the record of {run}"), record(run))
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        read!(self, "lists", list(query))
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        read!(
            self,
            "lists by id",
            list_by_id(kind, id_prefix, after, limit)
        )
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        let asking = self.faulty.unread(after, limit);
        let asked = self.call("asks who has messages", asking).await;
        self.look_up(asked)
    }

    async fn journal(&self, run: &RunId, from: Position, max: usize) -> Result<Vec<JournalEntry>> {
        read!(self, &format!("reads {run}"), journal(run, from, max))
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        read!(
            self,
            &format!("reads the {key:?} of {run}"),
            value(run, key)
        )
    }

    async fn read_runs(&self, runs: &[RunId], max: usize) -> Result<Vec<Option<ReadRun>>> {
        let names: Vec<&str> = runs.iter().map(RunId::as_str).collect();
        let what = format!("reads {}", names.join(" "));
        read!(self, &what, read_runs(runs, max))
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        let asking = self.faulty.due(kind, after, until, limit);
        let asked = self.call("asks what is due", asking).await;
        self.look_up(asked)
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        let reading = self.faulty.inbox(run, after, limit);
        self.call("reads an inbox", reading).await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        self.is_node(node);
        let claiming = self.faulty.claim(runs, node, lease);
        self.write(&format!("claims {runs:?}"), claiming).await
    }

    async fn claim_free(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        self.is_node(node);
        let claiming = self.faulty.claim_free(kind, except, node, lease, limit);
        self.write("claims what is free", claiming).await
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.is_node(node);
        while let Some(until) = self.renewals_held_until() {
            tokio::time::sleep_until(until).await;
        }
        self.write("renews", self.faulty.renew(node, lease)).await
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.write(&format!("releases {runs:?}"), self.faulty.release(runs))
            .await
    }

    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.write(&format!("declines {runs:?}"), self.faulty.decline(runs))
            .await
    }

    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        self.call("watches", self.bottom.watch(runs)).await
    }

    async fn want(&self, run: &RunId) -> Result<()> {
        self.call(&format!("wants {run}"), self.bottom.want(run))
            .await
    }

    async fn workers(&self) -> Result<Vec<NodeId>> {
        self.call("looks for workers", self.bottom.workers()).await
    }

    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        self.call("says what waits", self.bottom.say_waits(node, waits))
            .await
    }

    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        self.call("looks what waits elsewhere", self.bottom.waits())
            .await
    }

    async fn notices(&self) -> Vec<Notice> {
        let Some((_, notices)) = &self.shared else {
            return self.bottom.notices().await;
        };
        let mut told = Vec::new();
        if notices.lock().await.recv_many(&mut told, 100).await == 0 || self.check().is_err() {
            let () = std::future::pending().await;
        }
        told
    }

    async fn notified(&self) {
        self.faulty.notified().await;
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        self.write("stores a blob", self.faulty.put_blob(bytes))
            .await
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        self.call("stores a blob", self.faulty.put_blob_from(reader))
            .await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        read!(self, "reads a blob", blob(id))
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        read!(self, "reads a blob", blob_reader(id))
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        read!(self, "looks for a blob", blob_len(id))
    }

    fn maps_blobs(&self) -> bool {
        self.faulty.maps_blobs()
    }

    fn tasks(&self) -> Option<&dyn TaskQueue> {
        self.faulty.tasks()
    }

    fn pin_blob(&self, id: &BlobId) {
        self.faulty.pin_blob(id);
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.faulty.unpin_blob(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.call("maintains", self.faulty.maintain()).await
    }

    async fn close(&self) -> Result<()> {
        let closed = self.call("closes", self.faulty.close()).await;
        self.is_closed.store(true, Ordering::Relaxed);
        closed
    }
}
