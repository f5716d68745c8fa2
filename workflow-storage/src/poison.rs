//! What stores on a disk have in common when things go wrong: a write that failed, and a backend that panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use crate::{Result, StorageError};

/// Why nothing more is written. After a failed write nobody knows what is on the disk: only opening again finds out.
#[derive(Debug, Default)]
pub(crate) struct Poison(OnceLock<String>);

impl Poison {
    /// Refuses to go on after a failed write.
    pub(crate) fn check(&self, location: &Path) -> Result<()> {
        match self.0.get() {
            Some(cause) => Err(StorageError::Poisoned {
                location: location.display().to_string(),
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// What to say of a failure that may only follow from an earlier one: backends say no more then than that they had one.
    pub(crate) fn explain(&self, location: &Path, error: StorageError) -> StorageError {
        self.check(location).err().unwrap_or(error)
    }

    /// Notes the failure of a write. That the store is closed is none.
    pub(crate) fn note(&self, error: StorageError) -> StorageError {
        if !matches!(error, StorageError::Closed { .. }) {
            self.0
                .get_or_init(|| match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                });
        }
        error
    }
}

/// Calls a backend that may panic where it does not understand its own files.
pub(crate) fn guarded<T>(
    backend: &'static str,
    location: &Path,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(StorageError::Corrupt {
            location: location.display().to_string(),
            what: format!("{backend} panicked: {}", message(&*panic)),
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        let (poison, path) = (Poison::default(), Path::new("data"));
        let closed = || StorageError::Closed {
            location: "data".to_owned(),
        };
        poison.note(closed());
        assert!(poison.check(path).is_ok());
        for kind in [
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::NotFound,
        ] {
            poison.note(StorageError::io("sync", path, kind.into()));
        }
        let error = poison.check(path).unwrap_err().to_string();
        assert!(
            error.contains("could not sync data: no storage space"),
            "{error}"
        );
    }

    #[test]
    fn a_panic_is_damage() {
        for call in [|| panic!("at {}", 7), || panic!("at 7")] {
            let error = guarded::<()>("sled", Path::new("data"), call).unwrap_err();
            assert_eq!(
                error.to_string(),
                "store data is damaged: sled panicked: at 7"
            );
        }
    }
}
