//! For the tests of programs that use keepstep.

use std::io;
use std::path::Path;
use std::sync::Arc;

use keepstep_storage::StorageError;

use crate::check::{self, Report};
use crate::engine::Engine;
use crate::error::Result;

/// Checks whether this program can go on with what a store holds, such as a copy of the one in production: see
/// [`Engine::check`]. Resources are left out, since the test has none.
///
/// The store must not be open elsewhere, and opening one may write to its files, so give it a copy.
///
/// ```
/// # mod keepstep { pub use keepstep_core::*; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep::Result<()> {
/// # let path = std::env::temp_dir().join(format!("keepstep-check-store-{}", std::process::id()));
/// # let copy_of_production = path.to_str().unwrap();
/// # keepstep::Engine::open(copy_of_production).await?.shutdown().await?;
/// keepstep::testing::check_store(copy_of_production).await?.assert_ok();
/// # std::fs::remove_dir_all(path).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Storage`](crate::Error::Storage) if there is no store, or it cannot be read; what [`Engine::open`] returns.
pub async fn check_store(path_or_url: impl AsRef<str>) -> Result<Report> {
    let url = path_or_url.as_ref();
    let path = match url.split_once(':') {
        Some(("sled" | "redb" | "fjall", path)) => Path::new(path),
        _ => Path::new(url),
    };
    // A misspelled path must not pass as a new store, in which everything is well.
    let is_directory = !url.contains("://") && !url.starts_with("memory:");
    if is_directory && !path.join("STORE").exists() {
        return Err(StorageError::Io {
            operation: "find a store in",
            path: path.to_owned(),
            source: Arc::new(io::ErrorKind::NotFound.into()),
        }
        .into());
    }
    let engine = Engine::open(url).await?;
    let report = check::check_store(&engine, false).await;
    engine.shutdown().await?;
    report
}
