//! The C library that is preloaded into the process whose power is cut, and the log that it writes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::disk::{Disk, Entry, Id, PAGE};
use crate::preload;

/// Compiles the library, once. `None` if there is no compiler, which is said.
pub(crate) fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || preload::compile("tests/power_loss/shim.c");
    LIBRARY.get_or_init(compile).as_deref()
}

/// Does to what was durable at the beginning what the log says was synced since. Says how many syncs there were.
pub(crate) fn replay(log: &[u8], durable: &mut Disk) -> usize {
    let mut log = Reader(log);
    let mut n = 0;
    while let Some(record) = log.number().and_then(|length| log.bytes(length)) {
        apply(Reader(record), durable).expect("a whole record");
        n += 1;
    }
    n
}

fn apply(mut record: Reader<'_>, durable: &mut Disk) -> Option<()> {
    let kind = record.number()?;
    let id = Id(record.number()?, record.number()?);
    if kind == 1 {
        let file = durable.files.entry(id).or_default();
        if record.number()? == 1 {
            file.clear();
        }
        let size = usize::try_from(record.number()?).ok()?;
        file.resize(size, 0);
        for _ in 0..record.number()? {
            let from = usize::try_from(record.number()?).ok()? * PAGE;
            let bytes = record.bytes(PAGE as u64)?;
            let to = size.min(from + PAGE);
            if from < to {
                file[from..to].copy_from_slice(&bytes[..to - from]);
            }
        }
    } else {
        let mut entries = std::collections::BTreeMap::new();
        for _ in 0..record.number()? {
            let id = Id(record.number()?, record.number()?);
            let is_directory = record.number()? == 1;
            let length = record.number()?;
            let name = OsString::from_vec(record.bytes(length)?.to_vec());
            entries.insert(name, Entry { id, is_directory });
        }
        durable.directories.insert(id, entries);
    }
    Some(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let bytes = self.bytes(8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// `None` if there are not so many any more.
    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}
