//! Files as bytes, without a copy: the one place of this crate that the compiler cannot check.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe, because somebody else could change the file"
)]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// The content of a blob's file. It stays readable when the file is removed.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the bytes of a mapping must not change while it lives. A blob's file is complete when it gets its name,
    // and no code of this crate writes to it afterwards: it is replaced by renaming or unlinked, both of which leave
    // the mapped file as it was. The store's lock keeps other processes of keepstep away, and nobody else has any
    // business in the directory.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_bytes_outlive_the_file_and_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        for content in [vec![], vec![7; 1], vec![9; 1 << 20]] {
            std::fs::write(&path, &content).unwrap();
            let file = File::open(&path).unwrap();
            let bytes = map(&file).unwrap();
            drop(file);
            std::fs::remove_file(&path).unwrap();
            assert_eq!(bytes, content);
            assert_eq!(
                bytes.slice(content.len() / 2..),
                content[content.len() / 2..]
            );
        }
    }
}
