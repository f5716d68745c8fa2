//! Group commit: one writer, which takes whatever has gathered while the last commit was being flushed.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use keepstep_storage::{
    Batch, Committed, RunDelete, RunId, RunRecord, RunWrite, SendOutcome, Storage, StorageError,
    WriteOutcome,
};
use tokio::sync::{mpsc, oneshot};

use super::{RunMessage, Wake};

/// A commit does not gather more than this, so that what waits for it does not wait for long.
pub(crate) const MAX_BATCH_BYTES: usize = 16 << 20;
/// A sync is shared by enough writes then, and what a store keeps in memory for a batch until it is done stays small: sled keeps a
/// copy of a page for each key that changes.
const MAX_BATCH_WRITES: usize = 512;
/// What an entry or a key that is removed adds to a batch: about what a store keeps in memory for it until the batch is done.
const REMOVAL_BYTES: u64 = 4 << 10;
/// How many keys a run has besides its journal entries, about.
const KEYS_OF_RUN: u64 = 8;

/// What a write came to.
pub(crate) type Written = Result<WriteOutcome, StorageError>;

/// What is to become durable together, and who is told what came of it.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    /// The write that the others go with.
    pub(crate) write: Option<RunWrite>,
    /// Writes to other runs that are taken only if the first is.
    pub(crate) with: Vec<RunWrite>,
    /// Messages that are sent only if the first write is taken.
    pub(crate) messages: Vec<keepstep_storage::Send>,
    /// Runs to remove.
    pub(crate) deletes: Vec<RunDelete>,
    /// How much that adds to a batch.
    pub(crate) deleted_bytes: usize,
    pub(crate) reply: Reply,
}

/// How much the removal of a run, whose record is this, adds to a batch.
pub(crate) fn deleted_bytes(record: &RunRecord) -> usize {
    let entries = record.next_entry.0.saturating_sub(record.first_entry.0);
    let keys = entries.saturating_add(KEYS_OF_RUN);
    let bytes = keys
        .saturating_mul(REMOVAL_BYTES)
        .saturating_add(record.journal_bytes);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl CommitRequest {
    /// One write, and what it tells other runs.
    pub(crate) fn write(
        write: RunWrite,
        messages: Vec<keepstep_storage::Send>,
        reply: Reply,
    ) -> Self {
        Self {
            write: Some(write),
            with: Vec::new(),
            messages,
            deletes: Vec::new(),
            deleted_bytes: 0,
            reply,
        }
    }

    /// The removal of runs, which adds so much to a batch.
    pub(crate) fn deletes(deletes: Vec<RunDelete>, deleted_bytes: usize, reply: Reply) -> Self {
        Self {
            write: None,
            with: Vec::new(),
            messages: Vec::new(),
            deletes,
            deleted_bytes,
            reply,
        }
    }

    /// The runs that it changes.
    fn runs(&self) -> impl Iterator<Item = &RunId> {
        let deleted = self.deletes.iter().map(|delete| &delete.run);
        self.writes().map(|write| &write.run).chain(deleted)
    }

    fn writes(&self) -> impl Iterator<Item = &RunWrite> {
        self.write.iter().chain(&self.with)
    }

    /// How much it adds to a batch, about.
    fn bytes(&self) -> usize {
        let of = |write: &RunWrite| {
            let values = write.values.iter().flat_map(|(_, value)| value);
            write
                .entry
                .iter()
                .chain(values)
                .map(Bytes::len)
                .sum::<usize>()
        };
        let messages = self.messages.iter().map(|message| message.body.len());
        let all = self.writes().map(of).chain(messages);
        all.fold(self.deleted_bytes, usize::saturating_add)
    }

    /// Adds it to a batch.
    fn add_to(self, batch: &mut Batch) -> Asked {
        let asked = Asked {
            writes: self.writes().count(),
            messages: self.messages.len(),
            deletes: self.deletes.len(),
            reply: self.reply,
        };
        batch.deletes.extend(self.deletes);
        let only_with = self.write.as_ref().map(|write| write.run.clone());
        batch.writes.extend(self.write);
        batch.writes.extend(self.with.into_iter().map(|mut write| {
            write.only_with.clone_from(&only_with);
            write
        }));
        batch
            .messages
            .extend(self.messages.into_iter().map(|mut message| {
                message.only_with.clone_from(&only_with);
                message
            }));
        asked
    }
}

/// Who asked for how much of a batch.
struct Asked {
    writes: usize,
    messages: usize,
    deletes: usize,
    reply: Reply,
}

#[derive(Debug)]
pub(crate) enum Reply {
    /// A run's task is told of the first write.
    Run(mpsc::UnboundedSender<RunMessage>),
    /// Tells of every write, the first one first, of every message, and of every delete.
    Once(oneshot::Sender<Result<Committed, StorageError>>),
}

impl Reply {
    /// Whoever asked may have gone; what was committed is what it is.
    pub(crate) fn send(self, committed: Result<Committed, StorageError>) {
        match self {
            Self::Run(run) => {
                let first = |committed: Committed| committed.writes.first().copied();
                let written =
                    committed.map(|committed| first(committed).unwrap_or(WriteOutcome::NotFound));
                drop(run.send(RunMessage::Committed(Box::new(written))));
            }
            Self::Once(once) => drop(once.send(committed)),
        }
    }
}

/// Whose turn it is to commit. Held over a commit.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    taken: tokio::sync::Mutex<()>,
    /// Requests that were sent and are in no commit yet.
    n_waiting: AtomicUsize,
}

/// The way to the store for all that is written to it.
#[derive(Debug)]
pub(crate) struct Committer {
    storage: Arc<dyn Storage>,
    requests: mpsc::UnboundedSender<CommitRequest>,
    turn: Arc<Turn>,
}

impl Committer {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> (Self, mpsc::UnboundedReceiver<CommitRequest>) {
        let (requests, received) = mpsc::unbounded_channel();
        let committer = Self {
            storage,
            requests,
            turn: Arc::default(),
        };
        (committer, received)
    }

    pub(crate) fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// Hands a write to the task that commits whatever has gathered; gives it back if there is none any more.
    #[expect(clippy::result_large_err, reason = "it is what came in, given back")]
    pub(crate) fn send(&self, request: CommitRequest) -> Result<(), CommitRequest> {
        self.turn.n_waiting.fetch_add(1, Ordering::SeqCst);
        self.requests.send(request).map_err(|error| error.0)
    }

    /// Commits a write on this thread, which blocks until it is durable, if nobody else has anything to commit and the
    /// store can do that; else gives it back. Only on a runtime whose other threads go on meanwhile; `may_block` says that they do
    /// what this one leaves undone.
    #[expect(clippy::result_large_err, reason = "it is what came in, given back")]
    pub(crate) fn commit_here(
        &self,
        write: RunWrite,
        may_block: bool,
    ) -> Result<Written, RunWrite> {
        let Ok(_turn) = self.turn.taken.try_lock() else {
            return Err(write);
        };
        if self.turn.n_waiting.load(Ordering::SeqCst) > 0 {
            return Err(write);
        }
        let batch = Batch {
            writes: vec![write],
            ..Batch::default()
        };
        let commit = AssertUnwindSafe(|| self.storage.commit_blocking(batch));
        let committed = if may_block {
            catch_unwind(commit)
        } else {
            tokio::task::block_in_place(|| catch_unwind(commit))
        };
        match committed {
            Ok(Ok(Ok(mut committed))) => match committed.writes.pop() {
                Some(outcome) => Ok(Ok(outcome)),
                None => Ok(Err(incomplete(&*self.storage))),
            },
            Ok(Ok(Err(error))) => Ok(Err(error)),
            Ok(Err(mut batch)) => match batch.writes.pop() {
                Some(write) => Err(write),
                None => Ok(Err(incomplete(&*self.storage))),
            },
            Err(_) => Ok(Err(panicked(&*self.storage))),
        }
    }
}

/// Commits what arrives until nobody is left to send anything.
pub(crate) async fn run_committer(
    storage: Arc<dyn Storage>,
    turn: Arc<Turn>,
    mut requests: mpsc::UnboundedReceiver<CommitRequest>,
    wakes: mpsc::UnboundedSender<Wake>,
) {
    let mut gathered = Vec::new();
    let mut runs: HashSet<RunId> = HashSet::new();
    loop {
        if gathered.is_empty() && requests.recv_many(&mut gathered, MAX_BATCH_WRITES).await == 0 {
            return;
        }
        let _turn = turn.taken.lock().await;
        while gathered.len() < MAX_BATCH_WRITES
            && let Ok(request) = requests.try_recv()
        {
            gathered.push(request);
        }
        runs.clear();
        let mut bytes = 0;
        // A batch changes each run once; a second change of the same run waits, and all behind it, so that order is kept.
        let fits = |request: &CommitRequest| {
            bytes = request.bytes().saturating_add(bytes);
            let mut changed = request.runs();
            changed.all(|run| runs.insert(run.clone())) && bytes <= MAX_BATCH_BYTES
        };
        let n = gathered
            .iter()
            .map(fits)
            .take_while(|fits| *fits)
            .count()
            .max(1);
        turn.n_waiting.fetch_sub(n, Ordering::SeqCst);
        let later = gathered.split_off(n);
        let mut batch = Batch::default();
        let asked: Vec<Asked> = std::mem::replace(&mut gathered, later)
            .into_iter()
            .map(|request| request.add_to(&mut batch))
            .collect();
        let recipients: Vec<RunId> = batch.messages.iter().map(|send| send.to.clone()).collect();
        // A store that panics must not leave those who wait for it waiting.
        let committed = AssertUnwindSafe(storage.commit(batch)).catch_unwind().await;
        let committed = committed.unwrap_or_else(|_| Err(panicked(&*storage)));
        for (at, to) in recipients.into_iter().enumerate() {
            // A commit that failed may have been done all the same, and nobody else would say so.
            let may_have_arrived = committed.as_ref().map_or(true, |committed| {
                matches!(committed.messages.get(at), Some(SendOutcome::Accepted(_)))
            });
            if may_have_arrived {
                // Nobody is to be woken in an engine that has halted.
                drop(wakes.send(Wake::Mail(to)));
            }
        }
        match committed {
            Ok(committed) => {
                let mut writes = committed.writes.into_iter();
                let mut messages = committed.messages.into_iter();
                let mut deletes = committed.deletes.into_iter();
                for asked in asked {
                    let committed = Committed {
                        writes: writes.by_ref().take(asked.writes).collect(),
                        messages: messages.by_ref().take(asked.messages).collect(),
                        deletes: deletes.by_ref().take(asked.deletes).collect(),
                    };
                    asked.reply.send(Ok(committed));
                }
            }
            Err(error) => asked
                .into_iter()
                .for_each(|asked| asked.reply.send(Err(error.clone()))),
        }
    }
}

fn panicked(storage: &dyn Storage) -> StorageError {
    failed(storage, "it panicked")
}

fn incomplete(storage: &dyn Storage) -> StorageError {
    failed(storage, "it did not say what became of the write")
}

fn failed(storage: &dyn Storage, what: &str) -> StorageError {
    StorageError::Backend {
        backend: storage.describe().backend,
        operation: "commit",
        source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(what)),
    }
}
