//! The status of a run.

use std::fmt;

use keepstep_storage::StoredStatus;
use serde::{Deserialize, Serialize};

/// Where a run stands. Two calls never disagree about it: it is read from one record, which changes with the run's journal
/// in one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Status {
    /// Accepted, and waiting for its turn (`max_running_runs`).
    Pending,
    /// Begun, and owned by an engine that goes on with it.
    Running,
    /// Stopped by `suspend`, or because the program cannot go on with it; `resume` does.
    Suspended,
    /// Begun or accepted, and owned by nobody, as after a crash; `resume` goes on with it.
    Resumable,
    /// Ended, with an output.
    Successful,
    /// Ended, with an error; `resume` tries again what failed.
    Failed,
    /// Ended by `cancel`, for good.
    Canceled,
}

impl Status {
    /// Whether the run has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Successful | Self::Failed | Self::Canceled)
    }

    /// The status of a run that is stored as `stored`.
    pub(crate) fn of(stored: StoredStatus, is_owned: bool) -> Self {
        match stored {
            StoredStatus::Pending | StoredStatus::Running if !is_owned => Self::Resumable,
            StoredStatus::Pending => Self::Pending,
            StoredStatus::Running => Self::Running,
            StoredStatus::Suspended => Self::Suspended,
            StoredStatus::Successful => Self::Successful,
            StoredStatus::Failed => Self::Failed,
            StoredStatus::Canceled => Self::Canceled,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Resumable => "resumable",
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        })
    }
}

/// How many steps of a run are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// Steps known so far: a step that expands adds more.
    pub total: u64,
    /// Steps whose result is durable, or which nothing needs any more.
    pub done: u64,
    /// Steps whose body is executing.
    pub running: u64,
    /// Steps that wait: for inputs, for a free place, or for their next attempt.
    pub waiting: u64,
    /// Steps that failed for good.
    pub failed: u64,
}
