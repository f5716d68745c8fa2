//! User values as they are stored: bytes behind a tag that names their codec.
//!
//! Values are always decoded from their stored bytes, also in the process that produced them, so that a run behaves
//! the same before and after a crash.

use std::fmt;
use std::sync::Arc;

use keepstep_storage::BlobId;
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod buffer;
mod encoding;
mod made;
pub(crate) mod pack;
pub(crate) mod parts;
mod readable;
#[cfg(test)]
mod tests;

use crate::object::{Pins, Reference};
use crate::source::{DecodeError, Source};
pub(crate) use encoding::EncodeError;
pub(crate) use pack::Doubts;
pub(crate) use parts::{header_len, is_plain, names_at, split_header};
pub(crate) use readable::Readable;

/// How the value of a step is turned into bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// MessagePack with field names: survives added, removed and reordered fields, and every serde attribute.
    #[default]
    MessagePack,
    /// bincode 1.3: smaller and faster, for plain types that never change. It cannot decode `serde_json::Value`,
    /// `#[serde(untagged)]`, `#[serde(tag = "…")]` or `#[serde(flatten)]`, and it cannot leave out fields: a step with such a result
    /// fails. A changed type does not decode its old values.
    Bincode,
}

/// The first byte of a stored value. Never reused for something else.
pub(crate) mod tag {
    /// A MessagePack value.
    pub(crate) const MESSAGE_PACK: u8 = 1;
    /// A bincode value: fixed-width integers, trailing bytes refused.
    pub(crate) const BINCODE: u8 = 2;
    /// `Ok(v)`: the rest is the stored value `v`.
    pub(crate) const OK: u8 = 16;
    /// `Left(v)`: the rest is the stored value `v`.
    pub(crate) const LEFT: u8 = 17;
    /// `Right(v)`: the rest is the stored value `v`.
    pub(crate) const RIGHT: u8 = 18;
    /// A list or a tuple: of each of its elements the length (u32, little endian) and the stored value.
    pub(crate) const LIST: u8 = 19;
    /// The rest is the address of the blob that holds the stored value, and its length (u64, little endian).
    pub(crate) const BLOB: u8 = 32;
    /// How many objects the value has references to (u32, little endian), their addresses, then the stored value, which may be
    /// in a blob.
    pub(crate) const OBJECTS: u8 = 33;
}

/// A stored value. Cloning shares the bytes, or copies the few there are.
#[derive(Clone)]
pub(crate) struct Value(Bytes);

/// How many bytes stand in the value itself. A number or a short text, the most frequent values by far, then needs no
/// memory of its own, and the value is three words.
const SHORT: usize = 22;

#[derive(Clone)]
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<[u8]>),
    Held(Arc<Held>),
}

/// A value that is too long to be copied, or that something is known of beside its bytes while it is in memory.
#[derive(Default)]
struct Held {
    bytes: bytes::Bytes,
    /// Keep the objects that it names, and the blobs it is in, before a run names them.
    pins: Vec<Arc<Pins>>,
    /// The references in it, if it was encoded and is not ready to be stored.
    unsettled: Vec<Reference>,
}

impl Value {
    /// Whether nothing is left to do before the value can be stored: work is done that it refers to, and the objects are listed
    /// that it names.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled().is_empty()
    }

    /// The references of a value that is not settled.
    pub(crate) fn unsettled(&self) -> &[Reference] {
        match &self.0 {
            Bytes::Held(held) => &held.unsettled,
            _ => &[],
        }
    }

    /// What keeps the blobs that the value names, as far as this process knows.
    pub(crate) fn pins(&self) -> &[Arc<Pins>] {
        match &self.0 {
            Bytes::Held(held) => &held.pins,
            _ => &[],
        }
    }

    /// The value with what keeps its blobs.
    pub(crate) fn pinned(self, pins: Vec<Arc<Pins>>) -> Self {
        if pins.is_empty() {
            return self;
        }
        Self(Bytes::Held(Arc::new(Held {
            bytes: self.to_bytes(),
            pins,
            unsettled: self.unsettled().to_vec(),
        })))
    }

    /// Takes stored bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(bytes);
                Self(Bytes::Short { len, bytes: short })
            }
            _ => Self(Bytes::Long(bytes.into())),
        }
    }

    /// Takes stored bytes, without copying them if they are many.
    pub(crate) fn of_bytes(bytes: bytes::Bytes) -> Self {
        if bytes.len() <= SHORT {
            return Self::from_bytes(&bytes);
        }
        Self(Bytes::Held(Arc::new(Held {
            bytes,
            ..Held::default()
        })))
    }

    /// The stored bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
            Bytes::Held(held) => &held.bytes,
        }
    }

    /// The stored bytes, without copying them if they are many.
    pub(crate) fn to_bytes(&self) -> bytes::Bytes {
        match &self.0 {
            Bytes::Held(held) => held.bytes.clone(),
            _ => bytes::Bytes::copy_from_slice(self.as_bytes()),
        }
    }

    /// How many bytes are stored.
    pub(crate) fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Shows the blobs to `visit` that a run which has this value must name: those that hold it, or parts of it, and the objects
    /// that it refers to.
    pub(crate) fn for_each_blob(&self, visit: &mut dyn FnMut(BlobId)) {
        self.for_each_name(visit);
        self.for_each_part(visit);
    }

    /// Shows the objects to `visit` that the value refers to.
    pub(crate) fn for_each_name(&self, visit: &mut dyn FnMut(BlobId)) {
        if !self.is_plain() {
            parts::for_each_name(self.as_bytes(), visit);
        }
    }

    /// Shows the blobs to `visit` that hold this value, or parts of it: without them it cannot be decoded.
    pub(crate) fn for_each_part(&self, visit: &mut dyn FnMut(BlobId)) {
        if !self.is_plain() {
            parts::for_each_part(self.as_bytes(), visit);
        }
    }

    fn is_plain(&self) -> bool {
        is_plain(self.as_bytes())
    }

    /// Whether the value, or a part of it, is in a blob.
    pub(crate) fn has_parts(&self) -> bool {
        let mut has_parts = false;
        self.for_each_part(&mut |_| has_parts = true);
        has_parts
    }

    /// This value with the blobs that hold it, or parts of it, put in their places. One that `blob` does not give stays as it is.
    pub(crate) fn with_parts(&self, blob: &dyn Fn(BlobId) -> Option<bytes::Bytes>) -> Self {
        if let Some(whole) = parts::blob(self.as_bytes()).and_then(blob) {
            // The usual case, and the one in which a copy would be long.
            return Self::of_bytes(whole).pinned(self.pins().to_vec());
        }
        let mut bytes = Vec::with_capacity(self.len());
        parts::put_with_parts(self.as_bytes(), 0, blob, &mut bytes);
        Self::of_bytes(bytes.into()).pinned(self.pins().to_vec())
    }

    /// Decodes the value.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        Source::Value(self.clone()).decode()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Value(tag {}, {} bytes)",
            self.as_bytes().first().copied().unwrap_or(0),
            self.len()
        )
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a value")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Value, E> {
                Ok(Value::from_bytes(bytes))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}
