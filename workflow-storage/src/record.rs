//! The catalog record: the one small record of a run that listings, statuses and claims read.

use serde::{Deserialize, Serialize};

use crate::{BlobId, Epoch, NodeId, Position, RunId, Timestamp};

/// A run's status as it is stored. `Resumable` is not among them: it is computed from `owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum StoredStatus {
    /// Accepted, not begun.
    Pending = 1,
    /// Begun, not ended.
    Running = 2,
    /// Stopped until somebody resumes it.
    Suspended = 3,
    /// Ended with an output.
    Successful = 4,
    /// Ended with an error.
    Failed = 5,
    /// Ended by a cancel.
    Canceled = 6,
}

impl StoredStatus {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Suspended,
        Self::Successful,
        Self::Failed,
        Self::Canceled,
    ];

    /// Whether the run has begun or will, without anybody's doing.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Successful | Self::Failed | Self::Canceled)
    }
}

/// What kind of thing a record is of. All are owned, fenced, woken and sent messages in the same way; each kind has its own
/// listings.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum RunKind {
    /// A run of a workflow.
    #[default]
    Workflow = 1,
    /// A virtual actor: it has a state, and no journal.
    Actor = 2,
    /// A schedule, which starts runs.
    Schedule = 3,
}

/// The step of another run that a run was started for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parent {
    /// The other run.
    pub run: RunId,
    /// Which run of that id.
    pub incarnation: u64,
    /// The number of its step.
    pub step: u64,
}

/// How many steps of a run are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepCounts {
    /// Steps known so far, those of expansions included.
    pub total: u64,
    /// Steps whose result is durable, or which nothing needs any more.
    pub done: u64,
    /// Steps that failed for good.
    pub failed: u64,
}

/// The program that something was started by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Build {
    /// What people call it; empty if they did not say.
    pub label: String,
    /// A hash of the steps it has, with their versions and types.
    pub steps: u64,
    /// The blob that holds its executable, if that is kept.
    pub executable: Option<BlobId>,
}

/// What the catalog knows of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What it is a record of.
    pub kind: RunKind,
    /// The status.
    pub status: StoredStatus,
    /// Who may write to the run. `None` after a release.
    pub owner: Option<NodeId>,
    /// The owner's turn. A write that names another epoch is refused.
    pub epoch: Epoch,
    /// Tells one run from a later one of the same id.
    pub incarnation: u64,
    /// What the run does, for people: the name of the step it ends in.
    pub workflow: String,
    /// Hash of the plan the run was created with.
    pub plan_hash: [u8; 32],
    /// When the run was created.
    pub created_at: Timestamp,
    /// When it first left `Pending`.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The next time the run must be woken although nothing happens to it: the earliest of its timers.
    pub wake_at: Option<Timestamp>,
    /// The oldest journal entry still kept.
    pub first_entry: Position,
    /// The position that the next journal entry will have.
    pub next_entry: Position,
    /// Bytes in the journal entries from `first_entry` on.
    pub journal_bytes: u64,
    /// How far the run is.
    pub steps: StepCounts,
    /// What the run was started for, if it was another run that started it.
    pub parent: Option<Parent>,
    /// The program that started it.
    pub build: Build,
    /// How often, one time after another, the run was claimed from a node that had not released it, and had written no entry since it
    /// had claimed it in this way itself: those nodes died, or were silent for longer than their leases. Only what
    /// [`claim`](crate::Storage::claim) and [`claim_free`](crate::Storage::claim_free) return says so; elsewhere it is 0.
    #[serde(skip)]
    pub n_orphaned: u32,
}

/// A run in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRun {
    /// The workflow id.
    pub run: RunId,
    /// Its record.
    pub record: RunRecord,
}

/// Which runs a listing has, and how many at a time.
///
/// Runs come in the order of their creation (time, then id), oldest first, or newest first with `newest_first`.
#[derive(Debug, Clone)]
pub struct RunQuery {
    /// Only records of this kind.
    pub kind: RunKind,
    /// Only runs of these statuses; all if empty.
    pub statuses: Vec<StoredStatus>,
    /// Only runs that this node does not own.
    pub not_owned_by: Option<NodeId>,
    /// Only runs created at this time or later.
    pub created_from: Option<Timestamp>,
    /// Only runs created before this time.
    pub created_before: Option<Timestamp>,
    /// Only runs whose id starts so.
    pub id_prefix: String,
    /// Only runs whose [parent](RunRecord::parent) is this run, by its id and its incarnation. A store finds them without looking
    /// at others.
    pub children_of: Option<(RunId, u64)>,
    /// Newest first.
    pub newest_first: bool,
    /// Go on after this run: the cursor of the page before.
    pub after: Option<RunCursor>,
    /// At most so many runs; at least 1.
    pub limit: usize,
}

impl Default for RunQuery {
    fn default() -> Self {
        Self {
            kind: RunKind::Workflow,
            statuses: Vec::new(),
            not_owned_by: None,
            created_from: None,
            created_before: None,
            id_prefix: String::new(),
            children_of: None,
            newest_first: false,
            after: None,
            limit: 100,
        }
    }
}

/// Where a page of a listing ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCursor {
    /// When the last run of the page was created.
    pub created_at: Timestamp,
    /// Its id.
    pub run: RunId,
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<ListedRun>,
    /// Where to go on; `None` when there is nothing more.
    pub next: Option<RunCursor>,
}
