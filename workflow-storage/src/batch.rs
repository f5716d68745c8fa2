//! What one commit writes.

use bytes::Bytes;

use crate::{BlobId, Epoch, NodeId, Position, RunId, RunRecord, Timestamp};

/// Everything that becomes durable in one commit, together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// At most one write a run.
    pub writes: Vec<RunWrite>,
    /// Runs to remove, none of which has a write in this batch, and each once at most.
    pub deletes: Vec<RunDelete>,
    /// Messages to runs, by anybody: they carry no epoch.
    pub messages: Vec<Send>,
}

impl Batch {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.deletes.is_empty() && self.messages.is_empty()
    }
}

/// What one commit writes to one run.
#[derive(Debug, Clone)]
pub struct RunWrite {
    /// The run.
    pub run: RunId,
    /// Whether the run must be new, or be owned at an epoch.
    pub expect: Expect,
    /// The new catalog record, whole. Its `first_entry` and `next_entry` already count `entry` and `truncate`.
    pub record: RunRecord,
    /// A journal entry to append; its position is `record.next_entry - 1`.
    pub entry: Option<Bytes>,
    /// Whether journal entries before `record.first_entry` are removed.
    pub truncate: bool,
    /// Values to set (`Some`) or remove (`None`).
    pub values: Vec<(ValueKey, Option<Bytes>)>,
    /// Blobs that this write makes the run name, until it is deleted. They must be stored, and pinned or named by a run.
    pub blobs: Vec<BlobId>,
    /// Inbox messages that this write consumes.
    pub consumed: Vec<MessageId>,
    /// Another run, whose write stands before this one in the batch: unless that write is taken, this one is not either.
    pub only_with: Option<RunId>,
}

/// What must be true of a run for a write to it to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No run of this id exists.
    New,
    /// The run exists and its record has this epoch.
    Epoch(Epoch),
}

/// What became of one write of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum WriteOutcome {
    /// It is durable.
    Written,
    /// Nothing was written: the run has another epoch, so it has another owner. Or the store lacks what its owner wrote
    /// before, as a standby may that takes the place of a primary: then the run is nobody's from now on.
    Fenced {
        /// The run's epoch.
        current: Epoch,
    },
    /// Nothing was written: the run was to be new and exists.
    Exists,
    /// Nothing was written: there is no such run.
    NotFound,
    /// Nothing was written: the write it was to be taken [with](RunWrite::only_with) was not.
    Skipped,
    /// Nothing was written: a [blob](RunWrite::blobs) that it names is not there.
    BlobMissing {
        /// The blob.
        blob: BlobId,
    },
}

/// One run that a commit removes, with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDelete {
    /// The run.
    pub run: RunId,
    /// The epoch that its record must have.
    pub epoch: Epoch,
    /// Who removes it: nobody else may hold a lease on it.
    pub node: NodeId,
    /// Deletes of a batch that name the same run here, whichever that is, are all taken, or none of them is: a run goes together
    /// with those that it started.
    pub family: Option<RunId>,
}

impl From<RunDelete> for Batch {
    fn from(delete: RunDelete) -> Self {
        Self {
            deletes: vec![delete],
            ..Self::default()
        }
    }
}

/// What became of one delete of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum DeleteOutcome {
    /// The run is gone, durably.
    Deleted,
    /// Nothing was removed: the run has another epoch.
    Fenced,
    /// Nothing was removed: there is no such run.
    NotFound,
    /// Nothing was removed: the run is active, and another node holds a lease on it.
    Owned,
    /// Nothing was removed: another delete of the [family](RunDelete::family) was not taken.
    Skipped,
}

/// What became of a batch: one outcome a write, one a delete and one a message, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// One outcome a write.
    pub writes: Vec<WriteOutcome>,
    /// One outcome a delete.
    pub deletes: Vec<DeleteOutcome>,
    /// One outcome a message.
    pub messages: Vec<SendOutcome>,
}

/// A value kept beside a run's journal, found without reading the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueKey {
    /// The run's output.
    Output,
    /// Why the run failed or was suspended.
    Error,
    /// What the user attached to the run.
    Metadata,
    /// The output of a step that the user named.
    Step(String),
    /// What an actor or a schedule is: replaced whole.
    State,
    /// What an actor is to do later.
    Agenda,
    /// What a call of an actor came to, by the call's id.
    Result(String),
    /// Which nodes could not go on with a run.
    Declined,
    /// Some of the calls that an actor is to make later, by the number of the page.
    AgendaPage(u64),
    /// The call that an actor made when it was last noted, because earlier calls of it were cut short.
    Interrupted,
}

/// The number of a message in a run's inbox, in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u64);

/// A message on its way.
#[derive(Debug, Clone)]
pub struct Send {
    /// To which run.
    pub to: RunId,
    /// The sender's own id of it: a second message of this key to this run is dropped, also after the first was
    /// consumed. `None`: never dropped.
    pub key: Option<String>,
    /// When it was sent, by the clock of the sender. The store keeps it as it is: messages of one inbox are in the order in which
    /// they arrived, whatever their times.
    pub sent_at: Timestamp,
    /// What it says; opaque to the store.
    pub body: Bytes,
    /// Blobs that the message makes the run that it is sent to name, until that is deleted, if it is accepted. They must be
    /// stored, and pinned or named by a run.
    pub blobs: Vec<BlobId>,
    /// The run of a write of the same batch: unless that write is taken, the message is not either.
    pub only_with: Option<RunId>,
}

/// What became of one message of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum SendOutcome {
    /// It is durable in the inbox.
    Accepted(MessageId),
    /// A message of this key had arrived before.
    Duplicate,
    /// There is no such run.
    NotFound,
    /// The run has ended.
    Ended,
    /// The write it was to be taken [with](Send::only_with) was not.
    Skipped,
    /// A [blob](Send::blobs) that it names is not there.
    BlobMissing {
        /// The blob.
        blob: BlobId,
    },
}

/// A message in an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub id: MessageId,
    /// When it was sent, by the clock of the sender.
    pub sent_at: Timestamp,
    /// What it says.
    pub body: Bytes,
}

/// What is read of a run that is to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadRun {
    /// Its record.
    pub record: RunRecord,
    /// Its journal from the first entry on, or the beginning of that.
    pub journal: Vec<JournalEntry>,
}

/// A journal entry as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number.
    pub position: Position,
    /// Its bytes.
    pub bytes: Bytes,
}
