//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The result of a storage call.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// What went wrong with a store, and where.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process, or another engine of this one, has the store open.
    #[error("store {path} is in use by {holder}; close it there, or open another directory")]
    InUse {
        /// The store.
        path: PathBuf,
        /// What its lock file says of the holder: process id and host.
        holder: String,
    },
    /// The path exists and is not a store.
    #[error("{path} is not a keepstep store: {found}; choose an empty or a new directory")]
    NotAStore {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The store was written in a format that this version does not know.
    #[error(
        "store {location} has format {found}, and this version of keepstep reads {supported}; use the version that wrote it"
    )]
    UnknownFormat {
        /// The store.
        location: String,
        /// Its format.
        found: String,
        /// The formats this build reads.
        supported: String,
    },
    /// The store was written by another backend than the one asked for.
    #[error("store {path} was written by {found}, not {asked}; open \"{found}:{path}\"", path = .path.display())]
    OtherBackend {
        /// The store.
        path: PathBuf,
        /// The backend that wrote it.
        found: String,
        /// The backend asked for.
        asked: String,
    },
    /// The storage URL names a backend that this build does not have.
    #[error("no backend for {url:?}: {hint}")]
    Unsupported {
        /// The URL, without secrets.
        url: String,
        /// What to do.
        hint: String,
    },
    /// Stored bytes are damaged or missing. Nothing was run or changed because of them.
    #[error("store {location} is damaged: {what}")]
    Corrupt {
        /// The store.
        location: String,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused.
    #[error("could not {operation} {path}", path = .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// The backend failed in a way of its own.
    #[error("{backend} could not {operation}")]
    Backend {
        /// The backend's name.
        backend: &'static str,
        /// What was tried.
        operation: &'static str,
        /// The backend's reason.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store is elsewhere and does not answer, or not now. What was asked for may have been done, or not: what is stored
    /// counts.
    #[error("{backend} at {location} is not available: could not {operation}")]
    Unavailable {
        /// The backend's name.
        backend: &'static str,
        /// The store, without secrets.
        location: String,
        /// What was tried.
        operation: &'static str,
        /// The last reason.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A setting of the store's URL, or a file that it needs, is not as it must be.
    #[error("{backend} cannot be opened: {what}")]
    Setting {
        /// The backend's name.
        backend: &'static str,
        /// What is wrong and what to do, without secrets.
        what: String,
    },
    /// An earlier write failed, so nothing more is written until the store is opened again.
    #[error(
        "store {location} takes no more writes since one failed ({cause}); open it again once that is mended"
    )]
    Poisoned {
        /// The store.
        location: String,
        /// The first failure.
        cause: String,
    },
    /// The store was closed.
    #[error("store {location} is closed")]
    Closed {
        /// The store.
        location: String,
    },
}

impl StorageError {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::Unavailable { .. } => true,
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::Interrupted
                        | io::ErrorKind::StorageFull
                        | io::ErrorKind::TimedOut
                )
            }
            _ => false,
        }
    }

    /// An error of the operating system.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}
