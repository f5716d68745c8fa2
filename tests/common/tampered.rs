//! A store whose journals read otherwise than they were written: damaged, or written by another program.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepstep::storage::{
    Batch, BlobId, Committed, Description, Epoch, JournalEntry, ListedRun, Maintained, Message,
    MessageId, NodeId, Position, Result, RunId, RunKind, RunPage, RunQuery, RunRecord, Storage,
    Timestamp, ValueKey,
};

type Tamper = Box<dyn Fn(&RunId, JournalEntry) -> Option<JournalEntry> + Send + Sync>;

/// Wraps a store. Everything passes through, but what is read of journals is changed, or left out.
pub(crate) struct Tampered {
    inner: Arc<dyn Storage>,
    tamper: Mutex<Option<Tamper>>,
    is_shared: bool,
}

impl fmt::Debug for Tampered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tampered({:?})", self.inner)
    }
}

impl Tampered {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            tamper: Mutex::default(),
            is_shared: false,
        }
    }

    /// One that says that other engines share it. It has no leases, and gives nobody what nobody owns.
    pub(crate) fn shared(inner: Arc<dyn Storage>) -> Self {
        Self {
            is_shared: true,
            ..Self::new(inner)
        }
    }

    /// What happens to every entry that is read from now on.
    pub(crate) fn with(
        &self,
        tamper: impl Fn(&RunId, JournalEntry) -> Option<JournalEntry> + Send + Sync + 'static,
    ) {
        *self.tamper.lock().unwrap() = Some(Box::new(tamper));
    }

    /// Nothing happens any more.
    pub(crate) fn heal(&self) {
        *self.tamper.lock().unwrap() = None;
    }
}

/// An entry as a program would have written it in which `from` is called `to`, which has the same length.
pub(crate) fn rewritten(mut entry: JournalEntry, from: &str, to: &str) -> JournalEntry {
    assert_eq!(from.len(), to.len());
    let mut bytes = entry.bytes.to_vec();
    for at in 0..bytes.len().saturating_sub(from.len()) + 1 {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    // The checksum covers the position, the number of events and the events.
    let mut covered = entry.position.0.to_le_bytes().to_vec();
    covered.extend_from_slice(&bytes[1..5]);
    covered.extend_from_slice(&bytes[13..]);
    let checksum = crc32(&covered).to_le_bytes();
    bytes[9..13].copy_from_slice(&checksum);
    entry.bytes = bytes.into();
    entry
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[async_trait]
impl Storage for Tampered {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    async fn commit(&self, batch: Batch) -> Result<Committed> {
        self.inner.commit(batch).await
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

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        self.inner.unread(after, limit).await
    }

    async fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        let entries = self.inner.journal(run, from, max_bytes).await?;
        Ok(match &*self.tamper.lock().unwrap() {
            None => entries,
            Some(tamper) => entries
                .into_iter()
                .filter_map(|entry| tamper(run, entry))
                .collect(),
        })
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        self.inner.value(run, key).await
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

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        self.inner.claim(runs, node, lease).await
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.inner.renew(node, lease).await
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.inner.release(runs).await
    }

    async fn notified(&self) {
        self.inner.notified().await;
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        self.inner.put_blob(bytes).await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        self.inner.blob(id).await
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
