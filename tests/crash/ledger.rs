//! A file that bodies write to and that outlives their process: one line an execution.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A resource: where bodies say that they were executed.
#[derive(Debug, Clone)]
pub(crate) struct Ledger(Arc<Mutex<Lines>>);

#[derive(Debug)]
enum Lines {
    Memory(Vec<String>),
    File(File),
}

impl Ledger {
    pub(crate) fn in_memory() -> Self {
        Self(Arc::new(Mutex::new(Lines::Memory(Vec::new()))))
    }

    pub(crate) fn append_to(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self(Arc::new(Mutex::new(Lines::File(file.unwrap()))))
    }

    pub(crate) fn write(&self, line: &str) {
        match &mut *self.0.lock().unwrap() {
            Lines::Memory(lines) => lines.push(line.to_owned()),
            // One write, so that a kill leaves whole lines.
            Lines::File(file) => file.write_all(format!("{line}\n").as_bytes()).unwrap(),
        }
    }

    /// What was written since this was last asked; of a ledger in memory only.
    pub(crate) fn take(&self) -> Vec<String> {
        match &mut *self.0.lock().unwrap() {
            Lines::Memory(lines) => std::mem::take(lines),
            Lines::File(_) => Vec::new(),
        }
    }
}

/// The lines of a ledger's file.
pub(crate) fn read(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
