//! A store's directory: what is in it, who has it, and which map in it counts.
//!
//! ```text
//! LOCK      who has the store open
//! STORE     the marker: format, backend, generation
//! map-7/    the map of generation 7, in the backend's own files
//! blobs/    content-addressed files
//! ```
//!
//! The marker decides. It is written twice at creation: with generation 0 before there is anything else, and with
//! generation 1 when the map is complete. So an unfinished creation is told from a store whose map is gone.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod lock;
mod marker;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::lock::Lock;
use self::marker::Marker;
use crate::{Result, StorageError};

const MAP: &str = "map-";

/// A store's directory, locked.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    backend: String,
    is_new: bool,
    generation: Mutex<u64>,
    lock: Mutex<Option<Lock>>,
}

impl Directory {
    /// Opens or creates a directory. `asked` is the backend that the caller named; a new store is of that or the
    /// `default` one.
    pub(crate) fn open(root: &Path, asked: Option<&str>, default: &str) -> Result<Self> {
        // Before anything is made: a path that is something else stays as it is.
        let is_there = check_path(root)?;
        if !is_there {
            create(root)?;
        }
        let root = &resolve(root)?;
        let lock = Lock::take(root)?;
        check_path(root)?;
        let marker = match Marker::read(root)? {
            Some(marker) => marker,
            None => {
                let marker = Marker {
                    backend: asked.unwrap_or(default).to_owned(),
                    generation: 0,
                };
                marker.write(root)?;
                marker
            }
        };
        if let Some(asked) = asked
            && marker.backend != asked
        {
            return Err(StorageError::OtherBackend {
                path: root.to_owned(),
                found: marker.backend,
                asked: asked.to_owned(),
            });
        }
        let is_new = marker.generation == 0;
        let directory = Self {
            root: root.to_owned(),
            backend: marker.backend,
            is_new,
            generation: Mutex::new(marker.generation.max(1)),
            lock: Mutex::new(Some(lock)),
        };
        directory.remove_leftovers()?;
        if is_new {
            directory.make_map(1)?;
        } else if !directory.map_path().is_dir() {
            return Err(StorageError::Corrupt {
                location: root.display().to_string(),
                what: format!("its map {} is missing", directory.map_path().display()),
            });
        }
        Ok(directory)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn backend(&self) -> &str {
        &self.backend
    }

    /// Whether nothing was ever committed here.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The folder of the map that counts.
    pub(crate) fn map_path(&self) -> PathBuf {
        self.path_of(*self.generation())
    }

    pub(crate) fn blobs_path(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Writes down that the map is complete. From now on a missing one is damage.
    pub(crate) fn finish(&self) -> Result<()> {
        if !self.is_new {
            return Ok(());
        }
        self.write_marker(*self.generation())
    }

    /// Makes the folder of a map that may take the place of the present one.
    #[cfg_attr(
        not(feature = "sled"),
        allow(dead_code, reason = "only sled compacts by copying")
    )]
    pub(crate) fn prepare_next(&self) -> Result<(u64, PathBuf)> {
        let next = *self.generation() + 1;
        let path = self.path_of(next);
        remove_all(&path)?;
        self.make_map(next)?;
        Ok((next, path))
    }

    /// Lets a map, complete and synced, take the place of the present one, which can be removed then.
    #[cfg_attr(
        not(feature = "sled"),
        allow(dead_code, reason = "only sled compacts by copying")
    )]
    pub(crate) fn advance(&self, generation: u64) -> Result<()> {
        let mut current = self.generation();
        self.write_marker(generation)?;
        *current = generation;
        Ok(())
    }

    /// Removes every map but the one that counts: what a crash between two of them left.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        let current = (!self.is_new).then(|| self.map_path());
        for path in list(&self.root)? {
            let is_map = name(&path).starts_with(MAP);
            if is_map && Some(&path) != current.as_ref() {
                remove_all(&path)?;
            }
        }
        Ok(())
    }

    /// Lets another opening have the directory.
    pub(crate) fn unlock(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn write_marker(&self, generation: u64) -> Result<()> {
        let backend = self.backend.clone();
        Marker {
            backend,
            generation,
        }
        .write(&self.root)
    }

    fn make_map(&self, generation: u64) -> Result<()> {
        let path = self.path_of(generation);
        fs::create_dir_all(&path).map_err(|error| StorageError::io("create", &path, error))?;
        sync_directory(&self.root)
    }

    fn path_of(&self, generation: u64) -> PathBuf {
        self.root.join(format!("{MAP}{generation}"))
    }

    fn generation(&self) -> MutexGuard<'_, u64> {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of a directory that exists, resolved once and for all: it names the same directory later, whatever the working
/// directory of the process is then, and whatever the links on the way point to.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let resolved = match cfg!(windows) {
        // Links are resolved to paths there that not every program understands.
        true => std::path::absolute(path),
        false => fs::canonicalize(path),
    };
    resolved.map_err(|error| StorageError::io("resolve", path, error))
}

/// Makes entries of a directory durable: created, renamed and removed files.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    if !cfg!(unix) {
        // Directories cannot be opened as files there, and need no sync.
        return Ok(());
    }
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StorageError::io("sync", path, error))
}

/// Makes everything in a directory durable: for what a backend creates and does not sync itself.
#[cfg_attr(
    not(any(feature = "sled", feature = "fjall")),
    allow(dead_code, reason = "redb syncs its file")
)]
pub(crate) fn sync_all(path: &Path) -> Result<()> {
    for path in list(path)? {
        if path.is_dir() {
            sync_all(&path)?;
            continue;
        }
        let synced = File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.sync_all());
        synced.map_err(|error| StorageError::io("sync", path, error))?;
    }
    sync_directory(path)
}

/// Whether the path exists; an error if it is neither a store nor can become one.
fn check_path(root: &Path) -> Result<bool> {
    let not_a_store = |found: &str| {
        Err(StorageError::NotAStore {
            path: root.to_owned(),
            found: found.to_owned(),
        })
    };
    match fs::metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StorageError::io("look at", root, error)),
        Ok(found) if !found.is_dir() => return not_a_store("it is a file"),
        Ok(_) => {}
    }
    let mut stranger = None;
    for path in list(root)? {
        match name(&path).as_ref() {
            marker::FILE => return Ok(true),
            lock::FILE | marker::TMP | "lost+found" => {}
            other => stranger = Some(other.to_owned()),
        }
    }
    match stranger {
        Some(name) => not_a_store(&format!("it has no STORE file, but {name:?}")),
        None => Ok(true),
    }
}

/// Creates a directory and those above it, durably.
fn create(root: &Path) -> Result<()> {
    let missing: Vec<&Path> = root
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    fs::create_dir_all(root).map_err(|error| StorageError::io("create", root, error))?;
    for path in missing {
        match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new("."))?,
            Some(parent) => sync_directory(parent)?,
            None => {}
        }
    }
    Ok(())
}

fn list(path: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|error| StorageError::io("list", path, error))
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(root: &Path) -> Result<Directory> {
        Directory::open(root, Some("sled"), "sled")
    }

    #[test]
    fn a_missing_and_an_empty_directory_become_stores() {
        let dir = tempfile::tempdir().unwrap();
        for root in [dir.path().to_owned(), dir.path().join("map-x/b/c")] {
            let new = open(&root).unwrap();
            assert!(new.is_new() && new.map_path().is_dir());
            new.finish().unwrap();
            drop(new);
            assert!(!open(&root).unwrap().is_new());
            // What is inside of a store is not a store.
            fs::remove_dir_all(root.join("map-1")).unwrap();
            assert!(matches!(open(&root), Err(StorageError::Corrupt { .. })));
            fs::create_dir(root.join("map-1")).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_stays_the_same_when_the_link_to_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = resolve(dir.path()).unwrap();
        let link = dir.join("current");
        std::os::unix::fs::symlink("1", &link).unwrap();
        for release in ["1", "2"] {
            fs::create_dir(dir.join(release)).unwrap();
        }
        let store = open(&link.join("data")).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("2", &link).unwrap();
        store.finish().unwrap();
        assert_eq!(store.root(), dir.join("1/data"));
        assert!(list(&dir.join("2")).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_store_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for root in [&file, dir.path()] {
            assert!(matches!(open(root), Err(StorageError::NotAStore { .. })));
        }
        assert_eq!(list(dir.path()).unwrap(), [file]);
    }

    #[test]
    fn another_backend_is_named() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        let error = Directory::open(dir.path(), Some("redb"), "redb").unwrap_err();
        assert!(matches!(error, StorageError::OtherBackend { .. }));
        let any = Directory::open(dir.path(), None, "redb").unwrap();
        assert_eq!(any.backend(), "sled");
    }

    #[test]
    fn a_creation_that_crashed_starts_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        fs::write(first.map_path().join("half"), "").unwrap();
        drop(first);
        let second = open(dir.path()).unwrap();
        assert!(second.is_new());
        assert!(!second.map_path().join("half").exists());
    }

    #[test]
    fn only_the_map_of_the_marker_survives_an_opening() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        first.finish().unwrap();
        let (next, path) = first.prepare_next().unwrap();
        assert_eq!((next, path.is_dir()), (2, true));
        drop(first);

        let second = open(dir.path()).unwrap();
        assert!(second.map_path().ends_with("map-1") && !path.exists());
        let (next, path) = second.prepare_next().unwrap();
        second.advance(next).unwrap();
        drop(second);

        let third = open(dir.path()).unwrap();
        assert_eq!(third.map_path(), path);
        assert!(!dir.path().join("map-1").exists());
    }
}
