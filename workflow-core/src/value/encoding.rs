//! Turning a value of the user's into stored bytes.

use std::sync::Arc;

use serde::Serialize;

use super::{Bytes, Codec, Held, SHORT, Value, tag};
use crate::object::{MAX_INLINE_BYTES, noting};

impl Value {
    /// Encodes `value`. If there are references in it, it is not ready to be stored: see [`is_settled`](Self::is_settled).
    pub(crate) fn encode<T: Serialize + ?Sized>(
        value: &T,
        codec: Codec,
    ) -> Result<Self, EncodeError> {
        let mut bytes = Encoding::default();
        let (encoded, references) = noting(|| match codec {
            Codec::MessagePack => {
                bytes.put(&[tag::MESSAGE_PACK]);
                rmp_serde::encode::write_named(&mut bytes, value)
                    .map_err(|e| EncodeError(e.to_string()))
            }
            Codec::Bincode => {
                bytes.put(&[tag::BINCODE]);
                bincode::serialize_into(&mut bytes, value).map_err(|e| EncodeError(e.to_string()))
            }
        });
        encoded?;
        if references.is_empty() && bytes.len <= MAX_INLINE_BYTES {
            return Ok(Self::from_bytes(bytes.as_bytes()));
        }
        Ok(Self(Bytes::Held(Arc::new(Held {
            bytes: match bytes.long.is_empty() {
                true => bytes::Bytes::copy_from_slice(bytes.as_bytes()),
                false => bytes.long.into(),
            },
            pins: Vec::new(),
            unsettled: references,
        }))))
    }
}

/// The bytes of a value that is being encoded: on the stack while they are few.
#[derive(Default)]
struct Encoding {
    len: usize,
    short: [u8; SHORT],
    /// All of the bytes, once they are more.
    long: Vec<u8>,
}

impl Encoding {
    #[inline]
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

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.put(bytes);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Why a value could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EncodeError(pub(crate) String);
