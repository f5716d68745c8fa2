//! Mends a journal whose last batch a power cut tore.
//!
//! fjall cuts off a last batch that ends too early, but refuses to open a journal in whose last batch a page in the
//! middle did not reach the disk. Such a page still holds the zeros that the file was made with. The batch was never
//! acknowledged, so it may go. Whatever else is wrong with a journal is damage, and stays as it is.
//!
//! A journal is a row of batches: a start (tag 1, count of items, number), the items (tag 2, lengths, key, value) and
//! an end (tag 3, checksum, magic bytes).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"FJL\x03";
const END_BYTES: usize = 1 + 8 + MAGIC.len();

/// What disks write as one.
const SECTOR: usize = 512;

/// Cuts the torn batch off the newest journal. `false` if there is none, and then nothing was changed.
pub(super) fn cut_torn_batch(dir: &Path) -> io::Result<bool> {
    let Some(path) = newest_journal(dir)? else {
        return Ok(false);
    };
    let mut journal = Vec::new();
    File::open(&path)?.read_to_end(&mut journal)?;
    let Some(start) = torn_batch(&journal) else {
        return Ok(false);
    };
    let file = File::options().write(true).open(&path)?;
    file.set_len(start as u64)?;
    file.sync_all()?;
    Ok(true)
}

fn newest_journal(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .extension()
            .filter(|extension| *extension == "jnl")
            .and_then(|_| path.file_stem()?.to_str()?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last batch begins, if it may have been torn: it is the last, and some of it is zeros.
pub(super) fn torn_batch(journal: &[u8]) -> Option<usize> {
    let (mut start, mut end) = (0, 0);
    while let Some(length) = batch_end(&journal[end..]) {
        start = end;
        end += length;
    }
    // Behind the last whole batch are only the zeros the file was made with, or a batch whose lengths were torn too.
    if let Some(last) = journal[end..].iter().rposition(|byte| *byte != 0) {
        start = end;
        end += last + 1;
    }
    let batch = &journal[start..];
    // A batch is written when the one before it was synced: with bytes behind its end it was not the last.
    let first_end = batch
        .windows(MAGIC.len())
        .position(|bytes| bytes == MAGIC)
        .map(|at| at + MAGIC.len());
    let is_last = first_end.is_none_or(|end| end == batch.len());
    (is_last && has_missing_sector(journal, start, end)).then_some(start)
}

/// The length of the batch that begins here, if the lengths in it lead to an end.
pub(super) fn batch_end(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(taken)
    };
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter().rev();
        bytes.fold(0, |number, byte| (number << 8) | usize::from(*byte))
    };
    if take(1)? != [1] {
        return None;
    }
    let items = number(take(4)?);
    take(8)?;
    for _ in 0..items {
        match take(1)? {
            [2] => {
                take(2 + 8)?;
                let key = number(take(2)?);
                take(4)?;
                let value = number(take(4)?);
                take(key)?;
                take(value)?;
            }
            [4] => drop(take(8)?),
            _ => return None,
        }
    }
    let end = take(END_BYTES)?;
    let is_end = end[0] == 3 && end.ends_with(MAGIC);
    let left = rest.len();
    is_end.then_some(bytes.len() - left)
}

/// Whether all that a batch has in one of the sectors it lies in is zeros.
fn has_missing_sector(journal: &[u8], start: usize, end: usize) -> bool {
    let mut from = start;
    while from < end {
        let to = (from / SECTOR * SECTOR + SECTOR).min(end);
        if journal[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fjall::{Fjall, open};
    use crate::{Op, OrderedMap, Result, StorageError};

    const PAGE: usize = 4096;

    fn batch(batch: u8, items: u8) -> Vec<Op> {
        let mut seed = fastrand(u64::from(batch));
        let items = (0..items).map(|n| {
            let value: Vec<u8> = std::iter::repeat_with(&mut seed).take(3_000).collect();
            Op::Put(vec![batch, n], value.into())
        });
        items.collect()
    }

    /// Bytes that do not compress.
    fn fastrand(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed + 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 8) as u8
        }
    }

    /// How many items of each batch there are.
    fn items(map: &Fjall) -> [usize; 3] {
        [1, 2, 3].map(|batch| {
            let there = (0..20).filter(|n| map.get(&[batch, *n]).unwrap().is_some());
            there.count()
        })
    }

    /// The journal of a store in which batch 3 was not synced, where it begins and where it ends.
    fn crashed(dir: &Path) -> (PathBuf, Vec<u8>, usize, usize) {
        let map = open(dir).unwrap();
        map.apply(batch(1, 10)).unwrap();
        map.apply(batch(2, 1)).unwrap();
        let path = newest_journal(dir).unwrap().unwrap();
        let length = || {
            let journal = fs::read(&path).unwrap();
            journal.iter().rposition(|byte| *byte != 0).unwrap() + 1
        };
        let start = length();
        map.apply(batch(3, 10)).unwrap();
        let end = length();
        let mut journal = fs::read(&path).unwrap();
        // Not all of the zeros that the file was made with.
        journal.truncate(end + 3 * PAGE);
        map.close().unwrap();
        (path, journal, start, end)
    }

    fn opened_with(dir: &Path, journal: &[u8]) -> Result<[usize; 3]> {
        let path = newest_journal(dir).unwrap().unwrap();
        fs::write(&path, journal).unwrap();
        let map = open(dir)?;
        let items = items(&map);
        // It goes on.
        map.apply(vec![Op::Put(b"on".to_vec(), "1".into())])?;
        map.close()?;
        let map = open(dir)?;
        assert!(map.get(b"on")?.is_some());
        assert_eq!(items, self::items(&map));
        map.close()?;
        Ok(items)
    }

    #[test]
    fn a_last_batch_that_lacks_pages_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (_, whole, start, end) = crashed(dir.path());
        assert_eq!(opened_with(dir.path(), &whole).unwrap(), [10, 1, 10]);
        let pages = start / PAGE..=(end - 1) / PAGE;
        assert!(pages.clone().count() > 5);
        for page in pages.clone().step_by(2) {
            let mut torn = whole.clone();
            let to = ((page + 1) * PAGE).min(end);
            torn[(page * PAGE).max(start)..to].fill(0);
            let items = opened_with(dir.path(), &torn).unwrap();
            assert_eq!(items, [10, 1, 0], "page {page} of {pages:?}");
        }
    }

    #[test]
    fn a_last_batch_that_ends_early_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (_, whole, start, end) = crashed(dir.path());
        for to in [start, start + 1, start + 20, (start + end) / 2, end - 1] {
            let items = opened_with(dir.path(), &whole[..to]).unwrap();
            assert_eq!(items, [10, 1, 0], "{to} of {start}..{end}");
        }
    }

    #[test]
    fn other_damage_is_not_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (path, whole, start, _) = crashed(dir.path());
        let mut flipped = whole.clone();
        // In the first value.
        flipped[start + 1_000] ^= 1;
        let error = opened_with(dir.path(), &flipped).unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), flipped);

        // A batch that others follow was synced before them.
        for page in 1..start / PAGE {
            let mut missing = whole.clone();
            missing[page * PAGE..(page + 1) * PAGE].fill(0);
            assert_eq!(torn_batch(&missing), None);
        }
        assert_eq!(torn_batch(&whole), None);
        assert_eq!(torn_batch(&[0; PAGE]), None);
        assert_eq!(torn_batch(b""), None);
    }
}
