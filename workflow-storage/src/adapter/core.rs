//! What all parts of the adapter share: the map, the writer's lock, the recent heads, and how errors are made.

use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::blobs::Removal;
use crate::directory::Directory;
use crate::{Blobs, Op, OrderedMap, Result, RunId, RunRecord, StorageError};

use super::head::{Head, HeadFault, Recent};
use super::{frame, keys};

/// The version of keys and bytes in a map.
const FORMAT: u32 = 1;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) map: Box<dyn OrderedMap>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) location: String,
    pub(super) directory: Option<Arc<Directory>>,
    /// Something may have arrived.
    pub(super) arrived: Notify,
    writer: Mutex<()>,
    recent: Mutex<Recent>,
    /// Held from when the map begins to change until the heads are known that changed with it.
    publishing: RwLock<()>,
    closed: AtomicBool,
}

/// Whoever holds it may write.
pub(super) type Writer<'a> = MutexGuard<'a, ()>;

impl Core {
    pub(super) fn new(map: Box<dyn OrderedMap>, blobs: Blobs, location: String) -> Self {
        Self {
            map,
            blobs: Arc::new(blobs),
            location,
            directory: None,
            arrived: Notify::new(),
            writer: Mutex::default(),
            recent: Mutex::default(),
            publishing: RwLock::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Checks the map's format; writes it down first if the map `may_be_new` and is empty.
    pub(super) fn check_format(&self, may_be_new: bool) -> Result<()> {
        let Some(value) = self.map.get(keys::FORMAT)? else {
            let mut is_empty = true;
            self.map
                .range((Bound::Unbounded, Bound::Unbounded), false, &mut |_, _| {
                    is_empty = false;
                    ControlFlow::Break(())
                })?;
            if !is_empty || !may_be_new {
                return Err(self.corrupt("its format record is missing"));
            }
            let value = frame::seal(keys::FORMAT, &[&FORMAT.to_le_bytes()]);
            return self.map.apply(vec![Op::Put(keys::FORMAT.to_vec(), value)]);
        };
        let found = frame::unseal(keys::FORMAT, &value)
            .and_then(|payload| payload.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or_else(|| self.corrupt("its format record is damaged"))?;
        if found != FORMAT {
            return Err(self.unknown_format(found.to_string()));
        }
        Ok(())
    }

    /// Waits for the right to write.
    pub(super) fn writer(&self) -> Result<Writer<'_>> {
        // A panic of an earlier writer left nothing half done: what it shares changes after the map did, at once.
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_open()?;
        Ok(writer)
    }

    /// Makes `ops` durable, and after that the heads known to readers.
    pub(super) fn apply(
        &self,
        _writer: &Writer<'_>,
        ops: Vec<Op>,
        heads: impl IntoIterator<Item = (RunId, Option<Head>)>,
    ) -> Result<()> {
        let _publishing = self
            .publishing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if !ops.is_empty()
            && let Err(error) = self.map.apply(ops)
        {
            // The batch may be there or not: only the map knows.
            self.recent().clear();
            return Err(error);
        }
        let mut recent = self.recent();
        for (run, head) in heads {
            recent.set(run, head);
        }
        Ok(())
    }

    /// Waits until the heads are known that changed with what the map shows by now. Who reads a message, and then the record of the run
    /// that it tells of, must not find that as it was before.
    pub(super) fn await_heads(&self) {
        drop(
            self.publishing
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// A run's head as it was last made durable.
    pub(super) fn head(&self, run: &RunId) -> Result<Option<Head>> {
        if let Some(head) = self.recent().get(run) {
            return Ok(Some(head.clone()));
        }
        let key = keys::record(run);
        let Some(value) = self.map.get(&key)? else {
            return Ok(None);
        };
        self.read_head(run, &key, &value).map(Some)
    }

    pub(super) fn read_head(&self, run: &RunId, key: &[u8], value: &[u8]) -> Result<Head> {
        match Head::decode(key, value) {
            Ok(head) => Ok(head),
            Err(HeadFault::Damaged(why)) => {
                Err(self.corrupt(format!("the record of run {run} cannot be read: {why}")))
            }
            Err(HeadFault::Version(version)) => {
                Err(self.unknown_format(format!("{FORMAT} with a record of version {version}")))
            }
        }
    }

    pub(super) fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        Ok(self.head(run)?.map(|head| head.record))
    }

    pub(super) fn recent_record(&self, run: &RunId) -> Option<RunRecord> {
        self.recent().get(run).map(|head| head.record.clone())
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the pairs of a range to `visit`, and ends with its first error.
    pub(super) fn try_range(
        &self,
        from: &[u8],
        to: &Bound<Vec<u8>>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut result = Ok(());
        self.map.range(
            (Bound::Included(from), to.as_ref().map(Vec::as_slice)),
            false,
            &mut |key, value| {
                visit(key, value).unwrap_or_else(|error| {
                    result = Err(error);
                    ControlFlow::Break(())
                })
            },
        )?;
        result
    }

    /// Removes every pair from `from` to `to`.
    pub(super) fn remove_range(
        &self,
        ops: &mut Vec<Op>,
        from: &[u8],
        to: &Bound<Vec<u8>>,
    ) -> Result<()> {
        self.try_range(from, to, &mut |key, _| {
            ops.push(Op::Remove(key.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Removes every pair whose key begins with `prefix`.
    pub(super) fn remove_prefix(&self, ops: &mut Vec<Op>, prefix: &[u8]) -> Result<()> {
        self.remove_range(ops, prefix, &keys::end_of(prefix))
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(self.closed());
        }
        Ok(())
    }

    /// Removes blobs, unless the store has been closed: then they are for the next who opens it, and may be wanted there.
    pub(super) fn remove_blobs(&self, removals: Vec<Removal>) {
        let _removing = self.blobs.removing();
        if self.check_open().is_ok() {
            self.blobs.remove_all(removals);
        }
    }

    /// Removes a blob, unless the store has been closed.
    pub(super) fn remove_blob(&self, removal: Removal) -> Result<u64> {
        let _removing = self.blobs.removing();
        self.check_open()?;
        self.blobs.remove(removal)
    }

    pub(super) fn close(&self) -> Result<()> {
        let _writer = self.writer()?;
        self.closed.store(true, Ordering::Release);
        self.blobs.await_removals();
        self.arrived.notify_waiters();
        let closed = self.map.close();
        // Also after a failure: what the map holds is as durable as it will be, and another may look at it.
        if let Some(directory) = &self.directory {
            directory.unlock();
        }
        closed
    }

    pub(super) fn closed(&self) -> StorageError {
        StorageError::Closed {
            location: self.location.clone(),
        }
    }

    pub(super) fn corrupt(&self, what: impl Into<String>) -> StorageError {
        StorageError::Corrupt {
            location: self.location.clone(),
            what: what.into(),
        }
    }

    fn unknown_format(&self, found: String) -> StorageError {
        StorageError::UnknownFormat {
            location: self.location.clone(),
            found,
            supported: FORMAT.to_string(),
        }
    }

    /// The caller asked for what the store cannot hold.
    pub(super) fn refused(&self, why: String) -> StorageError {
        StorageError::Backend {
            backend: self.map.backend(),
            operation: "take a write",
            source: Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)),
        }
    }
}
