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

    /// Encodes `value`, and reads it again as far as its type does not tell that it can be read: `reading` says, of a value of so many
    /// bytes, how far that is. `named` makes the path of a field in bincode, which has numbers, one with names.
    ///
    /// # Errors
    /// As [`encode_readable`](Self::encode_readable).
    pub(crate) fn encode_of_shape<T: Serialize + DeserializeOwned>(
        value: &T,
        codec: Codec,
        reading: impl FnOnce(usize) -> Reading,
        named: impl FnOnce(&str) -> String,
    ) -> Result<Self, EncodeError> {
        let (encoded, doubts) = Self::encode_with(value, codec)?;
        // A wide number is in doubt only where the type does not say that one stands there.
        let reading = match doubts.skipped || doubts.tagged {
            true => Reading::Compared,
            false => reading(encoded.len()),
        };
        match reading {
            Reading::Not => {}
            _ if !encoded.is_settled() => {}
            Reading::Tried => drop(encoded.read::<T>(codec, named)?),
            Reading::Compared => encoded.is_of(&encoded.read::<T>(codec, named)?, codec)?,
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
        if !self.is_settled() {
            // What it refers to has no address yet.
            return Ok(());
        }
        self.is_of(&self.read::<T>(codec, ToOwned::to_owned)?, codec)
    }

    fn read<T: DeserializeOwned>(
        &self,
        codec: Codec,
        named: impl FnOnce(&str) -> String,
    ) -> Result<T, EncodeError> {
        self.decode::<T>().map_err(|mut error| {
            if codec == Codec::Bincode {
                error.field = named(&error.field);
            }
            EncodeError::unreadable(error)
        })
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
        if is_same_content(self, again) {
            return Ok(());
        }
        let json = |value: &Self| value.decode::<serde_json::Value>().ok();
        let at = match (json(self), json(again)) {
            (Some(written), Some(read)) => difference(&written, &read),
            _ => None,
        };
        let at = at.map_or_else(String::new, |path| format!("{}: ", shown(&path)));
        Err(EncodeError(texts::kept(format_args!(
            "{at}it reads back as another value: serde takes the first variant of an untagged enum that fits, and leaves out fields that \
             it does not read"
        ))))
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

/// How far a value is read again before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Its type tells that it can be read.
    Not,
    /// As far as to know whether the type reads what it writes.
    Tried,
    /// And compared: parts of its type take anything.
    Compared,
}

/// The path of the first place at which two values differ.
fn difference(a: &serde_json::Value, b: &serde_json::Value) -> Option<Vec<Cow<'static, str>>> {
    use serde_json::Value::{Array, Null, Object};

    let within = |part: String, a, b| {
        let mut path = difference(a, b)?;
        path.insert(0, Cow::Owned(part));
        Some(path)
    };
    match (a, b) {
        (Object(a), Object(b)) => {
            let keys = a.keys().chain(b.keys());
            keys.filter(|key| a.get(*key) != b.get(*key))
                .find_map(|key| {
                    let (a, b) = (a.get(key).unwrap_or(&Null), b.get(key).unwrap_or(&Null));
                    // One of them may lack what is null in the other.
                    let path = within(format!(".{key}"), a, b);
                    path.or_else(|| Some(vec![Cow::Owned(format!(".{key}"))]))
                })
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(n, (a, b))| within(format!("[{n}]"), a, b))
        }
        _ => (a != b).then(Vec::new),
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
