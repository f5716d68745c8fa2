//! What goes wrong with a server: which failures pass, and what is said of them.

use std::sync::Arc;

use deadpool_postgres::{HookError, PoolError};
use tokio_postgres::error::SqlState;

use crate::StorageError;

pub(super) const BACKEND: &str = "PostgreSQL";

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Server(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("no answer within {0:?}")]
    NoAnswer(std::time::Duration),
    #[error("the server takes no more writes")]
    ReadOnly,
}

impl Failure {
    fn server_error(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Server(error)
            | Self::Pool(
                PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)),
            ) => Some(error),
            _ => None,
        }
    }

    pub(super) fn code(&self) -> Option<&SqlState> {
        self.server_error().and_then(tokio_postgres::Error::code)
    }

    /// Whether the same may succeed a little later.
    pub(super) fn passes(&self) -> bool {
        let Some(error) = self.server_error() else {
            return !matches!(self, Self::Pool(PoolError::Closed));
        };
        let Some(code) = error.code() else {
            return is_of_the_connection(error);
        };
        let passing = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_SESSION_TIMEOUT,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        code.code().starts_with("08") || passing.contains(code)
    }

    /// Whether the server is there but not yet, or not now, for one more, or does not take writes yet.
    pub(super) fn passes_soon(&self) -> bool {
        let soon = [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS];
        self.code().is_some_and(|code| soon.contains(code))
            || self.server_error().is_some_and(has_no_writer)
    }

    /// Whether it was done all the same, for all that is known.
    pub(super) fn is_unknown(&self) -> bool {
        !matches!(self, Self::Pool(_) | Self::ReadOnly) && self.code().is_none()
    }

    /// Whether the connection leads to a server that others are to be asked in place of: one that only reads, as a
    /// primary does after a failover, and a standby before.
    pub(super) fn is_of_a_reader(&self) -> bool {
        matches!(self, Self::ReadOnly) || self.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether the connection was silent.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::NoAnswer(_))
    }

    pub(super) fn into_error(self, location: &str, operation: &'static str) -> StorageError {
        let full = self.code() == Some(&SqlState::DISK_FULL);
        if full || self.passes() {
            return StorageError::Unavailable {
                backend: BACKEND,
                location: location.to_owned(),
                operation,
                source: Arc::new(self),
            };
        }
        StorageError::Backend {
            backend: BACKEND,
            operation,
            source: Arc::new(self),
        }
    }
}

/// Whether no host takes writes just now: in the middle of a failover.
fn has_no_writer(error: &tokio_postgres::Error) -> bool {
    // The client has no other sign of it.
    std::error::Error::source(error)
        .is_some_and(|cause| cause.to_string() == "database does not allow writes")
}

/// Whether there was no connection, or it was lost: neither refused by TLS nor about values that are not as expected.
fn is_of_the_connection(error: &tokio_postgres::Error) -> bool {
    use std::io::ErrorKind;

    if has_no_writer(error) {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return !matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::PermissionDenied
            );
        }
        source = cause.source();
    }
    error.is_closed()
}
