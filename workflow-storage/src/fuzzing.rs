//! The decoders of what a store holds, each behind a function that takes any bytes. The fuzzer calls them, and so does a
//! test, with every input that the fuzzer found worth keeping (`fuzz/` in the repository).
//!
//! A function panics if a decoder does, or if something does not hold that should of what it decoded.

/// A decoder's name, which is that of its corpus, too, and the function that feeds it.
pub type Target = (&'static str, fn(&[u8]));

/// Every decoder of this crate.
pub const TARGETS: &[Target] = &[
    ("blob_address", crate::blobs::fuzzing::address),
    ("chunks", crate::adapter::fuzzing::chunks),
    ("keys", crate::adapter::fuzzing::keys),
    ("lock", crate::directory::fuzzing::lock),
    ("marker", crate::directory::fuzzing::marker),
    ("record", crate::adapter::fuzzing::record),
    ("store", crate::adapter::fuzzing::store),
    ("torn_journal", crate::fjall::fuzzing::torn_journal),
];

/// These bytes with one bit of them changed, whichever they themselves say. They must not be empty.
#[must_use]
pub fn with_a_flipped_bit(bytes: &[u8]) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    let bit = crc32fast::hash(bytes) as usize % (8 * flipped.len());
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}
