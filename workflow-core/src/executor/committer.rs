//! Group commit: one writer, which takes whatever has gathered while the last commit was being flushed.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use keepstep_storage::{Batch, RunId, RunWrite, Storage, StorageError, WriteOutcome};
use tokio::sync::{mpsc, oneshot};

use super::RunMessage;

/// A commit does not gather more than this, so that what waits for it does not wait for long.
const MAX_BATCH_BYTES: usize = 16 << 20;
const MAX_BATCH_WRITES: usize = 4096;

/// What a write came to.
pub(crate) type Written = Result<WriteOutcome, StorageError>;

/// A write, and who is told what came of it.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    pub(crate) write: RunWrite,
    pub(crate) reply: Reply,
}

#[derive(Debug)]
pub(crate) enum Reply {
    Run(mpsc::UnboundedSender<RunMessage>),
    Once(oneshot::Sender<Written>),
}

impl Reply {
    /// Whoever asked may have gone; the write is what it is.
    pub(crate) fn send(self, written: Written) {
        match self {
            Self::Run(run) => drop(run.send(RunMessage::Committed(Box::new(written)))),
            Self::Once(once) => drop(once.send(written)),
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
    /// store can do that; else gives it back. Only on a runtime whose other threads go on meanwhile.
    #[expect(clippy::result_large_err, reason = "it is what came in, given back")]
    pub(crate) fn commit_here(&self, write: RunWrite) -> Result<Written, RunWrite> {
        let Ok(_turn) = self.turn.taken.try_lock() else {
            return Err(write);
        };
        if self.turn.n_waiting.load(Ordering::SeqCst) > 0 {
            return Err(write);
        }
        let batch = Batch {
            writes: vec![write],
            messages: Vec::new(),
        };
        let commit = AssertUnwindSafe(|| self.storage.commit_blocking(batch));
        match tokio::task::block_in_place(|| catch_unwind(commit)) {
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
        // A batch has one write a run; a second one of the same run waits, and all behind it, so that order is kept.
        let fits = |request: &CommitRequest| {
            bytes += request.write.entry.as_ref().map_or(0, |entry| entry.len());
            runs.insert(request.write.run.clone()) && bytes <= MAX_BATCH_BYTES
        };
        let n = gathered
            .iter()
            .map(fits)
            .take_while(|fits| *fits)
            .count()
            .max(1);
        turn.n_waiting.fetch_sub(n, Ordering::SeqCst);
        let later = gathered.split_off(n);
        let (writes, replies): (Vec<_>, Vec<_>) = std::mem::replace(&mut gathered, later)
            .into_iter()
            .map(|request| (request.write, request.reply))
            .unzip();
        let batch = Batch {
            writes,
            messages: Vec::new(),
        };
        // A store that panics must not leave those who wait for it waiting.
        let committed = AssertUnwindSafe(storage.commit(batch)).catch_unwind().await;
        match committed.unwrap_or_else(|_| Err(panicked(&*storage))) {
            Ok(committed) => {
                replies
                    .into_iter()
                    .zip(committed.writes)
                    .for_each(|(reply, outcome)| reply.send(Ok(outcome)));
            }
            Err(error) => replies
                .into_iter()
                .for_each(|reply| reply.send(Err(error.clone()))),
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
