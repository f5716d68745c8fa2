//! What goes wrong, and when.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::{RunId, StorageError};

/// What a call of a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Call {
    /// [`Storage::commit`](crate::Storage::commit)
    Commit,
    /// [`Storage::claim`](crate::Storage::claim)
    Claim,
    /// [`Storage::renew`](crate::Storage::renew)
    Renew,
    /// [`Storage::release`](crate::Storage::release)
    Release,
    /// [`Storage::put_blob`](crate::Storage::put_blob), [`Storage::put_blob_from`](crate::Storage::put_blob_from)
    PutBlob,
    /// Any of the calls that only read: `record`, `list`, `list_by_id`, `journal`, `value`, `due`, `inbox`, `unread`, `blob`,
    /// `blob_reader`, `blob_len`, and `held`, `look`, `limit` of the queue of tasks.
    Read,
    /// Any other call of the [queue of tasks](crate::TaskQueue).
    Tasks,
    /// [`Storage::maintain`](crate::Storage::maintain)
    Maintain,
    /// [`Storage::close`](crate::Storage::close)
    Close,
}

impl Call {
    /// Whether the call changes what is stored of runs, blobs and tasks: `Commit`, `Claim`, `Release`, `PutBlob`, `Tasks`.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::Commit | Self::Claim | Self::Release | Self::PutBlob | Self::Tasks
        )
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Claim => "claim",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::PutBlob => "put_blob",
            Self::Read => "read",
            Self::Tasks => "tasks",
            Self::Maintain => "maintain",
            Self::Close => "close",
        }
    }
}

/// Which calls a [`Fault`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum On {
    /// Calls of this kind.
    Call(Call),
    /// Calls that [change what is stored](Call::is_write).
    AnyWrite,
    /// All calls but `describe` and `notified`.
    Any,
}

impl On {
    pub(super) fn counts(self, call: Call) -> bool {
        match self {
            Self::Call(only) => only == call,
            Self::AnyWrite => call.is_write(),
            Self::Any => true,
        }
    }
}

impl From<Call> for On {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

/// One thing that goes wrong, once.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(super) on: On,
    pub(super) nth: u64,
    pub(super) effect: Effect,
    pub(super) error: Option<StorageError>,
}

impl Fault {
    /// At the `nth` such call after the fault is injected; the first is 1.
    #[must_use]
    pub fn at(on: impl Into<On>, nth: u64, effect: Effect) -> Self {
        Self {
            on: on.into(),
            nth: nth.max(1),
            effect,
            error: None,
        }
    }

    /// At the next such call.
    #[must_use]
    pub fn next(on: impl Into<On>, effect: Effect) -> Self {
        Self::at(on, 1, effect)
    }

    /// With this error, instead of a [`StorageError::Io`] that says "injected fault".
    #[must_use]
    pub fn with_error(mut self, error: StorageError) -> Self {
        self.error = Some(error);
        self
    }

    pub(super) fn error(&self, call: Call) -> StorageError {
        self.error.clone().unwrap_or_else(|| {
            StorageError::io(
                call.name(),
                "a faulty store",
                io::Error::other("injected fault"),
            )
        })
    }
}

/// What happens at a [`Fault`].
#[derive(Clone)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing is done, and the call fails: the disk refused.
    Fail,
    /// The call is done, and fails all the same: the answer was lost.
    FailAfter,
    /// Only the runs that the function picks get their part of the call, whole, messages to them included; then it fails.
    /// No correct store does this to a commit: it shows what a reader makes of one that broke its promise. To a
    /// claim or a release of many runs it may happen. A call that is not about many runs fails undone.
    Tear(Arc<dyn Fn(&RunId) -> bool + Send + Sync>),
    /// The call waits for [`Faulty::release_held`](super::Faulty::release_held) before it is done: a slow disk.
    Delay,
    /// The call is done, and its answer waits for [`Faulty::release_held`](super::Faulty::release_held): a slow network.
    DelayAfter,
    /// As `Delay`, and so does every later call: a disk that hangs.
    Freeze,
    /// Nothing is done, and this and every later write fails, as stores do after a failed write; later ones with
    /// [`StorageError::Poisoned`]. Reads go on.
    Poison,
    /// Nothing is done, and this and every later call fails: the process is as good as dead. What the store holds is
    /// what it held before.
    Crash,
}

impl Effect {
    /// [`Effect::Tear`] that keeps the runs `picked` says.
    pub fn tear(picked: impl Fn(&RunId) -> bool + Send + Sync + 'static) -> Self {
        Self::Tear(Arc::new(picked))
    }
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail => "Fail",
            Self::FailAfter => "FailAfter",
            Self::Tear(_) => "Tear(..)",
            Self::Delay => "Delay",
            Self::DelayAfter => "DelayAfter",
            Self::Freeze => "Freeze",
            Self::Poison => "Poison",
            Self::Crash => "Crash",
        })
    }
}
