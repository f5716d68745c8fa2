//! Keeping the program with the runs that it started, and writing it out again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keepstep_storage::{BlobId, RunId, RunKind, Storage, WriteOutcome};

use super::{BuildInfo, Engine};
use crate::actor::creation;
use crate::error::{Error, Result};

/// The first part of the ids of the records that refer to executables of running engines.
const NAMESPACE: &str = "executable";

/// Puts the executable that is running into the store. It is the one place that does.
pub(super) async fn keep(storage: &dyn Storage) -> Result<BlobId> {
    let bytes = blocking(read_own).await?;
    Ok(storage.put_blob(bytes).await?)
}

fn read_own() -> Result<Bytes> {
    // On Linux the file that was started, also when another one has taken its name since.
    let link = Path::new("/proc/self/exe");
    let path = match link.exists() {
        true => link.to_owned(),
        false => std::env::current_exe().map_err(|error| failed(Path::new(""), "found", error))?,
    };
    let bytes = fs::read(&path).map_err(|error| failed(&path, "read", error))?;
    Ok(bytes.into())
}

fn failed(path: &Path, operation: &'static str, error: io::Error) -> Error {
    Error::Executable {
        path: path.to_owned(),
        operation,
        source: Arc::new(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::ShutDown),
    }
}

impl Engine {
    /// Makes a record of the store refer to the executable, so that it stays while this engine may start runs, also when all of
    /// those that it started are deleted.
    pub(super) async fn pin_executable(&self) -> Result<()> {
        let shared = &self.shared;
        let Some(executable) = shared.build.executable else {
            return Ok(());
        };
        let id = RunId::of_parts(&[NAMESPACE, &executable.to_string()])?;
        let storage = &shared.storage;
        let prefix = RunId::prefix_of_parts(&[NAMESPACE]);
        let mut is_there = false;
        // Those of earlier engines, whose runs refer to their executables themselves.
        for listed in storage
            .list_by_id(RunKind::Schedule, &prefix, None, 256)
            .await?
        {
            match listed.run == id {
                true => is_there = true,
                false => drop(shared.delete(&listed.run, &listed.record).await?),
            }
        }
        if is_there {
            return Ok(());
        }
        let write = creation(shared, &id, RunKind::Schedule, NAMESPACE, Vec::new());
        match self.write(write, Vec::new()).await? {
            WriteOutcome::Written | WriteOutcome::Exists => Ok(()),
            _ => Err(Error::Fenced { run: id }),
        }
    }

    /// Writes out the executable that started a run, ready to be run: to go on with the run as it was begun, or to find out what
    /// has changed since. A file that is there is replaced.
    ///
    /// The store has it if the engine that started the run was opened with
    /// [`keep_executable`](crate::EngineBuilder::keep_executable).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoExecutable`] if none was kept, [`Error::Executable`] if the file cannot be written,
    /// [`Error::Storage`].
    pub async fn executable_of(&self, id: impl AsRef<str>, path: impl AsRef<Path>) -> Result<()> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        // Before anything is awaited: the working directory may be another one afterwards.
        let path = path.as_ref();
        let path = std::path::absolute(path).map_err(|error| failed(path, "written", error))?;
        let record = self.record(&id).await?;
        let Some(executable) = record.build.executable else {
            let build = BuildInfo::of(&record.build);
            return Err(Error::NoExecutable { run: id, build });
        };
        let bytes = self.shared.storage.blob(&executable).await?;
        blocking(move || write_out(&path, &bytes).map_err(|error| failed(&path, "written", error)))
            .await
    }
}

/// Writes a file beside its place first, so that nobody runs half of it.
fn write_out(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidFilename)?
        .to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary: PathBuf = path.with_file_name(name);
    let written = write_whole(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is left of it may not be there at all.
        drop(fs::remove_file(&temporary));
    }
    written
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o755);
    }
    let mut file: File = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
