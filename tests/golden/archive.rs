//! A directory in one file: stores are mostly zeros, which are left out.
//!
//! ```text
//! line: "ids" and the ids of what is in the store, with a space before each
//! of each file:
//!   line: "file", how many bytes it has, its path
//!   of each stretch that is not zeros alone, line: "at", where it begins, how many bytes follow; then these
//! ```

use std::fs;
use std::path::Path;

/// What is looked at together: a block of zeros is left out.
const BLOCK: usize = 64;

pub(crate) fn pack(ids: &[&str], directory: &Path) -> Vec<u8> {
    let mut archive = format!("ids {}\n", ids.join(" ")).into_bytes();
    let files = walkdir::WalkDir::new(directory).sort_by_file_name();
    for file in files {
        let file = file.unwrap();
        let path = file.path().strip_prefix(directory).unwrap();
        // Whose lock it was is nobody's business.
        if !file.file_type().is_file() || path == Path::new("LOCK") {
            continue;
        }
        let bytes = fs::read(file.path()).unwrap();
        archive.extend(format!("file {} {}\n", bytes.len(), path.display()).bytes());
        let mut at = 0;
        while at < bytes.len() {
            let is_zero = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
            let zeros = bytes[at..].chunks(BLOCK).take_while(is_zero).count() * BLOCK;
            at = (at + zeros).min(bytes.len());
            let blocks = bytes[at..]
                .chunks(BLOCK)
                .take_while(|block| !is_zero(block));
            let len = blocks.map(<[u8]>::len).sum::<usize>();
            if len > 0 {
                archive.extend(format!("at {at} {len}\n").bytes());
                archive.extend_from_slice(&bytes[at..at + len]);
                at += len;
            }
        }
    }
    archive
}

/// Writes the files, and returns the ids.
pub(crate) fn unpack(mut archive: &[u8], directory: &Path) -> Vec<String> {
    let ids = line(&mut archive);
    let ids = ids.strip_prefix("ids ").unwrap();
    let ids = ids.split(' ').map(str::to_owned).collect();
    let mut file: Option<(std::path::PathBuf, Vec<u8>)> = None;
    while !archive.is_empty() {
        let line = line(&mut archive);
        let mut words = line.splitn(3, ' ');
        let (what, first, second) = (words.next(), words.next(), words.next());
        let number = |word: Option<&str>| word.unwrap().parse::<usize>().unwrap();
        match what {
            Some("file") => {
                write(file.take());
                file = Some((directory.join(second.unwrap()), vec![0; number(first)]));
            }
            Some("at") => {
                let (at, len) = (number(first), number(second));
                let (bytes, rest) = archive.split_at(len);
                file.as_mut().unwrap().1[at..at + len].copy_from_slice(bytes);
                archive = rest;
            }
            other => panic!("{other:?}"),
        }
    }
    write(file);
    ids
}

fn write(file: Option<(std::path::PathBuf, Vec<u8>)>) {
    if let Some((path, bytes)) = file {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn line(archive: &mut &[u8]) -> String {
    let end = archive.iter().position(|byte| *byte == b'\n').unwrap();
    let line = String::from_utf8(archive[..end].to_vec()).unwrap();
    *archive = &archive[end + 1..];
    line
}

#[test]
fn what_is_packed_is_unpacked() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut bytes = vec![0; 1000];
    bytes[300] = 7;
    bytes[999] = 8;
    fs::create_dir_all(from.path().join("inner")).unwrap();
    fs::write(from.path().join("inner/some"), &bytes).unwrap();
    fs::write(from.path().join("none"), []).unwrap();
    fs::write(from.path().join("zeros"), [0; 500]).unwrap();
    let archive = pack(&["a", "b"], from.path());
    assert!(archive.len() < 300, "{}", archive.len());
    assert_eq!(unpack(&archive, to.path()), ["a", "b"]);
    assert_eq!(fs::read(to.path().join("inner/some")).unwrap(), bytes);
    assert!(fs::read(to.path().join("none")).unwrap().is_empty());
    assert_eq!(fs::read(to.path().join("zeros")).unwrap(), vec![0; 500]);
}
