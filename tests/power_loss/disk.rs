//! What is on a disk: files and directories by their inodes, as programs see them or as a power cut would leave them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::random::Random;

/// What disks, and the page cache, write as one.
pub(crate) const PAGE: usize = 4096;

/// A file or directory: its inode and its birth, because numbers of inodes are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(crate) u64, pub(crate) u64);

impl Id {
    fn of(found: &Metadata) -> Self {
        let birth = found.created().ok();
        let birth = birth.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let nanos = birth.map_or(0, |birth| {
            birth.as_secs() * 1_000_000_000 + u64::from(birth.subsec_nanos())
        });
        Self(found.ino(), nanos)
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: Id,
    pub(crate) is_directory: bool,
}

type Listing = BTreeMap<OsString, Entry>;

/// The files and directories below a root.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: HashMap<Id, Vec<u8>>,
    pub(crate) directories: HashMap<Id, Listing>,
}

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// It is gone.
    Lost,
    /// Every page, size and name is there or not, whatever became of the others.
    Mixed,
}

impl Disk {
    /// What programs see.
    pub(crate) fn read(root: &Path) -> Self {
        let mut disk = Self::default();
        disk.add(root);
        disk
    }

    fn add(&mut self, directory: &Path) {
        let mut listing = Listing::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let id = Id::of(&found);
            let is_directory = found.is_dir();
            if is_directory {
                self.add(&path);
            } else {
                let mut bytes = Vec::new();
                File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                self.files.insert(id, bytes);
            }
            let name = path.file_name().unwrap().to_owned();
            listing.insert(name, Entry { id, is_directory });
        }
        let id = Id::of(&fs::metadata(directory).unwrap());
        self.directories.insert(id, listing);
    }
}

/// A directory after a power cut, which has not happened yet: this is what to write.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<OsString, Vec<u8>>,
    directories: BTreeMap<OsString, Tree>,
}

impl Tree {
    /// What a power cut leaves of what programs saw in a directory.
    pub(crate) fn after_cut(
        root: &Path,
        durable: &Disk,
        seen: &Disk,
        unsynced: Unsynced,
        random: &mut Random,
    ) -> Self {
        let id = Id::of(&fs::metadata(root).unwrap());
        Cut {
            durable,
            seen,
            unsynced,
            random,
        }
        .directory(id)
    }

    /// Makes a directory of it, in the place of what may be there.
    pub(crate) fn write(&self, path: &Path) {
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
        }
        fs::create_dir(path).unwrap();
        for (name, bytes) in &self.files {
            let file = File::create(path.join(name)).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            // Files that were made larger than what is in them stay small on the disk.
            for (page, bytes) in bytes.chunks(PAGE).enumerate() {
                if bytes != &[0; PAGE][..bytes.len()] {
                    file.write_all_at(bytes, (page * PAGE) as u64).unwrap();
                }
            }
        }
        for (name, tree) in &self.directories {
            tree.write(&path.join(name));
        }
    }
}

struct Cut<'a> {
    durable: &'a Disk,
    seen: &'a Disk,
    unsynced: Unsynced,
    random: &'a mut Random,
}

impl Cut<'_> {
    fn directory(&mut self, id: Id) -> Tree {
        let (durable, seen) = (self.durable, self.seen);
        let none = Listing::new();
        let durable = durable.directories.get(&id).unwrap_or(&none);
        let seen = match self.unsynced {
            Unsynced::Lost => durable,
            Unsynced::Mixed => seen.directories.get(&id).unwrap_or(durable),
        };
        let names: BTreeSet<_> = durable.keys().chain(seen.keys()).collect();
        let mut tree = Tree::default();
        for name in names {
            let (old, new) = (durable.get(name), seen.get(name));
            let entry = if old == new || self.random.is_heads() {
                old
            } else {
                new
            };
            match entry {
                None => {}
                Some(entry) if entry.is_directory => {
                    let below = self.directory(entry.id);
                    tree.directories.insert(name.clone(), below);
                }
                Some(entry) => {
                    if let Some(bytes) = self.file(entry.id) {
                        tree.files.insert(name.clone(), bytes);
                    }
                }
            }
        }
        tree
    }

    fn file(&mut self, id: Id) -> Option<Vec<u8>> {
        let durable = self.durable.files.get(&id);
        let seen = match self.unsynced {
            Unsynced::Lost => None,
            Unsynced::Mixed => self.seen.files.get(&id),
        };
        match (durable, seen) {
            // It has a name, and that is all that ever was synced of it.
            (None, None) => self.random.is_heads().then(Vec::new),
            (Some(durable), None) => Some(durable.clone()),
            (durable, Some(seen)) => {
                Some(self.mixed(durable.map_or(&[], |bytes| bytes.as_slice()), seen))
            }
        }
    }

    fn mixed(&mut self, durable: &[u8], seen: &[u8]) -> Vec<u8> {
        let size = if self.random.is_heads() {
            durable.len()
        } else {
            seen.len()
        };
        let mut bytes = durable.to_vec();
        bytes.resize(size, 0);
        for (page, new) in seen.chunks(PAGE).enumerate() {
            let from = page * PAGE;
            let to = size.min(from + new.len());
            let is_new = |bytes: &[u8]| bytes[from..to] != new[..to - from];
            if from < to && is_new(&bytes) && self.random.is_heads() {
                bytes[from..to].copy_from_slice(&new[..to - from]);
            }
        }
        bytes
    }
}
