//! Values that the engine makes itself, of other stored values or of what it knows: no type of the user's is asked.

use keepstep_storage::BlobId;

use super::{Value, tag};

impl Value {
    /// What begins a value that names these objects; nothing if it names none.
    pub(crate) fn header(names: &[BlobId]) -> Vec<u8> {
        if names.is_empty() {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(5 + 32 * names.len());
        bytes.push(tag::OBJECTS);
        // More would not fit into memory.
        let n = u32::try_from(names.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&n.to_le_bytes());
        names.iter().for_each(|id| bytes.extend_from_slice(&id.0));
        bytes
    }

    /// The value of a `Result` that is `Ok` with this value.
    pub(crate) fn ok(&self) -> Self {
        self.wrapped(tag::OK)
    }

    /// The value of an `Either` that has this value on its left side, or on its right one.
    pub(crate) fn either(&self, is_left: bool) -> Self {
        self.wrapped(if is_left { tag::LEFT } else { tag::RIGHT })
    }

    fn wrapped(&self, tag: u8) -> Self {
        let mut bytes = Vec::with_capacity(self.len() + 1);
        bytes.push(tag);
        bytes.extend_from_slice(self.as_bytes());
        Self::from_bytes(&bytes).pinned(self.pins().to_vec())
    }

    /// The value of `()`.
    pub(crate) fn of_nothing() -> Self {
        let mut bytes = vec![tag::MESSAGE_PACK];
        // Writing to memory does not fail.
        drop(rmp::encode::write_nil(&mut bytes));
        Self::from_bytes(&bytes)
    }

    /// The value of a small number.
    pub(crate) fn of_number(number: u32) -> Self {
        let mut bytes = vec![tag::MESSAGE_PACK];
        // Writing to memory does not fail.
        drop(rmp::encode::write_uint(&mut bytes, u64::from(number)));
        Self::from_bytes(&bytes)
    }

    /// The list of these values; a value of more than 4 GiB does not fit in one.
    pub(crate) fn list<'a>(values: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let len = values.clone().map(|value| 4 + value.len()).sum::<usize>();
        let pins = values.clone().flat_map(|value| value.pins()).cloned();
        let pins = pins.collect();
        let mut bytes = Vec::with_capacity(1 + len);
        bytes.push(tag::LIST);
        for value in values {
            // Long values are kept in blobs, so that what stands here is short.
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        Self::from_bytes(&bytes).pinned(pins)
    }

    /// The value that stands for one kept in a blob, behind the header that it has.
    pub(crate) fn blob(header: &[u8], id: BlobId, len: u64) -> Self {
        let mut bytes = Vec::with_capacity(header.len() + 41);
        bytes.extend_from_slice(header);
        bytes.push(tag::BLOB);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&len.to_le_bytes());
        Self::from_bytes(&bytes)
    }
}
