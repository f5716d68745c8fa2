//! The events of a run: what its journal holds. Folding them gives the run's state.
//!
//! They are stored as bincode, by the numbers of their variants and the order of their fields: add at the end, never
//! change what stands here. A change of meaning is a new variant.

use std::sync::Arc;

use keepstep_storage::{BlobId, Timestamp};
use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use crate::error::{StepErrorKind, SuspendReason};
use crate::plan::Plan;
use crate::texts;
use crate::value::Value;

/// The number of a step in its run: counted up as plans come in, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepId(pub u64);

impl std::fmt::Display for StepId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// Something that happened to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The run was accepted, with this plan. Always the first.
    Created { plan: Arc<Plan> },
    /// A step's body gave a value; or the time, the message or the run came that a node waited for.
    StepSucceeded { step: StepId, value: Value },
    /// A step with `checkpoint = false` gave a value, which is not stored: after a crash the step runs again if anything
    /// still needs it.
    StepRan {
        step: StepId,
        #[serde(skip)]
        value: Option<Value>,
    },
    /// A step's body gave a workflow.
    StepExpanded { step: StepId, plan: Arc<Plan> },
    /// A step's body failed: it runs again at `retry_at`, or never. Or a node was not done in its time, or the run failed that it
    /// waited for.
    AttemptFailed {
        step: StepId,
        failure: Failure,
        retry_at: Option<Timestamp>,
    },
    /// The run failed: everything that was running has stopped.
    RunFailed,
    /// The run was canceled: everything that was running has stopped.
    RunCanceled,
    /// The run was suspended: everything that was running has stopped.
    RunSuspended { reason: SuspendReason },
    /// The run goes on after a failure or a suspension.
    RunResumed,
    /// The whole state: all entries before it can go.
    Snapshot(Box<Snapshot>),
    /// The run reached these nodes at this time, from which theirs is counted.
    ClockStarted { at: Timestamp, steps: Vec<StepId> },
    /// The run that a node waits for is there.
    ChildBegan { step: StepId },
    /// These steps were cut short once more, for the second time at least, and execute again from this time on.
    Interrupted { at: Timestamp, steps: Vec<StepId> },
}

impl Event {
    /// Whether the plans it brings, read from a store, refer to what they have.
    pub(crate) fn plans_are_sound(&self) -> bool {
        match self {
            Self::Created { plan } | Self::StepExpanded { plan, .. } => plan.is_sound(),
            Self::Snapshot(snapshot) => snapshot.plans().all(|plan| plan.is_sound()),
            _ => true,
        }
    }

    /// The blobs that an event makes its run refer to.
    pub(crate) fn blobs(&self) -> Vec<BlobId> {
        match self {
            Self::Created { plan } | Self::StepExpanded { plan, .. } => plan.blobs(),
            Self::StepSucceeded { value, .. } => {
                let mut blobs = Vec::new();
                value.for_each_blob(&mut |blob| blobs.push(blob));
                blobs
            }
            _ => Vec::new(),
        }
    }
}

/// Why one execution of a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: StepErrorKind,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
}

impl Failure {
    /// The failure, as far as it is kept: also one that another worker told.
    pub(crate) fn cut(self) -> Self {
        let (message, causes) = texts::cut_all(self.message, self.causes);
        Self {
            kind: self.kind,
            message,
            causes,
        }
    }
}
