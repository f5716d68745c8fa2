//! The bytes of a pair: a checksum over key and payload at the end of each, and long payloads cut into chunks.
//!
//! The key is under the checksum too, so that a value which turns up in another's place is noticed.

use bytes::{Bytes, BytesMut};

use crate::Op;

use super::keys;

const CHECKSUM: usize = 4;
/// The first chunk says how many bytes all of them have together.
const TOTAL: usize = 4;
/// At most so much room is made before the bytes are there: a length that is read is only believed when they are.
const RESERVED: usize = 1 << 20;

/// A pair's value: the payload, in parts, and its checksum.
pub(super) fn seal(key: &[u8], parts: &[&[u8]]) -> Bytes {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut value = Vec::with_capacity(len + CHECKSUM);
    parts.iter().for_each(|part| value.extend_from_slice(part));
    let sum = checksum(key, &value);
    value.extend_from_slice(&sum.to_le_bytes());
    Bytes::from(value)
}

/// The payload of a pair, if the checksum is right.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (payload, sum) = value.split_last_chunk::<CHECKSUM>()?;
    (checksum(key, payload) == u32::from_le_bytes(*sum)).then_some(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

/// Puts `bytes` under `prefix`, in as many pairs as values of `max_value` bytes take; says how many. `None` if there
/// are too many bytes for any number of pairs.
pub(super) fn put(ops: &mut Vec<Op>, prefix: &[u8], bytes: &[u8], max_value: usize) -> Option<u32> {
    let total = u32::try_from(bytes.len()).ok()?;
    let room = max_value.saturating_sub(CHECKSUM + TOTAL).max(1);
    let (first, mut rest) = bytes.split_at(room.min(bytes.len()));
    let key = keys::chunk(prefix, 0);
    let value = seal(&key, &[&total.to_le_bytes(), first]);
    ops.push(Op::Put(key, value));
    let mut chunks = 1;
    while !rest.is_empty() {
        let (next, after) = rest.split_at((room + TOTAL).min(rest.len()));
        let key = keys::chunk(prefix, chunks);
        let value = seal(&key, &[next]);
        ops.push(Op::Put(key, value));
        chunks += 1;
        rest = after;
    }
    Some(chunks)
}

/// What is wrong with chunks, in the words of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The checksum of a chunk is another.
    Checksum(u32),
    /// A chunk is not there.
    Missing(u32),
    /// There is a chunk too many, or too many bytes in one.
    Excess(u32),
    /// The first chunk is too short to say how many bytes there are.
    Short,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checksum(chunk) => write!(f, "the checksum of chunk {chunk} is wrong"),
            Self::Missing(chunk) => write!(f, "chunk {chunk} is missing"),
            Self::Excess(chunk) => write!(f, "chunk {chunk} holds more than there was"),
            Self::Short => write!(f, "chunk 0 has no length"),
        }
    }
}

/// Puts chunks together again, shown one after the other.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    next: u32,
    total: usize,
    bytes: BytesMut,
}

impl Joiner {
    /// Takes the next pair; the whole bytes once they are all there.
    pub(super) fn push(
        &mut self,
        chunk: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<Bytes>, Fault> {
        if chunk != self.next {
            return Err(Fault::Missing(self.next));
        }
        let mut payload = unseal(key, value).ok_or(Fault::Checksum(chunk))?;
        if chunk == 0 {
            let (total, bytes) = payload.split_first_chunk::<TOTAL>().ok_or(Fault::Short)?;
            self.total = u32::from_le_bytes(*total) as usize;
            payload = bytes;
            if payload.len() == self.total {
                self.next = 1;
                return Ok(Some(Bytes::copy_from_slice(payload)));
            }
            self.bytes.reserve(self.total.min(RESERVED));
        }
        self.next += 1;
        self.bytes.extend_from_slice(payload);
        match self.bytes.len().cmp(&self.total) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Equal => Ok(Some(std::mem::take(&mut self.bytes).freeze())),
            std::cmp::Ordering::Greater => Err(Fault::Excess(chunk)),
        }
    }

    /// How many bytes there will be, known from the first chunk on.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// What is missing when there are no more chunks.
    pub(super) fn unfinished(&self) -> Fault {
        Fault::Missing(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(bytes: &[u8], max: usize) -> Vec<(Vec<u8>, Bytes)> {
        let mut ops = Vec::new();
        let chunks = put(&mut ops, b"p", bytes, max).unwrap();
        assert_eq!(chunks as usize, ops.len());
        ops.into_iter()
            .map(|op| match op {
                Op::Put(key, value) => (key, value),
                Op::Remove(key) => panic!("{key:?}"),
            })
            .collect()
    }

    fn join(pairs: &[(Vec<u8>, Bytes)]) -> Result<Bytes, Fault> {
        let mut joiner = Joiner::default();
        for (key, value) in pairs {
            let chunk = keys::parse_chunk(&key[1..]).unwrap();
            if let Some(bytes) = joiner.push(chunk, key, value)? {
                return Ok(bytes);
            }
        }
        Err(joiner.unfinished())
    }

    #[test]
    fn bytes_of_any_length_come_back_and_no_value_is_too_long() {
        let bytes: Vec<u8> = (0..200).collect();
        for len in 0..200 {
            let pairs = pairs(&bytes[..len], 20);
            assert!(pairs.iter().all(|(_, value)| value.len() <= 20));
            assert_eq!(pairs.len() == 1, len <= 12);
            assert_eq!(join(&pairs).unwrap(), &bytes[..len]);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_missing_chunk_is_noticed() {
        let good = pairs(&[7; 50], 20);
        for (i, (_, value)) in good.iter().enumerate() {
            for at in 0..value.len() {
                let mut bad = good.clone();
                let mut bytes = value.to_vec();
                bytes[at] ^= 0x10;
                bad[i].1 = bytes.into();
                assert_eq!(join(&bad), Err(Fault::Checksum(u32::try_from(i).unwrap())));
            }
            let mut bad = good.clone();
            bad.remove(i);
            assert_eq!(join(&bad), Err(Fault::Missing(u32::try_from(i).unwrap())));
        }
        let mut swapped = good.clone();
        (swapped[1].1, swapped[2].1) = (good[2].1.clone(), good[1].1.clone());
        assert_eq!(join(&swapped), Err(Fault::Checksum(1)));
    }
}
