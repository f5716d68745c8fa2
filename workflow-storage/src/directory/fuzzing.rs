//! For the fuzzer: the two small files that say what a directory is.

use std::path::Path;

use super::lock::read_holder;
use super::marker::Marker;
use crate::fuzzing::with_a_flipped_bit;

/// A marker that is read says the same when it is written again, and none is read whose checksum was for other text.
pub(crate) fn marker(data: &[u8]) {
    let root = Path::new("store");
    let read = Marker::from_bytes(root, data);
    // The fuzzer does not find checksums: it gets one for what it made.
    let body = String::from_utf8_lossy(data);
    let body = body.strip_suffix('\n').unwrap_or(&body);
    let sum = crc32fast::hash(format!("{body}\n").as_bytes());
    let with_sum = Marker::from_bytes(root, format!("{body}\ncrc32 {sum:08x}\n").as_bytes());
    for marker in [read, with_sum].into_iter().flatten() {
        let text = marker.text();
        let again = Marker::from_bytes(root, text.as_bytes());
        assert_eq!(again.ok(), Some(marker));
        assert!(Marker::from_bytes(root, &with_a_flipped_bit(text.as_bytes())).is_err());
    }
}

/// Whatever a lock file holds, the holder is a line that can stand in an error.
pub(crate) fn lock(data: &[u8]) {
    let holder = read_holder(data);
    assert!(!holder.is_empty() && holder.len() < 2048, "{holder:?}");
    assert!(!holder.contains(char::is_control), "{holder:?}");
}
