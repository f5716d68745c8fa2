//! The wrapper that breaks what passes through it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::{oneshot, watch};

use super::{Call, Effect, Fault, On};
use crate::{
    Batch, BlobId, BlobReader, Committed, Description, Epoch, JournalEntry, ListedRun, Maintained,
    Message, MessageId, NodeId, Notice, Position, ReadRun, Result, RunId, RunKind, RunPage,
    RunQuery, RunRecord, Storage, StorageError, TaskQueue, Timestamp, ValueKey,
};

/// A store in which chosen calls go wrong. Everything else passes through to the store inside.
///
/// When two faults meet at one call, the one injected first happens, and both are spent.
///
/// ```
/// # use std::sync::Arc;
/// # use keepstep_storage::fault::{Effect, Fault, Faulty, On};
/// # use keepstep_storage::{Batch, Storage, memory};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Arc::new(Faulty::new(memory()));
/// store.inject(Fault::next(On::AnyWrite, Effect::Delay));
///
/// let commit = tokio::spawn({
///     let store = store.clone();
///     async move { store.commit(Batch::default()).await }
/// });
/// store.until_held(1).await;
/// assert!(!commit.is_finished());
/// store.release_held();
/// assert!(commit.await.unwrap().is_ok());
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Storage>,
    state: Mutex<State>,
    /// How many calls are held now.
    held: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Call, u64>,
    /// With how many calls each still lets pass.
    faults: Vec<(u64, Fault)>,
    frozen: bool,
    poison: Option<StorageError>,
    crash: Option<StorageError>,
    /// Calls that wait to be released, in the order in which they came: so they go on in an order that can be repeated.
    waiting: Vec<oneshot::Sender<()>>,
}

/// What is to be done with one call.
pub(super) enum Verdict {
    Do,
    Refuse(StorageError),
    DoAndFail(StorageError),
    Tear(Arc<dyn Fn(&RunId) -> bool + Send + Sync>, StorageError),
    Hold,
    DoAndHold,
}

impl Faulty {
    /// Wraps a store. Nothing goes wrong until a fault is [injected](Self::inject).
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            state: Mutex::default(),
            held: watch::Sender::new(0),
        }
    }

    /// Plans a fault. Its calls count from now.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push((fault.nth - 1, fault));
    }

    /// Ends every fault, planned or happening, except for calls that are held: they need
    /// [`release_held`](Self::release_held).
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.frozen = false;
        state.poison = None;
        state.crash = None;
    }

    /// How many calls there were of a kind, those included that went wrong.
    pub fn calls(&self, on: impl Into<On>) -> u64 {
        let on = on.into();
        let state = self.state();
        let counted = state.counts.iter().filter(|(call, _)| on.counts(**call));
        counted.map(|(_, count)| count).sum()
    }

    /// Lets every held call go on, and ends a freeze.
    pub fn release_held(&self) {
        // Under the lock, so that no call is between being told to wait and waiting.
        let mut state = self.state();
        state.frozen = false;
        for waiting in state.waiting.drain(..) {
            // Callers may give up waiting.
            let _ = waiting.send(());
        }
    }

    /// Waits until at least so many calls are held by `Delay`, `DelayAfter` or `Freeze`.
    pub async fn until_held(&self, calls: usize) {
        let mut held = self.held.subscribe();
        // The sender lives as long as `self`, so this ends only with what it waits for.
        let _ = held.wait_for(|held| *held >= calls).await;
    }

    /// The store inside.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.inner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and waits while it is to be held. Never answers `Hold`.
    pub(super) async fn enter(&self, call: Call) -> Verdict {
        let (verdict, release) = {
            let mut state = self.state();
            let verdict = state.judge(call);
            let release = matches!(verdict, Verdict::Hold).then(|| state.wait());
            (verdict, release)
        };
        match verdict {
            Verdict::Hold => {
                self.hold(release).await;
                match &self.state().crash {
                    Some(error) => Verdict::Refuse(error.clone()),
                    None => Verdict::Do,
                }
            }
            verdict => verdict,
        }
    }

    async fn hold(&self, release: Option<oneshot::Receiver<()>>) {
        struct Held<'a>(&'a watch::Sender<usize>);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|held| *held -= 1);
            }
        }
        self.held.send_modify(|held| *held += 1);
        // Callers may give up waiting.
        let _held = Held(&self.held);
        if let Some(release) = release {
            let _ = release.await;
        }
    }

    /// Does a call that cannot be torn.
    pub(super) async fn pass<T>(
        &self,
        call: Call,
        doing: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let verdict = self.enter(call).await;
        self.complete(verdict, doing).await
    }

    pub(super) async fn complete<T>(
        &self,
        verdict: Verdict,
        doing: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match verdict {
            Verdict::Do | Verdict::Hold => doing.await,
            Verdict::Refuse(error) | Verdict::Tear(_, error) => Err(error),
            Verdict::DoAndFail(error) => doing.await.and(Err(error)),
            Verdict::DoAndHold => {
                let release = self.state().wait();
                let done = doing.await;
                self.hold(Some(release)).await;
                done
            }
        }
    }
}

impl State {
    fn wait(&mut self) -> oneshot::Receiver<()> {
        let (release, released) = oneshot::channel();
        self.waiting.push(release);
        released
    }

    fn judge(&mut self, call: Call) -> Verdict {
        *self.counts.entry(call).or_default() += 1;
        let mut happens = None;
        self.faults.retain_mut(|(passes, fault)| {
            if !fault.on.counts(call) {
                return true;
            }
            if *passes > 0 {
                *passes -= 1;
                return true;
            }
            happens.get_or_insert_with(|| fault.clone());
            false
        });
        if let Some(error) = &self.crash {
            return Verdict::Refuse(error.clone());
        }
        if self.frozen {
            return Verdict::Hold;
        }
        if let Some(cause) = self.poison.as_ref().filter(|_| call.is_write()) {
            return Verdict::Refuse(StorageError::Poisoned {
                location: "a faulty store".to_owned(),
                cause: cause.to_string(),
            });
        }
        let Some(fault) = happens else {
            return Verdict::Do;
        };
        let error = fault.error(call);
        match fault.effect {
            Effect::Fail => Verdict::Refuse(error),
            Effect::FailAfter => Verdict::DoAndFail(error),
            Effect::Tear(picked) => Verdict::Tear(picked, error),
            Effect::Delay => Verdict::Hold,
            Effect::DelayAfter => Verdict::DoAndHold,
            Effect::Freeze => {
                self.frozen = true;
                Verdict::Hold
            }
            Effect::Poison => {
                self.poison = Some(error.clone());
                Verdict::Refuse(error)
            }
            Effect::Crash => {
                self.crash = Some(error.clone());
                Verdict::Refuse(error)
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Faulty {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn commit(&self, mut batch: Batch) -> Result<Committed> {
        match self.enter(Call::Commit).await {
            Verdict::Tear(picked, error) => {
                batch.writes.retain(|write| picked(&write.run));
                batch.deletes.retain(|delete| picked(&delete.run));
                batch.messages.retain(|message| picked(&message.to));
                self.inner.commit(batch).await.and(Err(error))
            }
            verdict => self.complete(verdict, self.inner.commit(batch)).await,
        }
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        // Whoever waits here for something waits on the runtime.
        Err(batch)
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        self.pass(Call::Read, self.inner.record(run)).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        self.pass(Call::Read, self.inner.list(query)).await
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let listing = self.inner.list_by_id(kind, id_prefix, after, limit);
        self.pass(Call::Read, listing).await
    }

    async fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        let reading = self.inner.journal(run, from, max_bytes);
        self.pass(Call::Read, reading).await
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        self.pass(Call::Read, self.inner.value(run, key)).await
    }

    async fn read_runs(&self, runs: &[RunId], max_bytes: usize) -> Result<Vec<Option<ReadRun>>> {
        let reading = self.inner.read_runs(runs, max_bytes);
        self.pass(Call::Read, reading).await
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        self.pass(Call::Read, self.inner.due(kind, after, until, limit))
            .await
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        let reading = self.inner.inbox(run, after, limit);
        self.pass(Call::Read, reading).await
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        self.pass(Call::Read, self.inner.unread(after, limit)).await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        match self.enter(Call::Claim).await {
            Verdict::Tear(picked, error) => {
                let some: Vec<_> = runs.iter().filter(|run| picked(run)).cloned().collect();
                self.inner.claim(&some, node, lease).await.and(Err(error))
            }
            verdict => {
                let claiming = self.inner.claim(runs, node, lease);
                self.complete(verdict, claiming).await
            }
        }
    }

    async fn claim_free(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let claim = self.inner.claim_free(kind, except, node, lease, limit);
        self.pass(Call::Claim, claim).await
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.pass(Call::Renew, self.inner.renew(node, lease)).await
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        match self.enter(Call::Release).await {
            Verdict::Tear(picked, error) => {
                let some: Vec<_> = runs.iter().filter(|(r, _)| picked(r)).cloned().collect();
                self.inner.release(&some).await.and(Err(error))
            }
            verdict => self.complete(verdict, self.inner.release(runs)).await,
        }
    }

    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        match self.enter(Call::Release).await {
            Verdict::Tear(picked, error) => {
                let some: Vec<_> = runs.iter().filter(|(r, _)| picked(r)).cloned().collect();
                self.inner.decline(&some).await.and(Err(error))
            }
            verdict => self.complete(verdict, self.inner.decline(runs)).await,
        }
    }

    async fn notified(&self) {
        self.inner.notified().await;
    }

    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        self.pass(Call::Read, self.inner.watch(runs)).await
    }

    async fn want(&self, run: &RunId) -> Result<()> {
        self.pass(Call::Read, self.inner.want(run)).await
    }

    async fn workers(&self) -> Result<Vec<NodeId>> {
        self.pass(Call::Read, self.inner.workers()).await
    }

    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        self.pass(Call::Read, self.inner.say_waits(node, waits))
            .await
    }

    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        self.pass(Call::Read, self.inner.waits()).await
    }

    async fn notices(&self) -> Vec<Notice> {
        self.inner.notices().await
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        self.pass(Call::PutBlob, self.inner.put_blob(bytes)).await
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        let putting = self.inner.put_blob_from(reader);
        self.pass(Call::PutBlob, putting).await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        self.pass(Call::Read, self.inner.blob(id)).await
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        self.pass(Call::Read, self.inner.blob_reader(id)).await
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        self.pass(Call::Read, self.inner.blob_len(id)).await
    }

    fn maps_blobs(&self) -> bool {
        self.inner.maps_blobs()
    }

    fn tasks(&self) -> Option<&dyn TaskQueue> {
        self.inner.tasks().map(|_| self as &dyn TaskQueue)
    }

    fn pin_blob(&self, id: &BlobId) {
        self.inner.pin_blob(id);
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.inner.unpin_blob(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.pass(Call::Maintain, self.inner.maintain()).await
    }

    async fn close(&self) -> Result<()> {
        self.pass(Call::Close, self.inner.close()).await
    }
}
