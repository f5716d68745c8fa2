//! Turning a value of the user's into stored bytes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::buffer::Encoding;
use super::pack::{Doubts, Packer};
use super::{Bytes, Codec, Held, Value, tag};
use crate::object::{MAX_INLINE_BYTES, noting};
use crate::plan::is_same_content;
use crate::texts;

impl Value {
    /// Encodes `value`. If there are references in it, it is not ready to be stored: see [`is_settled`](Self::is_settled).
    ///
    /// It may be that no type reads it: see [`is_doubtful`](Self::is_doubtful).
    pub(crate) fn encode<T: Serialize + ?Sized>(
        value: &T,
        codec: Codec,
    ) -> Result<Self, EncodeError> {
        let (value, doubts) = Self::encode_with(value, codec)?;
        Ok(match doubts.any() {
            true => value.doubted(),
            false => value,
        })
    }

    /// Encodes `value`, and reads it again where something in it may not be readable.
    ///
    /// # Errors
    /// If it cannot be encoded, or what was encoded is not what is read again.
    pub(crate) fn encode_readable<T: Serialize + DeserializeOwned>(
        value: &T,
        codec: Codec,
    ) -> Result<Self, EncodeError> {
        let (encoded, doubts) = Self::encode_with(value, codec)?;
        if doubts.any() {
            encoded.read_again::<T>(codec)?;
        }
        Ok(encoded)
    }

    /// Encodes `value`, and reads it again unless all that can stand in its type is known to be readable. `named` makes the path of a
    /// field in bincode, which has numbers, one with names.
    ///
    /// # Errors
    /// As [`encode_readable`](Self::encode_readable).
    pub(crate) fn encode_of_shape<T: Serialize + DeserializeOwned>(
        value: &T,
        codec: Codec,
        is_plain: impl FnOnce(usize) -> bool,
        named: impl FnOnce(&str) -> String,
    ) -> Result<Self, EncodeError> {
        let (encoded, doubts) = Self::encode_with(value, codec)?;
        // A wide number is in doubt only where the type does not say that one stands there.
        if doubts.skipped || doubts.tagged || !is_plain(encoded.len()) {
            encoded.read_again_with::<T>(codec, named)?;
        }
        Ok(encoded)
    }

    /// Checks that the value reads as what it was encoded from.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn read_again<T: Serialize + DeserializeOwned>(
        &self,
        codec: Codec,
    ) -> Result<(), EncodeError> {
        self.read_again_with::<T>(codec, ToOwned::to_owned)
    }

    fn read_again_with<T: Serialize + DeserializeOwned>(
        &self,
        codec: Codec,
        named: impl FnOnce(&str) -> String,
    ) -> Result<(), EncodeError> {
        if !self.is_settled() {
            // What it refers to has no address yet.
            return Ok(());
        }
        let read = self.decode::<T>().map_err(|mut error| {
            if codec == Codec::Bincode {
                error.field = named(&error.field);
            }
            EncodeError::unreadable(error)
        })?;
        self.is_of(&read, codec)
    }

    /// Checks that this MessagePack value, of which a value was read, is what that is encoded as.
    ///
    /// # Errors
    /// If it is not.
    pub(crate) fn matches<T: Serialize>(&self, read: &T) -> Result<(), EncodeError> {
        self.is_of(read, Codec::MessagePack)
    }

    fn is_of<T: Serialize>(&self, read: &T, codec: Codec) -> Result<(), EncodeError> {
        let (again, _) = Self::encode_with(read, codec)?;
        self.must_be(&again)
    }

    /// Checks that what was read of this value was encoded again with the same content.
    ///
    /// # Errors
    /// If it was not.
    pub(crate) fn must_be(&self, again: &Self) -> Result<(), EncodeError> {
        match is_same_content(self, again) {
            true => Ok(()),
            false => Err(EncodeError(
                "it reads back as another value: where several variants of an untagged enum fit, serde takes the first"
                    .to_owned(),
            )),
        }
    }

    /// Whether the value has something in it that not every type which writes it can read. Known of a value that was encoded and
    /// not stored yet.
    pub(crate) fn is_doubtful(&self) -> bool {
        matches!(&self.0, Bytes::Held(held) if held.is_doubtful)
    }

    fn doubted(self) -> Self {
        Self(Bytes::Held(Arc::new(Held {
            bytes: self.to_bytes(),
            pins: self.pins().to_vec(),
            unsettled: self.unsettled().to_vec(),
            is_doubtful: true,
        })))
    }

    fn encode_with<T: Serialize + ?Sized>(
        value: &T,
        codec: Codec,
    ) -> Result<(Self, Doubts), EncodeError> {
        let mut bytes = Encoding::default();
        bytes.put(&[match codec {
            Codec::MessagePack => tag::MESSAGE_PACK,
            Codec::Bincode => tag::BINCODE,
        }]);
        let (encoded, references) = noting(|| {
            let mut packer = Packer::new(&mut bytes, codec);
            value.serialize(&mut packer)?;
            Ok(packer.doubts())
        });
        let doubts =
            encoded.map_err(|error: super::pack::PackError| EncodeError(texts::kept(error)))?;
        if references.is_empty() && bytes.len() <= MAX_INLINE_BYTES {
            return Ok((Self::from_bytes(bytes.as_bytes()), doubts));
        }
        let held = Held {
            bytes: bytes.into_bytes(),
            unsettled: references,
            ..Held::default()
        };
        Ok((Self(Bytes::Held(Arc::new(held))), doubts))
    }
}

/// Why a value could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EncodeError(pub(crate) String);

impl EncodeError {
    /// Of a value that was encoded and does not decode.
    pub(crate) fn unreadable(error: impl fmt::Display) -> Self {
        Self(texts::kept(format_args!(
            "it could not be read back: {error}"
        )))
    }
}

/// A path of fields for people: of a long one both ends.
pub(super) fn shown(path: &[Cow<'static, str>]) -> String {
    const ENDS: usize = 4;
    let text = |path: &[Cow<'static, str>]| {
        let text: String = path.iter().map(|part| &**part).collect();
        text.trim_start_matches('.').to_owned()
    };
    match path.len() {
        len if len > 2 * ENDS => {
            let (first, last) = (&path[..ENDS], &path[len - ENDS..]);
            format!("{}…{}", text(first), last.concat())
        }
        _ => text(path),
    }
}
