//! The lock of a store directory: one opening at a time, whatever the backend thinks of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::{Result, StorageError};

pub(super) const FILE: &str = "LOCK";
/// What is longer is not a process and its host.
const LONGEST_HOLDER: u64 = 512;

/// Held while the store is open. The operating system lets go of it when the process ends, however it ends. The file
/// itself stays: removing it could let two processes lock two files of one name.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StorageError::io("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StorageError::InUse {
                    path: root.to_owned(),
                    holder: read_holder(file),
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(StorageError::io("lock", &path, error));
            }
        }
        write_holder(&mut file).map_err(|error| StorageError::io("write", &path, error))?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only for whoever looks into the file.
        let _ = self.0.set_len(0);
        // Closing the file would let go of it, too, but later if another thread is starting a process: until that one has
        // become another program, it has the file as well.
        let _ = self.0.unlock();
    }
}

/// Who has the lock, as far as the file says so in one line that can be shown.
pub(super) fn read_holder(file: impl Read) -> String {
    let mut bytes = Vec::new();
    // Where locks keep even readers out, the holder stays unnamed.
    let _ = file.take(LONGEST_HOLDER).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    match text.lines().next().map(str::trim) {
        Some(holder) if !holder.is_empty() && !holder.contains(char::is_control) => {
            holder.to_owned()
        }
        _ => "another process".to_owned(),
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "process {} on {}", std::process::id(), host())
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "an unnamed host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opening_is_told_who_has_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        match Lock::take(dir.path()) {
            Err(StorageError::InUse { holder, .. }) => {
                let us = format!("process {} on ", std::process::id());
                assert!(
                    holder.starts_with(&us) && holder.len() > us.len(),
                    "{holder}"
                );
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        Lock::take(dir.path()).unwrap();
    }
}
