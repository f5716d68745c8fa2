//! The trait that every store implements, and its contract.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    Batch, BlobId, Committed, Epoch, JournalEntry, ListedRun, Message, MessageId, NodeId, Position,
    ReadRun, Result, RunId, RunKind, RunPage, RunQuery, RunRecord, StorageError, TaskId, TaskQueue,
    Timestamp, ValueKey,
};

/// The bytes of a blob, as they are read: see [`Storage::blob_reader`].
pub type BlobReader = Box<dyn AsyncRead + std::marker::Send + Unpin>;

/// Where runs live: catalog, journals, values, inboxes, timers and blobs. It knows nothing of steps.
///
/// One commit is one durable, atomic write of what many runs have to say. Everything else is reads, ownership and
/// blobs. Methods may be called from many tasks at once. A method that fails leaves the store as it was, except
/// [`commit`](Self::commit), after whose error the batch may be there or not, but never a part of it.
///
/// To be correct:
/// - a read that starts after a commit returned sees that commit;
/// - a crash at any moment, a power cut included, leaves each batch there as a whole or not at all, and every batch
///   whose commit returned is there;
/// - damage is an error ([`StorageError::Corrupt`](crate::StorageError::Corrupt)), never a panic or a silent gap.
#[async_trait]
pub trait Storage: Debug + std::marker::Send + Sync + 'static {
    /// What this store is, for people and for the promises it keeps.
    fn describe(&self) -> Description;

    /// Makes a batch durable: all of it, or nothing but the refused writes missing.
    ///
    /// To be correct:
    /// - when it returns `Ok`, every write with outcome `Written` survives a power cut;
    /// - a write whose [`Expect`](crate::Expect) does not hold is refused without failing the others, and leaves no trace;
    /// - a write or a message that is to be taken only with another write is skipped, without a trace, when that is not taken;
    /// - a write or a message that names a blob which is not there is refused in the same way: no run ever names what is missing;
    /// - messages of a batch meet runs as its writes and deletes leave them: a new run may come with its first message, and
    ///   one that ends takes none;
    /// - a delete removes everything that belongs to the run, if its epoch is the one that was asked for. In a shared store it
    ///   is refused while the run is active and another node holds a lease on it. Blobs that no other run names, and that are
    ///   not [pinned](Self::pin_blob), go soon after, or with the next [`maintain`](Self::maintain);
    /// - the indexes that [`list`](Self::list) and [`due`](Self::due) read change in the same commit.
    async fn commit(&self, batch: Batch) -> Result<Committed>;

    /// [`commit`](Self::commit) on the calling thread, which waits until the batch is durable: for a caller that has nothing
    /// else to do and whose thread may block, so that no other thread has to be woken. A store that needs its runtime for
    /// a commit gives the batch back, which is what it does unless it says otherwise.
    ///
    /// To be correct: as `commit`.
    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        Err(batch)
    }

    /// Whether other processes may have the store open at the same time, and take over runs whose owner's lease has ended.
    fn is_shared(&self) -> bool {
        false
    }

    /// A run's catalog record; `None` if there is no such run. In a shared store, an owner whose lease has ended is `None`.
    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>>;

    /// A page of runs, in order of creation.
    async fn list(&self, query: &RunQuery) -> Result<RunPage>;

    /// Records of one kind whose id begins with `id_prefix`, in the order of their ids, after an id, at most `limit`.
    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>>;

    /// Journal entries from a position on, in order: as many as fit in `max_bytes`, but at least one if there is any.
    ///
    /// To be correct: an entry that is missing is left out, not made up; its reader notices by the numbers.
    async fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>>;

    /// A value that is kept beside the journal.
    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>>;

    /// Several runs, as [`record`](Self::record) and [`journal`](Self::journal) show each of them: its record, and its journal
    /// from the first entry on, as far as `max_bytes` go for each.
    async fn read_runs(&self, runs: &[RunId], max_bytes: usize) -> Result<Vec<Option<ReadRun>>> {
        let mut read = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(record) = self.record(run).await? else {
                read.push(None);
                continue;
            };
            let journal = self.journal(run, record.first_entry, max_bytes).await?;
            read.push(Some(ReadRun { record, journal }));
        }
        Ok(read)
    }

    /// Active runs of a kind whose `wake_at` is at or before `until`, earliest first and those of one time in the order of their
    /// ids, after a time and an id, at most `limit`, whoever owns them.
    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>>;

    /// Unconsumed messages of a run after a number, in order of arrival, at most `limit`.
    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>>;

    /// Runs with unconsumed messages, in the order of their ids, after an id, at most `limit`, whoever owns them.
    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>>;

    /// Takes ownership of runs: for each, the record with `node` as its owner and its epoch raised; `None` if the run
    /// does not exist or another node holds a lease on it.
    ///
    /// To be correct: durable when it returns; a run that `node` already owns is claimed again, with a new epoch. What it returns
    /// [counts](RunRecord::n_orphaned) claims from nodes that had not released the run. A
    /// store that only one process can open grants every claim, and `lease` means nothing to it.
    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>>;

    /// Takes ownership of runs of a kind that are to go on and that nobody owns, or whose owner's lease has ended, without
    /// waiting for those that others are taking: the oldest first, at most `limit`, none of `except`. What they are now.
    ///
    /// To be correct: durable when it returns; no two calls get one run. A store that is not shared has none to give, since
    /// nobody but its one process may go on with a run.
    async fn claim_free(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let _ = (kind, except, node, lease, limit);
        Ok(Vec::new())
    }

    /// Makes every lease of `node` last `lease` from now; where it has none yet, of all that it comes to own. A run that
    /// another node has claimed since stays that one's. With a `lease` of zero they end at once.
    ///
    /// Returns since when the leases of `node` have lasted without a gap, by the clock of the store. If that is
    /// another time than the last call returned, they had ended in between, and others may have claimed the node's
    /// runs.
    ///
    /// To be correct: on a shared store, engines call this from a thread and a runtime of their own, so that a body
    /// that blocks the caller's threads ends no lease. It must not wait for anything that another runtime does. What
    /// it leaves behind there (a connection, say) is dropped with that runtime, when the engine ends.
    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp>;

    /// Gives runs up: their owner becomes `None`, and their epoch rises. A run whose epoch is another is left alone.
    ///
    /// To be correct: what the former owner may still have under way is fenced from now on; taken, it would make that one the
    /// owner again, of a run that it does not drive.
    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()>;

    /// As [`release`](Self::release), because the owner's program cannot go on with them: every process is told of each, with a
    /// [`Notice::Declined`].
    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.release(runs).await
    }

    /// Waits until something may have arrived for this process: a hint, which may come without a cause.
    async fn notified(&self);

    /// Asks to be told, by [`notices`](Self::notices), when these runs stop: end, or are suspended. Their records, as they are since
    /// that was asked: some may have stopped before.
    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        let mut records = Vec::with_capacity(runs.len());
        for run in runs {
            records.push(self.record(run).await?);
        }
        Ok(records)
    }

    /// Asks whoever owns a run to give it up, if it can: it gets a [`Notice::Wanted`].
    async fn want(&self, run: &RunId) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// The nodes whose leases last and that take up runs which nobody owns, with [`claim_free`](Self::claim_free).
    ///
    /// To be correct: a store that is not shared has none to tell of.
    async fn workers(&self) -> Result<Vec<NodeId>> {
        Ok(Vec::new())
    }

    /// Says who waits for whom in the engine of a node, for other engines to read; what the node said before is replaced. The bytes are
    /// opaque to the store; none means that the node has nothing to say.
    ///
    /// Engines call this only while something there has waited for another engine for a while. On a store that is not shared nobody
    /// reads it, and it does nothing.
    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        let _ = (node, waits);
        Ok(())
    }

    /// What each node said last with [`say_waits`](Self::say_waits), in the order of the nodes.
    ///
    /// To be correct: what a node says is durable or visible to others before `say_waits` returns, all of it is seen as it was at one
    /// moment, and a node whose lease has ended says nothing.
    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        Ok(Vec::new())
    }

    /// What other processes did since this was called last; waits until there is something. Hints: some may come without a
    /// cause, and after a time without a connection there is one [`Notice::Missed`].
    ///
    /// To be correct: a store that is not shared has nothing to tell, and waits for ever.
    async fn notices(&self) -> Vec<Notice> {
        std::future::pending().await
    }

    /// The queue of executions that owners of runs offer to every worker; `None` if the store has none: then each process has
    /// [its own](crate::LocalTasks).
    fn tasks(&self) -> Option<&dyn TaskQueue> {
        None
    }

    /// Stores bytes under their content's address, and [pins](Self::pin_blob) them. Durable when it returns; storing the same bytes
    /// again costs nothing.
    ///
    /// To be correct: a caller that stops waiting leaves no pin behind.
    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId>;

    /// Stores all that a reader gives, as [`put_blob`](Self::put_blob) does, without having it in memory as a whole. Returns the
    /// address, and how many bytes there were.
    ///
    /// # Errors
    /// Those of the reader as [`StorageError::Io`]; nothing is stored then.
    ///
    /// To be correct: memory does not grow with what is read. What this method does where it is not implemented is not that.
    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes).await;
        let read = read.map_err(|error| StorageError::io("read", "what is to be stored", error))?;
        Ok((self.put_blob(bytes.into()).await?, read as u64))
    }

    /// A blob's bytes; memory-mapped where the store is a directory.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`](crate::StorageError::Corrupt) if it is missing or is not what its address says.
    async fn blob(&self, id: &BlobId) -> Result<Bytes>;

    /// A blob's bytes as a stream, for one that is larger than memory.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`](crate::StorageError::Corrupt) if it is missing. Bytes that are not what the address says are an error
    /// of the reader at their end: what came before must not be used then.
    ///
    /// To be correct: memory does not grow with the blob. What this method does where it is not implemented is not that.
    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        Ok(Box::new(std::io::Cursor::new(self.blob(id).await?)))
    }

    /// How many bytes a blob has; `None` if it is not there.
    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        match self.blob(id).await {
            Ok(bytes) => Ok(Some(bytes.len() as u64)),
            Err(StorageError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether [`blob`](Self::blob) takes no memory for long blobs, because they are memory-mapped.
    fn maps_blobs(&self) -> bool {
        false
    }

    /// Keeps a blob from being removed by [`maintain`](Self::maintain) until [`unpin_blob`](Self::unpin_blob) was called as often as
    /// it was stored and pinned. Says nothing of whether it is there. Returns at once.
    ///
    /// To be correct: pins are those of this process, and are gone after a crash. A commit leaves them as they are. A store that
    /// several processes clean up must keep what any of them has pinned, or has stored not long ago.
    fn pin_blob(&self, _id: &BlobId) {}

    /// Takes one pin away. Returns at once.
    fn unpin_blob(&self, _id: &BlobId) {}

    /// Wins back space: removes blobs that nothing refers to, and compacts. May be called at any time, and takes long.
    ///
    /// To be correct: a blob that is [pinned](Self::pin_blob) stays, since a commit may still be about to name it. One that is named
    /// by no run and pinned by nobody goes.
    async fn maintain(&self) -> Result<Maintained>;

    /// Writes down what is buffered and lets go of the store, so that another process can open it. Calls after it fail with
    /// [`StorageError::Closed`](crate::StorageError::Closed).
    async fn close(&self) -> Result<()>;
}

/// What another process did that one may care for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This run, which a node of this process owns or nobody does, has a message.
    Mail(RunId),
    /// This run, which is [watched](Storage::watch), has stopped.
    Changed(RunId),
    /// Somebody else would like to have this run, which a node of this process owns.
    Wanted(RunId),
    /// There are runs that nobody owns.
    Free,
    /// This run, or actor, is nobody's: its owner's program [could not go on](Storage::decline) with it.
    Declined(RunId),
    /// There may be tasks to take in this pool.
    Tasks(String),
    /// These tasks, of runs that a node of this process owns, have results.
    Done(Vec<TaskId>),
    /// These tasks, which a node of this process held, were removed: nobody needs their results.
    Withdrawn(Vec<TaskId>),
    /// Something may have been missed: look at everything.
    Missed,
}

/// What a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The backend's name, as in a storage URL: `sled`, `memory`.
    pub backend: &'static str,
    /// Where it is: a path or an address without secrets.
    pub location: String,
    /// What survives what.
    pub durability: Durability,
}

/// What a store's commits survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: the store lives in memory.
    Process,
    /// The end of any process, however it ends. A power cut, or a crash of the system, of the machine that has them
    /// loses some of them or damages the store: a PostgreSQL server does not sync with `fsync = off`.
    Crash,
    /// A power cut.
    PowerLoss,
}

/// What [`Storage::maintain`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Blobs removed.
    pub blobs_removed: u64,
    /// Bytes of disk won back, as far as the store can tell.
    pub bytes_freed: u64,
}
