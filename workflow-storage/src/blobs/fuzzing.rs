//! For the fuzzer: addresses of blobs.

use super::files::{is_under_its_address, parse};
use crate::BlobId;
use crate::fuzzing::with_a_flipped_bit;

/// A name of a file is one address or none, and an address is that of one blob only.
pub(crate) fn address(data: &[u8]) {
    if let Ok(digits) = std::str::from_utf8(data)
        && let Some(id) = parse(digits)
    {
        assert_eq!(id.to_string(), digits);
    }
    let id = BlobId(*blake3::hash(data).as_bytes());
    assert_eq!(parse(&id.to_string()), Some(id));
    assert!(is_under_its_address(&id, data));
    if !data.is_empty() {
        assert!(!is_under_its_address(&id, &with_a_flipped_bit(data)));
        assert!(!is_under_its_address(&id, &data[1..]));
    }
}
