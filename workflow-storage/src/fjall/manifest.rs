//! Checks the lengths and counts that fjall believes, before it reads them.
//!
//! fjall does not verify the manifest of a tree when it opens one, and asks for as much memory as a table of contents says
//! it has entries. Either, damaged, ends the process: out of memory, or in a panic of a thread while another one unwinds.
//!
//! A tree's folder has `current`, which says which manifest holds: its number (8 bytes), the XXH3-128 of all of its file `vN`
//! (16) and the kind of checksum (1, always 0). A table, like a manifest, ends in a table of contents (`TOC!`, the count of
//! entries, the entries) and a trailer of 38 bytes (`SFA!`, version, kind of checksum, checksum, place and length of the
//! contents). All numbers are little-endian.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::{Result, StorageError};

const TREES: &str = "keyspaces";
const TABLES: &str = "tables";
const CURRENT: &str = "current";
const TRAILER_BYTES: u64 = 38;
const TRAILER_MAGIC: &[u8] = b"SFA!";
/// Of the place of the contents in the trailer.
const PLACE: usize = 22;
const CONTENTS_MAGIC: &[u8] = b"TOC!";
/// An entry with a name of no bytes.
const MIN_ENTRY_BYTES: u64 = 18;

/// An error if a tree has a manifest or a table that fjall must not read.
pub(super) fn check(dir: &Path) -> Result<()> {
    for tree in entries(&dir.join(TREES))? {
        check_manifest(&tree)?;
        for table in entries(&tree.join(TABLES))? {
            check_contents(&table)?;
        }
    }
    Ok(())
}

/// Whatever is not there, fjall misses itself.
fn or_none<T>(found: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io("check", path, error)),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let Some(found) = or_none(fs::read_dir(dir), dir)? else {
        return Ok(Vec::new());
    };
    found
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()
        .map_err(|error| StorageError::io("check", dir, error))
}

fn check_manifest(tree: &Path) -> Result<()> {
    let path = tree.join(CURRENT);
    let Some(current) = or_none(fs::read(&path), &path)? else {
        return Ok(());
    };
    let Some((number, checksum)) = parse_current(&current) else {
        return Err(damaged(&path, "it does not name a manifest"));
    };
    let path = tree.join(format!("v{number}"));
    match or_none(fs::read(&path), &path)? {
        Some(manifest) if xxh3_128(&manifest) == checksum => Ok(()),
        Some(_) => Err(damaged(&path, "the manifest does not match its checksum")),
        None => Err(damaged(&path, "the manifest is missing")),
    }
}

/// The number and the checksum of the manifest that holds.
fn parse_current(current: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = current.split_first_chunk()?;
    let (checksum, kind) = rest.split_first_chunk()?;
    (kind == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*checksum)))
}

fn check_contents(table: &Path) -> Result<()> {
    let has_room = File::open(table).and_then(|mut file| has_room_for_contents(&mut file));
    match or_none(has_room, table)? {
        Some(false) => Err(damaged(table, "it has no room for its table of contents")),
        _ => Ok(()),
    }
}

/// Whether a file is as long as its contents say. A file that says nothing of them passes: a crash leaves unfinished tables,
/// which fjall removes, and what else is wrong it says.
fn has_room_for_contents(file: &mut File) -> io::Result<bool> {
    let Some(trailer_at) = file.metadata()?.len().checked_sub(TRAILER_BYTES) else {
        return Ok(true);
    };
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.seek(SeekFrom::Start(trailer_at))?;
    file.read_exact(&mut trailer)?;
    let Some(place) = trailer[PLACE..].first_chunk() else {
        return Ok(true);
    };
    let place = u64::from_le_bytes(*place);
    let mut head = [0; CONTENTS_MAGIC.len() + 4];
    if !trailer.starts_with(TRAILER_MAGIC) || place > trailer_at {
        return Ok(true);
    }
    file.seek(SeekFrom::Start(place))?;
    // Into the trailer at most.
    file.read_exact(&mut head)?;
    let (magic, count) = head.split_at(CONTENTS_MAGIC.len());
    let count = count
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte));
    Ok(magic != CONTENTS_MAGIC || count * MIN_ENTRY_BYTES <= trailer_at - place)
}

fn damaged(path: &Path, what: &str) -> StorageError {
    StorageError::Corrupt {
        location: path.display().to_string(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;
    use crate::{Op, OrderedMap};

    /// A store with tables, closed.
    fn store() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let map = open(dir.path()).unwrap();
        let value = || vec![1; 10_000].into();
        let ops = (0..100_u8).map(|n| Op::Put(vec![n], value()));
        map.apply(ops.collect()).unwrap();
        map.compact().unwrap();
        map.close().unwrap();
        dir
    }

    /// The manifests that hold, and the tables.
    fn checked(dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let trees = entries(&dir.join(TREES)).unwrap();
        let manifest = |tree: &PathBuf| {
            let (number, _) = parse_current(&fs::read(tree.join(CURRENT)).unwrap()).unwrap();
            tree.join(format!("v{number}"))
        };
        let tables = trees.iter().flat_map(|t| entries(&t.join(TABLES)).unwrap());
        (trees.iter().map(manifest).collect(), tables.collect())
    }

    fn assert_damaged(dir: &Path, what: &str) {
        let error = open(dir).unwrap_err();
        assert!(
            matches!(error, StorageError::Corrupt { .. }),
            "{what}: {error:?}"
        );
    }

    #[test]
    fn what_fjall_wrote_passes() {
        let dir = store();
        let (manifests, tables) = checked(dir.path());
        assert!(!manifests.is_empty() && !tables.is_empty());
        check(dir.path()).unwrap();
        open(dir.path()).unwrap().close().unwrap();
        check(dir.path()).unwrap();
    }

    #[test]
    fn no_changed_byte_of_a_manifest_reaches_fjall() {
        let dir = store();
        for path in checked(dir.path()).0 {
            let whole = fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 0x80;
                fs::write(&path, &changed).unwrap();
                assert_damaged(dir.path(), &format!("byte {at} of {}", path.display()));
            }
            fs::write(&path, &whole).unwrap();
        }
        open(dir.path()).unwrap();
    }

    #[test]
    fn a_missing_or_unnamed_manifest_is_damage() {
        let dir = store();
        let path = checked(dir.path()).0.remove(0);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_damaged(dir.path(), "no manifest");
        fs::write(&path, whole).unwrap();
        let current = path.with_file_name(CURRENT);
        let whole = fs::read(&current).unwrap();
        fs::write(&current, &whole[..10]).unwrap();
        assert_damaged(dir.path(), "half a name");
    }

    #[test]
    fn contents_that_a_table_has_no_room_for_are_damage() {
        let dir = store();
        let path = checked(dir.path()).1.remove(0);
        let whole = fs::read(&path).unwrap();
        let trailer_at = whole.len() - TRAILER_BYTES as usize;
        let place = whole[trailer_at + PLACE..].first_chunk().unwrap();
        let place = u64::from_le_bytes(*place) as usize;
        assert_eq!(&whole[place..][..4], CONTENTS_MAGIC);

        let mut many = whole.clone();
        many[place + 4..place + 8].fill(0xff);
        fs::write(&path, &many).unwrap();
        assert_damaged(dir.path(), "a table");

        // Crashes leave such tables, which no manifest names.
        fs::write(&path, &whole).unwrap();
        for unfinished in [0, 20, trailer_at, whole.len() - 1] {
            fs::write(path.with_file_name("7777"), &whole[..unfinished]).unwrap();
            open(dir.path()).unwrap().close().unwrap();
        }
    }
}
