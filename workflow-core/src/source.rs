//! Decoding what a step is given: stored values, and containers whose elements are stored values of their own.
//!
//! An argument such as `vec![a(), b()]` is never copied together: a [`Source`] hands serde each element from its own
//! bytes, whatever codec wrote it.

use std::fmt;
use std::sync::Arc;

use keepstep_storage::BlobId;
use serde::de::{self, DeserializeOwned};
use smallvec::SmallVec;

mod decoder;
mod unbin;
mod unpack;

use crate::object::{Objects, decoding};
use crate::texts;
use crate::value::parts::is_too_deep;
use crate::value::{Value, is_plain};
use decoder::Decoder;
pub(crate) use unpack::noting_ignored;

/// The arguments of a call, of which most have one.
pub(crate) type Sources = SmallVec<[Source; 1]>;

/// Where a value is decoded from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One stored value.
    Value(Value),
    /// A list, an array or a tuple.
    Seq(Vec<Source>),
    /// A map.
    Map(Vec<(Value, Source)>),
    /// `Some`.
    Some(Box<Source>),
}

impl Source {
    /// Decodes a value of type `T`.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        if self.is_too_deep() {
            return Err(DecodeError::new("the value is nested too deep to be one"));
        }
        T::deserialize(Decoder::of(self)).map_err(|_| {
            // Only a failure pays for knowing where it happened.
            match serde_path_to_error::deserialize::<_, T>(Decoder::of(self)) {
                Ok(_) => DecodeError::new("the value decoded differently the second time"),
                Err(error) => {
                    let field = error.path().to_string();
                    let DecodeError { message, .. } = error.into_inner();
                    DecodeError {
                        field: match &*field {
                            "." => String::new(),
                            _ => texts::cut(field),
                        },
                        message,
                    }
                }
            }
        })
    }

    /// Decodes a value of type `T`, whose references are to objects of this engine.
    pub(crate) fn decode_in<T: DeserializeOwned>(
        &self,
        objects: &Arc<Objects>,
    ) -> Result<T, DecodeError> {
        let mut names = Vec::new();
        self.for_each_name(&mut |id| names.push(id));
        decoding(objects, names, || self.decode())
    }

    fn for_each_name(&self, visit: &mut dyn FnMut(BlobId)) {
        match self {
            Self::Value(value) => value.for_each_name(visit),
            Self::Seq(items) => items.iter().for_each(|item| item.for_each_name(visit)),
            Self::Map(entries) => entries.iter().for_each(|(key, value)| {
                key.for_each_name(visit);
                value.for_each_name(visit);
            }),
            Self::Some(inner) => inner.for_each_name(visit),
        }
    }

    fn is_too_deep(&self) -> bool {
        match self {
            Self::Value(value) => !is_plain(value.as_bytes()) && is_too_deep(value.as_bytes()),
            Self::Seq(items) => items.iter().any(Self::is_too_deep),
            Self::Map(entries) => entries.iter().any(|(_, value)| value.is_too_deep()),
            Self::Some(inner) => inner.is_too_deep(),
        }
    }
}

/// Why a value did not decode, and which of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeError {
    /// The path of the field; empty for the value itself.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) message: String,
}

impl DecodeError {
    fn new(message: impl fmt::Display) -> Self {
        Self {
            field: String::new(),
            message: texts::kept(message),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.field {
            "" => f.write_str(&self.message),
            field => write!(f, "{field}: {}", self.message),
        }
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::value::{Codec, tag};

    fn value(value: impl Serialize) -> Value {
        Value::encode(&value, Codec::MessagePack).unwrap()
    }

    fn list(items: impl IntoIterator<Item = Source>) -> Source {
        Source::Seq(items.into_iter().collect())
    }

    #[test]
    fn containers_decode_from_values_of_different_codecs() {
        let mixed = || {
            list([
                Source::Value(value(1u64)),
                Source::Value(Value::encode(&2u64, Codec::Bincode).unwrap()),
            ])
        };
        assert_eq!(mixed().decode::<Vec<u64>>().unwrap(), [1, 2]);
        assert_eq!(mixed().decode::<(u64, u64)>().unwrap(), (1, 2));
        assert_eq!(mixed().decode::<[u64; 2]>().unwrap(), [1, 2]);
        assert_eq!(
            Source::Some(Box::new(mixed()))
                .decode::<Option<Vec<u64>>>()
                .unwrap(),
            Some(vec![1, 2])
        );
        let map = Source::Map(vec![(value("a"), mixed()), (value("b"), list([]))]);
        assert_eq!(
            map.decode::<HashMap<String, Vec<u64>>>().unwrap(),
            HashMap::from([("a".into(), vec![1, 2]), ("b".into(), vec![])])
        );
        let plain = Source::Map(vec![(value("a"), list([Source::Value(value(1u64))]))]);
        assert_eq!(
            plain
                .decode::<BTreeMap<String, serde_json::Value>>()
                .unwrap()["a"],
            serde_json::json!([1])
        );
    }

    #[test]
    fn an_error_names_the_field() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Old {
            amount: String,
        }
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only decoded")]
        struct New {
            amount: u64,
        }
        let source = list([Source::Value(value(Old {
            amount: "12".into(),
        }))]);
        let error = source.decode::<Vec<New>>().unwrap_err();
        assert_eq!(error.field, "[0].amount", "{error}");
    }

    #[test]
    fn a_bincode_value_of_a_longer_type_is_not_read_as_its_beginning() {
        let value = Value::encode(&(1u64, "a"), Codec::Bincode).unwrap();
        assert_eq!(value.decode::<(u64, String)>().unwrap(), (1, "a".into()));
        let error = value.decode::<u64>().unwrap_err();
        assert_eq!(error.message, "there are 9 bytes behind the value");
        assert!(list([Source::Value(value)]).decode::<Vec<u64>>().is_err());
    }

    #[test]
    fn values_nested_too_deep_are_an_error() {
        let mut bytes = vec![tag::MESSAGE_PACK];
        bytes.extend([0x91; 300]);
        bytes.push(0xc0);
        let error = Value::from_bytes(&bytes).decode::<serde_json::Value>();
        assert!(error.unwrap_err().message.contains("depth limit"));
        let bytes = [&[tag::OK; 5000][..], &[tag::MESSAGE_PACK, 0xc0]].concat();
        assert!(
            Value::from_bytes(&bytes)
                .decode::<serde_json::Value>()
                .is_err()
        );
    }

    #[test]
    fn a_length_beyond_the_bytes_is_an_error_and_allocates_nothing() {
        let mut bytes = vec![tag::BINCODE];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(
            Source::Value(Value::from_bytes(&bytes))
                .decode::<Vec<u8>>()
                .is_err()
        );
        assert!(
            Source::Value(Value::from_bytes(
                &[tag::MESSAGE_PACK, 0xdd, 0xff, 0xff, 0xff, 0xff][..]
            ))
            .decode::<Vec<u8>>()
            .is_err()
        );
    }

    /// Tells the length that it was told of.
    #[derive(Debug)]
    struct Trusting;

    impl<'de> Deserialize<'de> for Trusting {
        fn deserialize<D: serde::Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
            struct List;
            impl<'de> de::Visitor<'de> for List {
                type Value = Trusting;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a list")
                }
                fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Trusting, A::Error> {
                    let told = list.size_hint().unwrap_or(0);
                    Err(de::Error::custom(format_args!("told of {told}")))
                }
            }
            decoder.deserialize_seq(List)
        }
    }

    #[test]
    fn types_are_told_of_no_more_elements_than_there_are_bytes() {
        let list = [tag::MESSAGE_PACK, 0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2];
        let error = Value::from_bytes(&list).decode::<Trusting>().unwrap_err();
        assert_eq!(error.message, "told of 2");
        let mut list = vec![tag::BINCODE];
        list.extend_from_slice(&u64::MAX.to_le_bytes());
        list.extend_from_slice(&[1, 2, 3]);
        let error = Value::from_bytes(&list).decode::<Trusting>().unwrap_err();
        assert_eq!(error.message, "told of 3");
    }

    #[test]
    fn a_damaged_length_of_elements_without_bytes_comes_to_an_end() {
        for len in [1u64 << 63, 1 << 40] {
            let mut bytes = vec![tag::BINCODE];
            bytes.extend_from_slice(&len.to_le_bytes());
            let value = Value::from_bytes(&bytes);
            let error = value.decode::<Vec<()>>().unwrap_err();
            assert!(error.message.contains("elements without bytes"), "{error}");
            assert!(value.decode::<HashMap<(), ()>>().is_err());
        }
        // Such lists of a length that somebody could mean are values.
        let many = vec![(); 100_000];
        let value = Value::encode(&many, Codec::Bincode).unwrap();
        assert_eq!(value.decode::<Vec<()>>().unwrap(), many);
        let error = Value::encode(&vec![(); (1 << 24) + 1], Codec::Bincode).unwrap_err();
        assert!(error.to_string().contains("without bytes"), "{error}");
    }

    #[test]
    fn a_bincode_value_nested_too_deep_is_an_error() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Deep {
            next: Option<Box<Deep>>,
        }
        let mut bytes = vec![tag::BINCODE];
        bytes.extend([1; 10_000]);
        bytes.push(0);
        let error = Value::from_bytes(&bytes).decode::<Deep>().unwrap_err();
        assert!(error.message.contains("depth limit"), "{error}");
        let deepest = (1..256).fold(Deep { next: None }, |next, _| Deep {
            next: Some(Box::new(next)),
        });
        let value = Value::encode(&deepest, Codec::Bincode).unwrap();
        assert!(value.decode::<Deep>().is_ok());
    }
}
