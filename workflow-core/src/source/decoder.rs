//! The deserializer over a source: it hands serde the structure that a source or a tag stands for, and all else to the codec that a
//! value's tag names.

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::unbin::Unbin;
use super::unpack::Unpacker;
use super::{DecodeError, Source};
use crate::value::parts::{CutOff, Elements, variant};
use crate::value::{Value, split_header, tag};

/// A deserializer over a source, or over the bytes of one value.
#[derive(Clone, Copy)]
pub(super) enum Decoder<'a> {
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

    pub(super) fn of(source: &'a Source) -> Self {
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
                let mut decoder = Unpacker::new(bytes);
                decoder.$method($($arg,)* $visitor).map_err(DecodeError::new)
            }
            Decoder::Bytes([tag::BINCODE, bytes @ ..]) => {
                let mut decoder = Unbin::new(bytes);
                let decoded = decoder.$method($($arg,)* $visitor).map_err(DecodeError::new)?;
                // bincode does not say what a value is of: one of a longer type would be read as its beginning.
                if !decoder.bytes.is_empty() {
                    return Err(DecodeError::new(format_args!("there are {} bytes behind the value", decoder.bytes.len())));
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
        // As it was written: see `pack`.
        !matches!(self, Self::Bytes([tag::BINCODE, ..]))
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
