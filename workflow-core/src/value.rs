//! User values as they are stored: bytes behind a tag that names their codec.
//!
//! Values are always decoded from their stored bytes, also in the process that produced them, so that a run behaves
//! the same before and after a crash.

use std::fmt;
use std::sync::Arc;

use keepstep_storage::BlobId;
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::source::{DecodeError, Source};

/// How the value of a step is turned into bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// MessagePack with field names: survives added, removed and reordered fields, and every serde attribute.
    #[default]
    MessagePack,
    /// bincode 1.3: smaller and faster, for plain types that never change. It cannot decode `serde_json::Value`,
    /// `#[serde(untagged)]` or `#[serde(flatten)]`, and a changed type does not decode its old values.
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
    /// The rest is the address of the blob that holds the stored value, and its length (u64, little endian).
    pub(crate) const BLOB: u8 = 32;
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
}

impl Value {
    /// Encodes `value`.
    pub(crate) fn encode<T: Serialize + ?Sized>(
        value: &T,
        codec: Codec,
    ) -> Result<Self, EncodeError> {
        let mut bytes = Encoding::default();
        match codec {
            Codec::MessagePack => {
                bytes.put(&[tag::MESSAGE_PACK]);
                rmp_serde::encode::write_named(&mut bytes, value)
                    .map_err(|e| EncodeError(e.to_string()))?;
            }
            Codec::Bincode => {
                bytes.put(&[tag::BINCODE]);
                bincode::serialize_into(&mut bytes, value)
                    .map_err(|e| EncodeError(e.to_string()))?;
            }
        }
        Ok(Self::from_bytes(bytes.as_bytes()))
    }

    /// The value of a `Result` that is `Ok` with this value.
    pub(crate) fn ok(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.len() + 1);
        bytes.push(tag::OK);
        bytes.extend_from_slice(self.as_bytes());
        Self::from_bytes(&bytes)
    }

    /// The value that stands for one kept in a blob.
    pub(crate) fn blob(id: BlobId, len: u64) -> Self {
        let mut bytes = Vec::with_capacity(41);
        bytes.push(tag::BLOB);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&len.to_le_bytes());
        Self::from_bytes(&bytes)
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

    /// The stored bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
        }
    }

    /// How many bytes are stored.
    pub(crate) fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// The blob that holds this value, or the value it wraps.
    pub(crate) fn blob_id(&self) -> Option<BlobId> {
        let mut bytes = self.as_bytes();
        while let [tag::OK, rest @ ..] = bytes {
            bytes = rest;
        }
        match bytes {
            [tag::BLOB, rest @ ..] => Some(BlobId(*rest.first_chunk()?)),
            _ => None,
        }
    }

    /// This value with the blob it names put in its place.
    pub(crate) fn with_blob(&self, blob: &[u8]) -> Self {
        let stored = self.as_bytes().iter();
        let wrappers = stored.take_while(|byte| **byte == tag::OK).count();
        let mut bytes = Vec::with_capacity(wrappers + blob.len());
        bytes.resize(wrappers, tag::OK);
        bytes.extend_from_slice(blob);
        Self::from_bytes(&bytes)
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

/// The bytes of a value that is being encoded: on the stack while they are few.
#[derive(Default)]
struct Encoding {
    len: usize,
    short: [u8; SHORT],
    /// All of the bytes, once they are more.
    long: Vec<u8>,
}

impl Encoding {
    fn put(&mut self, more: &[u8]) {
        if let (true, Some(place)) = (
            self.long.is_empty(),
            self.short.get_mut(self.len..self.len + more.len()),
        ) {
            place.copy_from_slice(more);
        } else {
            if self.long.is_empty() {
                self.long.reserve(2 * (self.len + more.len()));
                self.long.extend_from_slice(&self.short[..self.len]);
            }
            self.long.extend_from_slice(more);
        }
        self.len += more.len();
    }

    fn as_bytes(&self) -> &[u8] {
        if self.long.is_empty() {
            &self.short[..self.len]
        } else {
            &self.long
        }
    }
}

impl std::io::Write for Encoding {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

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

/// Why a value could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EncodeError(pub(crate) String);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
        for codec in [Codec::MessagePack, Codec::Bincode] {
            let stored = Value::encode(&value, codec).unwrap();
            assert_eq!(stored.decode::<T>().unwrap(), value, "{codec:?}");
            assert_eq!(
                stored.ok().decode::<Result<T, String>>().unwrap(),
                Ok(value_again(&stored)),
                "{codec:?}"
            );
        }
    }

    fn value_again<T: DeserializeOwned>(stored: &Value) -> T {
        stored.decode().unwrap()
    }

    #[test]
    fn values_come_back_as_they_were() {
        round_trip(());
        round_trip(-1i64);
        // Around the length from which a value has memory of its own.
        for len in 0..2 * SHORT {
            round_trip("x".repeat(len));
            round_trip(vec![len; len]);
        }
        round_trip(u128::MAX);
        round_trip(f64::MIN_POSITIVE);
        round_trip(String::from("zażółć"));
        round_trip(vec![Some(1u8), None]);
        round_trip((1u8, 'x', true));
        round_trip(BTreeMap::from([(1u64, vec![1.5f64])]));
        round_trip(Err::<u8, String>("no".into()));
    }

    #[test]
    fn json_values_survive_in_message_pack() {
        let value = serde_json::json!({"a": [1, 2.5, null, {"b": "c"}]});
        assert_eq!(
            Value::encode(&value, Codec::MessagePack)
                .unwrap()
                .decode::<serde_json::Value>()
                .unwrap(),
            value
        );
    }

    #[test]
    fn a_wrapped_blob_is_found_and_replaced() {
        let stored = Value::encode(&7u8, Codec::MessagePack).unwrap();
        let id = BlobId([7; 32]);
        let wrapped = Value::blob(id, 2).ok();
        assert_eq!(wrapped.blob_id(), Some(id));
        assert_eq!(
            wrapped
                .with_blob(stored.as_bytes())
                .decode::<Result<u8, String>>()
                .unwrap(),
            Ok(7)
        );
        assert!(wrapped.decode::<Result<u8, String>>().is_err());
        assert_eq!(stored.blob_id(), None);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        for bytes in [
            &[][..],
            &[0],
            &[99, 1],
            &[tag::MESSAGE_PACK],
            &[tag::BINCODE, 1],
            &[tag::OK],
            &[tag::BLOB, 1],
        ] {
            assert!(
                Value::from_bytes(bytes).decode::<u64>().is_err(),
                "{bytes:?}"
            );
        }
    }
}
