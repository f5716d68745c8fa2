//! Decoding what a step is given: stored values, and containers whose elements are stored values of their own.
//!
//! An argument such as `vec![a(), b()]` is never copied together: a [`Source`] hands serde each element from its own
//! bytes, whatever codec wrote it.

use std::fmt;
use std::sync::Arc;

use keepstep_storage::BlobId;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use smallvec::SmallVec;

use crate::object::{Objects, decoding};
use crate::value::parts::{CutOff, Elements, is_too_deep, variant};
use crate::value::{Value, is_plain, split_header, tag};

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
                        field: if field == "." { String::new() } else { field },
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
            message: message.to_string(),
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

/// How deep a value may nest. The codec's own limit, 1024, takes more stack than a thread of tokio has in a debug build.
const MAX_DEPTH: usize = 256;

/// A deserializer over a source, or over the bytes of one value.
#[derive(Clone, Copy)]
enum Decoder<'a> {
    Bytes(&'a [u8]),
    Seq(&'a [Source]),
    Map(&'a [(Value, Source)]),
    Some(&'a Source),
}

impl<'a> Decoder<'a> {
    /// A stored value, whichever objects it names.
    fn bytes(bytes: &'a [u8]) -> Self {
        Self::Bytes(split_header(bytes).1)
    }

    fn of(source: &'a Source) -> Self {
        match source {
            Source::Value(value) => Self::bytes(value.as_bytes()),
            Source::Seq(items) => Self::Seq(items),
            Source::Map(entries) => Self::Map(entries),
            Source::Some(inner) => Self::Some(inner),
        }
    }
}

/// Runs a deserializer method on the codec that a value's tag names, or on the structure a source stands for.
macro_rules! on_codec {
    ($self:ident, $visitor:ident, $method:ident ( $($arg:expr),* )) => {
        match $self {
            Decoder::Bytes([tag::MESSAGE_PACK, bytes @ ..]) => {
                let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
                decoder.set_max_depth(MAX_DEPTH);
                decoder.$method($($arg,)* $visitor).map_err(DecodeError::new)
            }
            Decoder::Bytes([tag::BINCODE, bytes @ ..]) => {
                // A length that is more than all of the bytes is refused before anything is allocated for it.
                let options = bincode::Options::with_limit(
                    bincode::Options::with_fixint_encoding(bincode::DefaultOptions::new()), bytes.len() as u64);
                let mut rest = bytes;
                let mut decoder = bincode::Deserializer::with_reader(&mut rest, options);
                let decoded = decoder.$method($($arg,)* $visitor).map_err(DecodeError::new)?;
                // bincode does not say what a value is of: one of a longer type would be read as its beginning.
                if !rest.is_empty() {
                    return Err(DecodeError::new(format_args!("there are {} bytes behind the value", rest.len())));
                }
                Ok(decoded)
            }
            Decoder::Bytes([tag::LIST, elements @ ..]) => $visitor.visit_seq(ListItems(Elements::of(elements))),
            Decoder::Bytes([tag @ (tag::OK | tag::LEFT | tag::RIGHT), inner @ ..]) => {
                visit_variant(Variant::new(*tag, inner), $visitor)
            }
            Decoder::Bytes([tag::BLOB, ..]) => Err(DecodeError::new("the value's blob was not loaded")),
            Decoder::Bytes([tag::OBJECTS, ..]) => Err(DecodeError::new("the list of the objects that the value names is cut off")),
            Decoder::Bytes([other, ..]) => {
                Err(DecodeError::new(format_args!("the value has codec tag {other}, which this version does not know")))
            }
            Decoder::Bytes([]) => Err(DecodeError::new("the value has no bytes")),
            Decoder::Seq(items) => $visitor.visit_seq(Items { items }),
            Decoder::Map(entries) => $visitor.visit_map(Entries { entries, value: None }),
            Decoder::Some(inner) => $visitor.visit_some(Decoder::of(inner)),
        }
    };
}

macro_rules! forward {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
                on_codec!(self, visitor, $method())
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Decoder<'de> {
    type Error = DecodeError;

    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        on_codec!(self, visitor, deserialize_unit_struct(name))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Self::Bytes(_) => on_codec!(self, visitor, deserialize_newtype_struct(name)),
            structure => visitor.visit_newtype_struct(structure),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        on_codec!(self, visitor, deserialize_tuple(len))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        on_codec!(self, visitor, deserialize_tuple_struct(name, len))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        on_codec!(self, visitor, deserialize_struct(name, fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Self::Bytes([tag @ (tag::OK | tag::LEFT | tag::RIGHT), inner @ ..]) => {
                visitor.visit_enum(Variant::new(*tag, inner))
            }
            _ => on_codec!(self, visitor, deserialize_enum(name, variants)),
        }
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// A variant that holds one value, as a tag says it.
#[derive(Clone, Copy)]
struct Variant<'de> {
    name: &'static str,
    inner: &'de [u8],
}

impl<'de> Variant<'de> {
    fn new(tag: u8, inner: &'de [u8]) -> Self {
        let name = variant(tag).unwrap_or("");
        Self { name, inner }
    }
}

/// A variant for a type that takes anything: a map with one entry, as the codecs write it.
fn visit_variant<'de, V: Visitor<'de>>(
    variant: Variant<'de>,
    visitor: V,
) -> Result<V::Value, DecodeError> {
    struct OneEntry<'de> {
        name: &'static str,
        inner: Option<&'de [u8]>,
        key_read: bool,
    }

    impl<'de> MapAccess<'de> for OneEntry<'de> {
        type Error = DecodeError;

        fn next_key_seed<K: DeserializeSeed<'de>>(
            &mut self,
            seed: K,
        ) -> Result<Option<K::Value>, DecodeError> {
            if std::mem::replace(&mut self.key_read, true) {
                return Ok(None);
            }
            seed.deserialize(StrDeserializer::new(self.name)).map(Some)
        }

        fn next_value_seed<S: DeserializeSeed<'de>>(
            &mut self,
            seed: S,
        ) -> Result<S::Value, DecodeError> {
            let inner = self
                .inner
                .take()
                .ok_or_else(|| DecodeError::new("the entry was read twice"))?;
            seed.deserialize(Decoder::bytes(inner))
        }
    }

    visitor.visit_map(OneEntry {
        name: variant.name,
        inner: Some(variant.inner),
        key_read: false,
    })
}

/// The elements of a stored list.
struct ListItems<'de>(Elements<'de>);

impl<'de> SeqAccess<'de> for ListItems<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        match self.0.next() {
            None => Ok(None),
            Some(Ok(element)) => seed.deserialize(Decoder::bytes(element)).map(Some),
            Some(Err(CutOff)) => Err(DecodeError::new("the list ends in the middle")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.clone().count())
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        Ok((
            seed.deserialize(StrDeserializer::<DecodeError>::new(self.name))?,
            self,
        ))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Err(DecodeError::new(format_args!(
            "`{}` holds a value",
            self.name
        )))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        seed.deserialize(Decoder::bytes(self.inner))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Decoder::bytes(self.inner).deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Decoder::bytes(self.inner).deserialize_struct(self.name, fields, visitor)
    }
}

struct Items<'de> {
    items: &'de [Source],
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((first, rest)) = self.items.split_first() else {
            return Ok(None);
        };
        self.items = rest;
        seed.deserialize(Decoder::of(first)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de> {
    entries: &'de [(Value, Source)],
    value: Option<&'de Source>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some(((key, value), rest)) = self.entries.split_first() else {
            return Ok(None);
        };
        self.entries = rest;
        self.value = Some(value);
        seed.deserialize(Decoder::bytes(key.as_bytes())).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        let value = self
            .value
            .take()
            .ok_or_else(|| DecodeError::new("a map's value was read before its key"))?;
        seed.deserialize(Decoder::of(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::value::Codec;

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
}
