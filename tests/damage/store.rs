//! The files of a store, and ways to damage them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::random::Random;

const PAGE: usize = 4096;

/// A store's files, by their paths in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    directories: Vec<PathBuf>,
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
}

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    Flipped,
    Garbage,
    Zeroed,
    Cut,
    Halved,
    Emptied,
    Deleted,
}

impl Change {
    pub(crate) const KINDS: &[Self] = &[
        Self::Flipped,
        Self::Garbage,
        Self::Zeroed,
        Self::Cut,
        Self::Halved,
        Self::Emptied,
        Self::Deleted,
    ];
}

impl Store {
    pub(crate) fn read(root: &Path) -> Self {
        let mut store = Self::default();
        store.add(root, Path::new(""));
        store
    }

    fn add(&mut self, root: &Path, directory: &Path) {
        self.directories.push(directory.to_owned());
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.add(root, &path);
            } else {
                let bytes = fs::read(entry.path()).unwrap();
                self.files.insert(path, bytes);
            }
        }
    }

    pub(crate) fn write(&self, root: &Path) {
        for directory in &self.directories {
            fs::create_dir(root.join(directory)).unwrap();
        }
        for (path, bytes) in &self.files {
            let file = File::create(root.join(path)).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            // Files that were made larger than what is in them stay small on the disk.
            for (page, bytes) in bytes.chunks(PAGE).enumerate() {
                if bytes != &[0; PAGE][..bytes.len()] {
                    file.write_all_at(bytes, (page * PAGE) as u64).unwrap();
                }
            }
        }
    }

    /// Damages a file where there is something in it, and says how. `None` if there is nothing to damage in this way.
    pub(crate) fn change(
        &mut self,
        path: &Path,
        kind: Change,
        random: &mut Random,
    ) -> Option<String> {
        if kind == Change::Deleted {
            self.files.remove(path)?;
            return Some("deleted".to_owned());
        }
        let bytes = self.files.get_mut(path)?;
        let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        let mut below = |end: usize| random.below(end as u64) as usize;
        // A page with something in it.
        let pages: Vec<_> = bytes[..end]
            .chunks(PAGE)
            .enumerate()
            .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
            .map(|(page, _)| page * PAGE)
            .collect();
        let page = pages[below(pages.len())];
        let in_page = page..end.min(page + PAGE);
        Some(match kind {
            Change::Flipped => {
                let at = page + below(in_page.len());
                let bit = below(8);
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} of {end} flipped")
            }
            Change::Garbage => {
                bytes[in_page.clone()].fill_with(|| below(256) as u8);
                format!("garbage in {in_page:?} of {end}")
            }
            Change::Zeroed => {
                bytes[in_page.clone()].fill(0);
                format!("zeros in {in_page:?} of {end}")
            }
            Change::Cut => {
                let length = end - 1 - below((end - 1).clamp(1, 5_000)).min(end - 1);
                bytes.truncate(length);
                format!("{length} bytes left of {end}")
            }
            Change::Halved => {
                bytes.truncate(end / 2);
                format!("the first half left of {end}")
            }
            Change::Emptied => {
                bytes.clear();
                "emptied".to_owned()
            }
            Change::Deleted => return None,
        })
    }
}
