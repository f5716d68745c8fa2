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

/// A stored value. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Value(Arc<[u8]>);

impl Value {
    /// Encodes `value`.
    pub(crate) fn encode<T: Serialize + ?Sized>(
        value: &T,
        codec: Codec,
    ) -> Result<Self, EncodeError> {
        let mut bytes = Vec::with_capacity(32);
        match codec {
            Codec::MessagePack => {
                bytes.push(tag::MESSAGE_PACK);
                rmp_serde::encode::write_named(&mut bytes, value)
                    .map_err(|e| EncodeError(e.to_string()))?;
            }
            Codec::Bincode => {
                bytes.push(tag::BINCODE);
                bincode::serialize_into(&mut bytes, value)
                    .map_err(|e| EncodeError(e.to_string()))?;
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The value of a `Result` that is `Ok` with this value.
    pub(crate) fn ok(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.push(tag::OK);
        bytes.extend_from_slice(&self.0);
        Self(bytes.into())
    }

    /// The value that stands for one kept in a blob.
    pub(crate) fn blob(id: BlobId, len: u64) -> Self {
        let mut bytes = Vec::with_capacity(41);
        bytes.push(tag::BLOB);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&len.to_le_bytes());
        Self(bytes.into())
    }

    /// Takes stored bytes.
    pub(crate) fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The stored bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes are stored.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The blob that holds this value, or the value it wraps.
    pub(crate) fn blob_id(&self) -> Option<BlobId> {
        let mut bytes = &*self.0;
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
        let wrappers = self.0.iter().take_while(|byte| **byte == tag::OK).count();
        let mut bytes = Vec::with_capacity(wrappers + blob.len());
        bytes.resize(wrappers, tag::OK);
        bytes.extend_from_slice(blob);
        Self(bytes.into())
    }

    /// Decodes the value.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        Source::Value(self.clone()).decode()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Value(tag {}, {} bytes)",
            self.0.first().copied().unwrap_or(0),
            self.0.len()
        )
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
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
                Ok(Value(bytes.into()))
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
