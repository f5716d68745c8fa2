//! Turning a value of the user's into stored bytes.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::buffer::Encoding;
use super::pack::{Doubts, NIL, Packer};
use super::{Bytes, Codec, Held, Readable, Value, tag};
use crate::executor::panic_message;
use crate::object::{MAX_INLINE_BYTES, noting, reading_again};
use crate::plan::is_same_content;
use crate::source::noting_ignored;
use crate::texts;

impl Value {
    /// Encodes `value`. If there are references in it, it is not ready to be stored: see [`is_settled`](Self::is_settled).
    ///
    /// It may be that no type reads it: see [`encode_readable`](Self::encode_readable).
    pub(crate) fn encode<T: Serialize + ?Sized>(
        value: &T,
        codec: Codec,
    ) -> Result<Self, EncodeError> {
        Self::encode_with(value, codec).map(|(value, _)| value)
    }

    /// Encodes `value` with MessagePack, and reads it again where something in it may not be readable.
    ///
    /// # Errors
    /// As [`encode_readable`](Self::encode_readable).
    pub(crate) fn encode_typed<T: Serialize + DeserializeOwned + 'static>(
        value: &T,
    ) -> Result<Self, EncodeError> {
        Self::encode_readable(value, Codec::MessagePack, Readable::of::<T>())
    }

    /// Encodes `value`, and reads it again as far as its type does not tell that it can be read.
    ///
    /// # Errors
    /// If it cannot be encoded, or what was encoded is not what is read again.
    pub(crate) fn encode_readable<T: Serialize + DeserializeOwned>(
        value: &T,
        codec: Codec,
        known: &Readable,
    ) -> Result<Self, EncodeError> {
        let (encoded, doubts) = Self::encode_with(value, codec)?;
        if known.must_read(encoded.len(), doubts) {
            encoded.read_again::<T>(codec, known)?;
            known.was_read(doubts);
        }
        Ok(encoded)
    }

    #[cold]
    fn read_again<T: Serialize + DeserializeOwned>(
        &self,
        codec: Codec,
        known: &Readable,
    ) -> Result<(), EncodeError> {
        // It is the code of users, which may panic.
        let read = catch_unwind(AssertUnwindSafe(|| {
            reading_again(|| {
                let read = self.decode::<T>().map_err(|mut error| {
                    if codec == Codec::Bincode {
                        error.field = known.shape().named(&error.field);
                    }
                    EncodeError::unreadable(error)
                })?;
                self.must_be(&read, codec)
            })
        }));
        read.unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(EncodeError::unreadable(format_args!(
                "decoding panicked: {message}"
            )))
        })
    }

    /// Checks that what was read of this value is encoded again as the same.
    ///
    /// # Errors
    /// If it is not.
    pub(crate) fn must_be<T: Serialize + DeserializeOwned>(
        &self,
        read: &T,
        codec: Codec,
    ) -> Result<(), EncodeError> {
        let again = Self::encode(read, codec)?;
        self.must_be_same(&again, &|value| {
            noting_ignored(|| drop(value.decode::<T>()))
        })
    }

    /// Checks that what was read of this value was encoded again with the same content. `ignored` shows which parts of a
    /// value its type does not read.
    ///
    /// # Errors
    /// If it was not.
    pub(crate) fn must_be_same(
        &self,
        again: &Self,
        ignored: &dyn Fn(&Self) -> Vec<Range<usize>>,
    ) -> Result<(), EncodeError> {
        if is_same_content(self, again) {
            return Ok(());
        }
        // What a type writes and says that it does not read is no part of its value.
        let without = |value: &Self| value.without(ignored(value));
        if let (Some(a), Some(b)) = (without(self), without(again))
            && is_same_content(&a, &b)
        {
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

    /// The value with nil in the places of these parts, which are counted from its end; `None` if there are none.
    fn without(&self, mut parts: Vec<Range<usize>>) -> Option<Self> {
        let bytes = self.as_bytes();
        // The outermost first.
        parts.sort_by_key(|part| std::cmp::Reverse(part.end));
        let mut rest = Vec::new();
        let mut from = 0;
        for part in &parts {
            let start = bytes.len().checked_sub(part.end)?;
            if start >= from {
                rest.extend_from_slice(bytes.get(from..start)?);
                rest.push(NIL);
                from = bytes.len().checked_sub(part.start)?;
            }
        }
        rest.extend_from_slice(bytes.get(from..)?);
        (!parts.is_empty()).then(|| Self::from_bytes(&rest))
    }

    /// Encodes `value`, and says what in it may not be readable.
    pub(crate) fn encode_with<T: Serialize + ?Sized>(
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
