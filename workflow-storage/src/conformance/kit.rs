//! What the cases are written with.

use bytes::Bytes;

use super::Opener;
use crate::{
    Batch, BlobId, Build, DeleteOutcome, Epoch, Expect, JournalEntry, Message, MessageId, NodeId,
    Position, RunDelete, RunId, RunKind, RunQuery, RunRecord, RunWrite, Send, SendOutcome,
    StepCounts, Storage, StoredStatus, Timestamp, ValueKey, WriteOutcome,
};

pub(super) type Stores<'a> = &'a dyn Opener;

pub(super) const NODE: NodeId = NodeId(7);
pub(super) const OTHER_NODE: NodeId = NodeId(8);
pub(super) const ALL: usize = 100_000;

pub(super) fn id(id: &str) -> RunId {
    RunId::new(id).unwrap()
}

/// Bytes that neither compress nor repeat, the same for the same arguments.
pub(super) fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// The sizes at which stores cut, page or move things elsewhere.
pub(super) const SIZES: [usize; 12] = [
    0,
    1,
    255,
    4_095,
    4_096,
    4_097,
    8_192,
    12_289,
    65_535,
    65_536,
    65_537,
    1 << 20,
];

/// A run as its owner knows it, from which the owner's next write is made.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub(super) run: RunId,
    pub(super) record: RunRecord,
}

impl Owned {
    pub(super) fn new(run: &str) -> Self {
        Self {
            run: id(run),
            record: RunRecord {
                kind: RunKind::Workflow,
                status: StoredStatus::Running,
                owner: Some(NODE),
                epoch: Epoch::FIRST,
                incarnation: 11,
                workflow: "kit/step".to_owned(),
                plan_hash: [3; 32],
                created_at: Timestamp(1_000),
                started_at: Some(Timestamp(1_001)),
                ended_at: None,
                wake_at: None,
                first_entry: Position(0),
                next_entry: Position(0),
                journal_bytes: 0,
                steps: StepCounts::default(),
                parent: None,
                build: Build::default(),
                n_orphaned: 0,
            },
        }
    }

    pub(super) fn created_at(mut self, micros: u64) -> Self {
        self.record.created_at = Timestamp(micros);
        self
    }

    pub(super) fn status(mut self, status: StoredStatus) -> Self {
        self.record.status = status;
        self
    }

    pub(super) fn wake_at(mut self, micros: u64) -> Self {
        self.record.wake_at = Some(Timestamp(micros));
        self
    }

    /// The write that creates the run.
    pub(super) fn creation(&self) -> RunWrite {
        RunWrite {
            expect: Expect::New,
            ..self.write()
        }
    }

    /// A write of the record as it is.
    pub(super) fn write(&self) -> RunWrite {
        RunWrite {
            run: self.run.clone(),
            expect: Expect::Epoch(self.record.epoch),
            record: self.record.clone(),
            entry: None,
            truncate: false,
            values: Vec::new(),
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        }
    }

    /// The write that appends an entry.
    pub(super) fn append(&mut self, entry: impl Into<Bytes>) -> RunWrite {
        let entry = entry.into();
        self.record.next_entry = self.record.next_entry.next();
        self.record.journal_bytes += entry.len() as u64;
        RunWrite {
            entry: Some(entry),
            ..self.write()
        }
    }

    /// The write that removes entries before a position.
    pub(super) fn truncate(&mut self, first: Position) -> RunWrite {
        self.record.first_entry = first;
        RunWrite {
            truncate: true,
            ..self.write()
        }
    }

    /// The write that sets or removes a value.
    pub(super) fn set(&self, key: ValueKey, value: Option<Bytes>) -> RunWrite {
        RunWrite {
            values: vec![(key, value)],
            ..self.write()
        }
    }

    /// The write that consumes messages.
    pub(super) fn consume(&self, messages: &[MessageId]) -> RunWrite {
        RunWrite {
            consumed: messages.to_vec(),
            ..self.write()
        }
    }

    /// The write that refers to blobs.
    pub(super) fn refer(&self, blobs: &[BlobId]) -> RunWrite {
        RunWrite {
            blobs: blobs.to_vec(),
            ..self.write()
        }
    }

    /// Creates the run in a store.
    pub(super) async fn create(self, store: &dyn Storage) -> Self {
        write(store, self.creation()).await;
        self
    }

    /// Appends an entry in a store.
    pub(super) async fn appended(&mut self, store: &dyn Storage, entry: impl Into<Bytes>) {
        let append = self.append(entry);
        write(store, append).await;
    }
}

/// Commits writes and messages; their outcomes.
pub(super) async fn commit(
    store: &dyn Storage,
    writes: Vec<RunWrite>,
    messages: Vec<Send>,
) -> (Vec<WriteOutcome>, Vec<SendOutcome>) {
    let batch = Batch {
        writes,
        messages,
        ..Batch::default()
    };
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.deletes, []);
    (committed.writes, committed.messages)
}

/// Commits one write; its outcome.
pub(super) async fn try_write(store: &dyn Storage, write: RunWrite) -> WriteOutcome {
    let (writes, messages) = commit(store, vec![write], vec![]).await;
    assert_eq!((writes.len(), messages.len()), (1, 0));
    writes[0]
}

/// Commits one write, which must be taken.
pub(super) async fn write(store: &dyn Storage, write: RunWrite) {
    assert_eq!(try_write(store, write).await, WriteOutcome::Written);
}

/// A delete by [`NODE`].
pub(super) fn deletion(run: &RunId, epoch: Epoch) -> RunDelete {
    RunDelete {
        run: run.clone(),
        epoch,
        node: NODE,
        family: None,
    }
}

/// Commits deletes; their outcomes.
pub(super) async fn try_delete(store: &dyn Storage, deletes: Vec<RunDelete>) -> Vec<DeleteOutcome> {
    let batch = Batch {
        deletes,
        ..Batch::default()
    };
    let committed = store.commit(batch).await.unwrap();
    assert_eq!((committed.writes, committed.messages), (vec![], vec![]));
    committed.deletes
}

/// Deletes a run, which must be there at this epoch.
pub(super) async fn delete(store: &dyn Storage, run: &RunId, epoch: Epoch) {
    let outcomes = try_delete(store, vec![deletion(run, epoch)]).await;
    assert_eq!(outcomes, [DeleteOutcome::Deleted], "{run}");
}

pub(super) fn message(to: &Owned, key: Option<&str>, body: impl Into<Bytes>) -> Send {
    Send {
        to: to.run.clone(),
        key: key.map(str::to_owned),
        sent_at: Timestamp(1),
        body: body.into(),
        blobs: vec![],
        only_with: None,
    }
}

/// Sends messages; their outcomes.
pub(super) async fn send(store: &dyn Storage, messages: Vec<Send>) -> Vec<SendOutcome> {
    commit(store, vec![], messages).await.1
}

/// Sends a message, which must be taken; its number.
pub(super) async fn sent(store: &dyn Storage, message: Send) -> MessageId {
    match send(store, vec![message]).await[..] {
        [SendOutcome::Accepted(id)] => id,
        ref other => panic!("the message should have been accepted: {other:?}"),
    }
}

pub(super) async fn inbox(store: &dyn Storage, run: &RunId) -> Vec<Message> {
    store.inbox(run, None, ALL).await.unwrap()
}

pub(super) async fn bodies(store: &dyn Storage, run: &RunId) -> Vec<Bytes> {
    let messages = inbox(store, run).await;
    messages.into_iter().map(|message| message.body).collect()
}

/// A whole journal, read page by page.
pub(super) async fn journal(store: &dyn Storage, run: &RunId) -> Vec<JournalEntry> {
    let mut entries: Vec<JournalEntry> = Vec::new();
    let mut from = Position(0);
    loop {
        let page = store.journal(run, from, 100_000).await.unwrap();
        let Some(last) = page.last() else {
            return entries;
        };
        assert!(last.position >= from, "an entry from before the page");
        from = last.position.next();
        entries.extend(page);
    }
}

pub(super) fn entry(position: u64, bytes: impl Into<Bytes>) -> JournalEntry {
    JournalEntry {
        position: Position(position),
        bytes: bytes.into(),
    }
}

pub(super) async fn record(store: &dyn Storage, run: &RunId) -> Option<RunRecord> {
    store.record(run).await.unwrap()
}

pub(super) async fn value(store: &dyn Storage, run: &RunId, key: ValueKey) -> Option<Bytes> {
    store.value(run, &key).await.unwrap()
}

/// The ids of every run a query finds, page by page; the query's own limit is the size of a page.
pub(super) async fn listed(store: &dyn Storage, query: &RunQuery) -> Vec<String> {
    let mut query = query.clone();
    let mut ids = Vec::new();
    loop {
        let page = store.list(&query).await.unwrap();
        assert!(page.runs.len() <= query.limit, "a page is too long");
        assert!(
            !page.runs.is_empty() || page.next.is_none(),
            "an empty page says that there is more"
        );
        ids.extend(page.runs.iter().map(|run| run.run.as_str().to_owned()));
        assert!(ids.len() < ALL, "the pages never end");
        match page.next {
            Some(next) => {
                assert_ne!(query.after, Some(next.clone()), "the pages never end");
                query.after = Some(next);
            }
            None => return ids,
        }
    }
}

pub(super) fn of_status(status: StoredStatus) -> RunQuery {
    RunQuery {
        statuses: vec![status],
        ..RunQuery::default()
    }
}

/// Due runs as `(micros, id)`.
pub(super) async fn due(store: &dyn Storage, until: u64, limit: usize) -> Vec<(u64, String)> {
    due_of(store, RunKind::Workflow, until, limit).await
}

/// What is due of a kind, as `(micros, id)`.
pub(super) async fn due_of(
    store: &dyn Storage,
    kind: RunKind,
    until: u64,
    limit: usize,
) -> Vec<(u64, String)> {
    let due = store
        .due(kind, None, Timestamp(until), limit)
        .await
        .unwrap();
    due.into_iter()
        .map(|(at, run)| (at.0, run.as_str().to_owned()))
        .collect()
}
