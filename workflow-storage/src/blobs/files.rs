//! Blobs as files: `ab/cdef…`, named by the address in hexadecimal digits.
//!
//! A file is written under `tmp`, synced, renamed, and its directory is synced: under its own name it is whole from
//! the beginning, and it never changes. What a crash leaves under `tmp` is removed at the next opening.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Verified, mmap};
use crate::directory::{resolve, sync_directory};
use crate::{BlobId, BlobReader, Result, StorageError};

/// Shorter blobs are read: a mapping takes at least a page, and a process may only have so many.
const SHORTEST_MAPPED: u64 = 64 * 1024;

/// How much of a file is read at a time where it is streamed.
const READ_AT_ONCE: usize = 1 << 20;

/// How many addresses are remembered; all are forgotten when there are more.
const KNOWN: usize = 1 << 16;

pub(super) struct Files {
    root: PathBuf,
    next_tmp: AtomicU64,
    memory: Mutex<Memory>,
}

/// What this process has seen for itself.
#[derive(Default)]
struct Memory {
    /// Blobs that are durable, because this process put them. Only a put adds one, and it waits for a sweep of the same blob: so
    /// what is in here is there.
    stored: HashSet<BlobId>,
    /// Blobs that were found to be what their address says, which may be gone since.
    verified: HashSet<BlobId>,
    /// First bytes whose directory is there, durably.
    directories: HashSet<u8>,
}

/// A file that is being written under `tmp`; removed when dropped.
pub(super) struct NewFile {
    file: File,
    path: PathBuf,
}

impl NewFile {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::create_new(&path)?;
        Ok(Self { file, path })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| StorageError::io("write", &self.path, error))
    }

    /// Syncs the file and gives it its name.
    fn keep_as(self, path: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        fs::rename(&self.path, path)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // It has another name by now, if all went well.
        let _ = fs::remove_file(&self.path);
    }
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(root.join("tmp")).map_err(|e| StorageError::io("create", &root, e))?;
        let root = resolve(&root)?;
        let tmp = root.join("tmp");
        for file in read_dir(&tmp)? {
            fs::remove_file(&file).map_err(|e| StorageError::io("remove", &file, e))?;
        }
        sync_directory(&root)?;
        if let Some(parent) = root.parent() {
            sync_directory(parent)?;
        }
        Ok(Self {
            root,
            next_tmp: AtomicU64::new(0),
            memory: Mutex::default(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn put(&self, id: &BlobId, bytes: &[u8]) -> Result<()> {
        if self.memory().stored.contains(id) {
            return Ok(());
        }
        let path = self.path(id);
        let directory = self.directory(id);
        // Another process may have crashed after its rename and before its sync, so the directory is synced also when
        // the file is there; and a damaged file is replaced by a good one.
        if !matches!(self.read(id), Ok(Some(stored)) if stored == bytes) {
            self.make_directory(id.0[0], &directory)?;
            let written = NewFile::create(self.tmp_path()).and_then(|mut new| {
                new.file.write_all(bytes)?;
                new.keep_as(&path)
            });
            written.map_err(|error| StorageError::io("write", path, error))?;
        }
        sync_directory(&directory)?;
        remember(&mut self.memory().stored, id);
        Ok(())
    }

    /// Begins a file whose address is known when it is whole.
    pub(super) fn begin(&self) -> Result<NewFile> {
        let path = self.tmp_path();
        NewFile::create(path.clone()).map_err(|error| StorageError::io("create", path, error))
    }

    /// Gives a file its name, durably. It takes the place of one that is there, which may be damaged.
    pub(super) fn finish(&self, id: &BlobId, new: NewFile) -> Result<()> {
        if self.memory().stored.contains(id) {
            return Ok(());
        }
        let (path, directory) = (self.path(id), self.directory(id));
        self.make_directory(id.0[0], &directory)?;
        let kept = new.keep_as(&path);
        kept.map_err(|error| StorageError::io("write", path, error))?;
        sync_directory(&directory)?;
        remember(&mut self.memory().stored, id);
        Ok(())
    }

    /// The bytes of a file as a stream.
    pub(super) fn reader(this: &Arc<Self>, id: &BlobId) -> Result<BlobReader> {
        let path = this.path(id);
        let opened = File::open(&path).and_then(|file| {
            let len = file.metadata()?.len();
            Ok((file, len))
        });
        let (file, len) = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(super::missing(this.location(), id));
            }
            other => other.map_err(|error| StorageError::io("read", path, error))?,
        };
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(READ_AT_ONCE);
        if this.memory().has_seen(id) {
            return Ok(Box::new(file));
        }
        let (files, id) = (Arc::clone(this), *id);
        let verified = move || remember(&mut files.memory().verified, &id);
        let location = this.location();
        Ok(Box::new(Verified::new(file, id, len, location, verified)))
    }

    pub(super) fn len(&self, id: &BlobId) -> Result<Option<u64>> {
        let path = self.path(id);
        match fs::metadata(&path) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("look for", path, error)),
        }
    }

    pub(super) fn get(&self, id: &BlobId) -> Result<Bytes> {
        let bytes = self.read(id)?;
        let bytes = bytes.ok_or_else(|| super::missing(self.location(), id))?;
        if !self.memory().has_seen(id) {
            if !is_under_its_address(id, &bytes) {
                return Err(super::damaged(self.location(), id));
            }
            remember(&mut self.memory().verified, id);
        }
        Ok(bytes)
    }

    pub(super) fn contains(&self, id: &BlobId) -> Result<bool> {
        if self.memory().stored.contains(id) {
            return Ok(true);
        }
        let path = self.path(id);
        path.try_exists()
            .map_err(|error| StorageError::io("look for", path, error))
    }

    pub(super) fn remove(&self, id: &BlobId) -> Result<u64> {
        self.memory().forget(id);
        let path = self.path(id);
        // Not synced: a removal that a power cut takes back is done again by the next sweep.
        let removed = fs::metadata(&path).and_then(|file| {
            fs::remove_file(&path)?;
            Ok(file.len())
        });
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            other => other.map_err(|error| StorageError::io("remove", path, error)),
        }
    }

    /// Every blob. Files of other names are left alone.
    pub(super) fn list(&self) -> Result<Vec<BlobId>> {
        let mut ids = Vec::new();
        for directory in read_dir(&self.root)? {
            let Some(first) = name(&directory).filter(|name| name.len() == 2) else {
                continue;
            };
            for file in read_dir(&directory)? {
                ids.extend(name(&file).and_then(|rest| parse(&format!("{first}{rest}"))));
            }
        }
        Ok(ids)
    }

    /// The bytes of a file, unchecked; `None` if it is not there.
    fn read(&self, id: &BlobId) -> Result<Option<Bytes>> {
        let path = self.path(id);
        let read = File::open(&path).and_then(|mut file| {
            let len = file.metadata()?.len();
            if len >= SHORTEST_MAPPED {
                return mmap::map(&file);
            }
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
            file.read_to_end(&mut bytes)?;
            Ok(Bytes::from(bytes))
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("read", path, error)),
        }
    }

    fn make_directory(&self, first: u8, path: &Path) -> Result<()> {
        if self.memory().directories.contains(&first) {
            return Ok(());
        }
        fs::create_dir_all(path).map_err(|e| StorageError::io("create", path, e))?;
        sync_directory(&self.root)?;
        self.memory().directories.insert(first);
        Ok(())
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn tmp_path(&self) -> PathBuf {
        let number = self.next_tmp.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        self.root.join("tmp").join(name)
    }

    fn directory(&self, id: &BlobId) -> PathBuf {
        self.root.join(format!("{:02x}", id.0[0]))
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(&name[2..])
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn has_seen(&self, id: &BlobId) -> bool {
        self.stored.contains(id) || self.verified.contains(id)
    }

    fn forget(&mut self, id: &BlobId) {
        self.stored.remove(id);
        self.verified.remove(id);
    }
}

fn remember(ids: &mut HashSet<BlobId>, id: &BlobId) {
    if ids.len() >= KNOWN {
        ids.clear();
    }
    ids.insert(*id);
}

/// What is in a directory; nothing if it is none.
fn read_dir(path: &Path) -> Result<Vec<PathBuf>> {
    let read =
        fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        other => other.map_err(|error| StorageError::io("list", path, error)),
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Whether these are the bytes that the address names.
pub(super) fn is_under_its_address(id: &BlobId, bytes: &[u8]) -> bool {
    blake3::hash(bytes).as_bytes() == &id.0
}

/// The address that a file's name, without the `/`, stands for.
pub(super) fn parse(digits: &str) -> Option<BlobId> {
    let mut id = BlobId([0; 32]);
    // Signs and capitals would do for a number, but no file of ours has them in its name.
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 64 || !digits.bytes().all(is_digit) {
        return None;
    }
    for (i, byte) in id.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bytes: &[u8]) -> BlobId {
        BlobId(*blake3::hash(bytes).as_bytes())
    }

    #[test]
    fn blobs_of_every_size_come_back_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        let sizes = [0_usize, 1, 65_535, 65_536, 1_000_000];
        let files = Files::open(root.clone()).unwrap();
        let blobs: Vec<Vec<u8>> = sizes.map(|size| vec![size.to_le_bytes()[0]; size]).into();
        for blob in &blobs {
            files.put(&id(blob), blob).unwrap();
        }
        let files = Files::open(root).unwrap();
        let mut listed = files.list().unwrap();
        listed.sort_unstable();
        let mut ids: Vec<BlobId> = blobs.iter().map(|blob| id(blob)).collect();
        ids.sort_unstable();
        assert_eq!(listed, ids);
        for blob in &blobs {
            assert_eq!(files.get(&id(blob)).unwrap(), blob);
        }
    }

    #[test]
    fn a_damaged_blob_is_an_error_and_putting_it_again_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().to_owned()).unwrap();
        let blob = vec![5; 100_000];
        files.put(&id(&blob), &blob).unwrap();

        let files = Files::open(dir.path().to_owned()).unwrap();
        let path = files.path(&id(&blob));
        fs::write(&path, &blob[..99_999]).unwrap();
        let error = files.get(&id(&blob)).unwrap_err().to_string();
        assert!(error.contains("is not what its address says"), "{error}");
        files.put(&id(&blob), &blob).unwrap();
        assert_eq!(files.get(&id(&blob)).unwrap(), blob);
    }

    #[test]
    fn what_a_crash_left_behind_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        Files::open(dir.path().to_owned()).unwrap();
        fs::write(dir.path().join("tmp/1-0"), "half").unwrap();
        let files = Files::open(dir.path().to_owned()).unwrap();
        assert!(!dir.path().join("tmp/1-0").exists());
        assert_eq!(files.list().unwrap(), []);
    }
}
