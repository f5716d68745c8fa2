//! The deserializer of bincode values.
//!
//! It reads what `bincode` 1.3 writes with integers of fixed width. That crate's own one believes whatever length a list
//! has whose elements have no bytes, so that it does not come to an end with a damaged one, and has no limit of how deep a
//! value may nest.

use std::str;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::unpack::UnpackError;
use crate::value::pack::{MAX_DEPTH, MAX_EMPTY};

/// A deserializer over the bytes of one value, and what follows them.
pub(super) struct Unbin<'de> {
    pub(super) bytes: &'de [u8],
    /// How many levels are around what is read next.
    depth: u32,
    /// How many elements had no bytes.
    empty: usize,
}

impl<'de> Unbin<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Self {
            bytes,
            depth: 0,
            empty: 0,
        }
    }

    fn take(&mut self, n: usize) -> Result<&'de [u8], UnpackError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(n)
            .ok_or_else(|| UnpackError::new("the value ends in the middle"))?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], UnpackError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or_else(|| UnpackError::new("the value ends in the middle"))?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn len(&mut self) -> Result<usize, UnpackError> {
        let len = u64::from_le_bytes(self.array()?);
        usize::try_from(len).map_err(|_| UnpackError::new("the value ends in the middle"))
    }

    fn counted(&mut self) -> Result<&'de [u8], UnpackError> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'de str, UnpackError> {
        str::from_utf8(self.counted()?).map_err(UnpackError::new)
    }

    /// Reads what has parts, one level further in. What counts as a level is what does when it is written.
    fn within<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, UnpackError>,
    ) -> Result<T, UnpackError> {
        if self.depth == MAX_DEPTH {
            return Err(UnpackError::new(format_args!(
                "depth limit exceeded: it is nested deeper than {MAX_DEPTH} levels"
            )));
        }
        self.depth += 1;
        let read = read(self)?;
        self.depth -= 1;
        Ok(read)
    }

    /// Reads so many parts without a length before them.
    fn tuple<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, UnpackError> {
        self.within(|of| {
            let from = usize::MAX;
            visitor.visit_seq(Parts {
                of,
                left: len,
                from,
            })
        })
    }
}

#[cold]
fn unsaid<T>() -> Result<T, UnpackError> {
    Err(UnpackError::new(
        "bincode does not say what stands there, as types behind `untagged`, `tag` and `flatten`, and those that take \
         anything, need it",
    ))
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
                visitor.$visit(<$type>::from_le_bytes(self.array()?))
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Unbin<'de> {
    type Error = UnpackError;

    numbers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, UnpackError> {
        unsaid()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, UnpackError> {
        unsaid()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, UnpackError> {
        unsaid()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.array()? {
            [0] => visitor.visit_bool(false),
            [1] => visitor.visit_bool(true),
            [other] => Err(UnpackError::new(format_args!("{other} is no `bool`"))),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        let len = match self.bytes.first() {
            Some(0..0x80) => 1,
            Some(0..0xe0) => 2,
            Some(0..0xf0) => 3,
            _ => 4,
        };
        let text = str::from_utf8(self.take(len)?).map_err(UnpackError::new)?;
        match text.chars().next() {
            Some(char) => visitor.visit_char(char),
            None => unsaid(),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        visitor.visit_borrowed_bytes(self.counted()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        visitor.visit_borrowed_bytes(self.counted()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.array()? {
            [0] => visitor.visit_none(),
            [1] => visitor.visit_some(self),
            [other] => Err(UnpackError::new(format_args!("{other} is no option"))),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        let left = self.len()?;
        self.within(|of| {
            let from = of.bytes.len();
            visitor.visit_seq(Parts { of, left, from })
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        let left = self.len()?;
        self.within(|of| {
            let from = of.bytes.len();
            visitor.visit_map(Parts { of, left, from })
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        visitor.visit_enum(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a list or of a tuple, or the entries of a map.
struct Parts<'u, 'de> {
    of: &'u mut Unbin<'de>,
    left: usize,
    /// How many bytes there were before the first of them; more than there can be, if nobody wrote how many parts there
    /// are.
    from: usize,
}

impl Parts<'_, '_> {
    /// Goes on to the next part; `false` if there is none.
    fn goes_on(&mut self) -> Result<bool, UnpackError> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        if self.of.bytes.len() == self.from {
            self.of.empty += 1;
            if self.of.empty > MAX_EMPTY {
                return Err(UnpackError::new(format_args!(
                    "it has more than {MAX_EMPTY} elements without bytes"
                )));
            }
        }
        Ok(true)
    }

    fn hint(&self) -> Option<usize> {
        Some(self.left.min(self.of.bytes.len()))
    }
}

impl<'de> SeqAccess<'de> for Parts<'_, 'de> {
    type Error = UnpackError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, UnpackError> {
        match self.goes_on()? {
            true => seed.deserialize(&mut *self.of).map(Some),
            false => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for Parts<'_, 'de> {
    type Error = UnpackError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, UnpackError> {
        match self.goes_on()? {
            true => seed.deserialize(&mut *self.of).map(Some),
            false => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, UnpackError> {
        seed.deserialize(&mut *self.of)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> EnumAccess<'de> for &mut Unbin<'de> {
    type Error = UnpackError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), UnpackError> {
        let index = u32::from_le_bytes(self.array()?);
        let index: de::value::U32Deserializer<UnpackError> = index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Unbin<'de> {
    type Error = UnpackError;

    fn unit_variant(self) -> Result<(), UnpackError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, UnpackError> {
        self.within(|of| seed.deserialize(of))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.tuple(fields.len(), visitor)
    }
}
