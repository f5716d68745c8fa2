//! The marker of a store directory: a small text file that says what the directory is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::sync_directory;
use crate::{Result, StorageError};

pub(super) const FILE: &str = "STORE";
pub(super) const TMP: &str = "STORE.tmp";

const TITLE: &str = "keepstep store";
const FORMAT: &str = "1";

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) backend: String,
    /// The folder of the map that counts; 0 until the first one is complete.
    pub(super) generation: u64,
}

impl Marker {
    /// Reads the marker; `None` if there is none.
    pub(super) fn read(root: &Path) -> Result<Option<Self>> {
        let path = root.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| StorageError::io("read", &path, error))?,
        };
        Self::from_bytes(root, &bytes).map(Some)
    }

    /// What the bytes of a marker say. `root` names the store in errors.
    pub(super) fn from_bytes(root: &Path, bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(StorageError::NotAStore {
                path: root.to_owned(),
                found: "its STORE file is not keepstep's, or is damaged".to_owned(),
            });
        }
        // Before the checksum: a later format may have another.
        match lines.next().and_then(|line| line.strip_prefix("format ")) {
            Some(FORMAT) => {}
            Some(found) => {
                return Err(StorageError::UnknownFormat {
                    location: root.display().to_string(),
                    found: found.to_owned(),
                    supported: FORMAT.to_owned(),
                });
            }
            None => return Err(damaged(root)),
        }
        // Capitals and zeros that make no difference to a number are damage, too.
        Self::parse(&text)
            .filter(|marker| marker.text().as_bytes() == bytes)
            .ok_or_else(|| damaged(root))
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let sum = u32::from_str_radix(sum.strip_prefix("crc32 ")?, 16).ok()?;
        if crc32fast::hash(format!("{body}\n").as_bytes()) != sum {
            return None;
        }
        let mut lines = body.lines().skip(2);
        let backend = lines.next()?.strip_prefix("backend ")?.to_owned();
        let generation = lines.next()?.strip_prefix("generation ")?.parse().ok()?;
        Some(Self {
            backend,
            generation,
        })
    }

    pub(super) fn text(&self) -> String {
        let body = format!(
            "{TITLE}\nformat {FORMAT}\nbackend {}\ngeneration {}\n",
            self.backend, self.generation
        );
        let sum = crc32fast::hash(body.as_bytes());
        format!("{body}crc32 {sum:08x}\n")
    }

    /// Puts the marker in the place of an earlier one: a crash leaves one of the two, whole.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let (tmp, path) = (root.join(TMP), root.join(FILE));
        let write = || {
            let mut file = File::create(&tmp)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&tmp, &path)
        };
        write().map_err(|error| StorageError::io("write", &path, error))?;
        sync_directory(root)
    }
}

fn damaged(root: &Path) -> StorageError {
    StorageError::Corrupt {
        location: root.display().to_string(),
        what: "its STORE file cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_of_format_1_keeps_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker {
            backend: "sled".to_owned(),
            generation: 12,
        };
        assert_eq!(Marker::read(dir.path()).unwrap(), None);
        marker.write(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(
            text,
            "keepstep store\nformat 1\nbackend sled\ngeneration 12\ncrc32 5eaebf6e\n"
        );
        assert_eq!(Marker::read(dir.path()).unwrap(), Some(marker));
    }

    #[test]
    fn a_marker_that_is_damaged_foreign_or_of_the_future_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let good = Marker {
            backend: "sled".to_owned(),
            generation: 1,
        }
        .text();
        let read = |text: &str| {
            fs::write(dir.path().join(FILE), text).unwrap();
            Marker::read(dir.path())
        };
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "{cut}");
        }
        assert!(matches!(
            read(&good.replace("generation 1", "generation 2")),
            Err(StorageError::Corrupt { .. })
        ));
        assert!(matches!(
            read(&good.replace("format 1", "format 2")),
            Err(StorageError::UnknownFormat { .. })
        ));
        assert!(matches!(
            read("something else"),
            Err(StorageError::NotAStore { .. })
        ));
    }
}
