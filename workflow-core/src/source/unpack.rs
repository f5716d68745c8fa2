//! The deserializer of MessagePack values.
//!
//! It reads all that `rmp-serde` reads, and in addition what stands for `Some` of nil: see [`pack`](crate::value::pack).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::str;

use rmp::Marker;
use serde::de::value::SeqDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Unexpected, VariantAccess, Visitor,
};

use crate::texts;
use crate::value::pack::{EXT_STRUCT, MAX_DEPTH, SOME_OF_NIL};

thread_local! {
    static IS_NOTING: Cell<bool> = const { Cell::new(false) };
    static IGNORED: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
}

/// Does what decodes one value, and returns the parts of it that its type did not read. They are counted from the end of the
/// value.
pub(crate) fn noting_ignored(decode: impl FnOnce()) -> Vec<Range<usize>> {
    struct Restore(bool, Vec<Range<usize>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_NOTING.set(self.0);
            IGNORED.set(std::mem::take(&mut self.1));
        }
    }
    let _restore = Restore(IS_NOTING.replace(true), IGNORED.take());
    decode();
    IGNORED.take()
}

/// A deserializer over the bytes of one value, and what follows them.
pub(super) struct Unpacker<'de> {
    bytes: &'de [u8],
    /// How many levels are around what is read next.
    depth: u32,
}

/// Why bytes are not a value of the type asked for.
#[derive(Debug)]
pub(super) struct UnpackError(Box<str>);

impl UnpackError {
    #[cold]
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self(texts::kept(message).into())
    }
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnpackError {}

impl de::Error for UnpackError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}

/// What is read next, without what it holds.
enum Token<'de> {
    Nil,
    Bool(bool),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    Text(&'de [u8]),
    Bytes(&'de [u8]),
    Array(u32),
    Map(u32),
    /// `Some` of nil, so many times.
    Somes(u8),
    /// Another extension of MessagePack: all of its bytes.
    Ext(&'de [u8]),
}

impl<'de> Unpacker<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Self { bytes, depth: 0 }
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

    fn len8(&mut self) -> Result<u32, UnpackError> {
        Ok(self.array::<1>()?[0].into())
    }

    fn len16(&mut self) -> Result<u32, UnpackError> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }

    fn len32(&mut self) -> Result<u32, UnpackError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn take_len(&mut self, len: u32) -> Result<&'de [u8], UnpackError> {
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn peek(&self) -> Option<Marker> {
        self.bytes.first().copied().map(Marker::from_u8)
    }

    /// A number of 128 bits, which are bytes in MessagePack.
    fn wide(&mut self) -> Option<[u8; 16]> {
        let (number, rest) = self.bytes.strip_prefix(&[0xc4, 16])?.split_first_chunk()?;
        self.bytes = rest;
        Some(*number)
    }

    fn token(&mut self) -> Result<Token<'de>, UnpackError> {
        let from = self.bytes;
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Token::Nil,
            Marker::True => Token::Bool(true),
            Marker::False => Token::Bool(false),
            Marker::FixPos(number) => Token::U8(number),
            Marker::FixNeg(number) => Token::I8(number),
            Marker::U8 => Token::U8(u8::from_be_bytes(self.array()?)),
            Marker::U16 => Token::U16(u16::from_be_bytes(self.array()?)),
            Marker::U32 => Token::U32(u32::from_be_bytes(self.array()?)),
            Marker::U64 => Token::U64(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Token::I8(i8::from_be_bytes(self.array()?)),
            Marker::I16 => Token::I16(i16::from_be_bytes(self.array()?)),
            Marker::I32 => Token::I32(i32::from_be_bytes(self.array()?)),
            Marker::I64 => Token::I64(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::F32(f32::from_be_bytes(self.array()?)),
            Marker::F64 => Token::F64(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(len) => Token::Text(self.take(len.into())?),
            Marker::Str8 => {
                let len = self.len8()?;
                Token::Text(self.take_len(len)?)
            }
            Marker::Str16 => {
                let len = self.len16()?;
                Token::Text(self.take_len(len)?)
            }
            Marker::Str32 => {
                let len = self.len32()?;
                Token::Text(self.take_len(len)?)
            }
            Marker::Bin8 => {
                let len = self.len8()?;
                Token::Bytes(self.take_len(len)?)
            }
            Marker::Bin16 => {
                let len = self.len16()?;
                Token::Bytes(self.take_len(len)?)
            }
            Marker::Bin32 => {
                let len = self.len32()?;
                Token::Bytes(self.take_len(len)?)
            }
            Marker::FixArray(len) => Token::Array(len.into()),
            Marker::Array16 => Token::Array(self.len16()?),
            Marker::Array32 => Token::Array(self.len32()?),
            Marker::FixMap(len) => Token::Map(len.into()),
            Marker::Map16 => Token::Map(self.len16()?),
            Marker::Map32 => Token::Map(self.len32()?),
            Marker::FixExt1 => self.ext(from, 1)?,
            Marker::FixExt2 => self.ext(from, 2)?,
            Marker::FixExt4 => self.ext(from, 4)?,
            Marker::FixExt8 => self.ext(from, 8)?,
            Marker::FixExt16 => self.ext(from, 16)?,
            Marker::Ext8 => {
                let len = self.len8()?;
                self.ext(from, len)?
            }
            Marker::Ext16 => {
                let len = self.len16()?;
                self.ext(from, len)?
            }
            Marker::Ext32 => {
                let len = self.len32()?;
                self.ext(from, len)?
            }
            Marker::Reserved => {
                return Err(UnpackError::new(
                    "MessagePack has no value that begins with 0xc1",
                ));
            }
        })
    }

    /// An extension whose bytes begin `from`, of which so many are its data.
    #[cold]
    fn ext(&mut self, from: &'de [u8], len: u32) -> Result<Token<'de>, UnpackError> {
        let [kind] = self.array()?;
        let data = self.take_len(len)?;
        Ok(match (kind.cast_signed(), data) {
            (SOME_OF_NIL, [0]) => {
                return Err(UnpackError::new("what stands for `Some` of nil is damaged"));
            }
            (SOME_OF_NIL, [somes]) => Token::Somes(*somes),
            _ => Token::Ext(&from[..from.len() - self.bytes.len()]),
        })
    }

    /// Reads what has parts, one level further in.
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

    /// Reads whatever stands next. Bytes are a list of numbers where a list is asked for.
    fn read<V: Visitor<'de>>(
        &mut self,
        visitor: V,
        is_list: bool,
    ) -> Result<V::Value, UnpackError> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::U8(number) => visitor.visit_u8(number),
            Token::U16(number) => visitor.visit_u16(number),
            Token::U32(number) => visitor.visit_u32(number),
            Token::U64(number) => visitor.visit_u64(number),
            Token::I8(number) => visitor.visit_i8(number),
            Token::I16(number) => visitor.visit_i16(number),
            Token::I32(number) => visitor.visit_i32(number),
            Token::I64(number) => visitor.visit_i64(number),
            Token::F32(number) => visitor.visit_f32(number),
            Token::F64(number) => visitor.visit_f64(number),
            Token::Text(bytes) => match str::from_utf8(bytes) {
                Ok(text) => visitor.visit_borrowed_str(text),
                // Some types take bytes as well.
                Err(error) => visitor
                    .visit_borrowed_bytes(bytes)
                    .map_err(|_: UnpackError| UnpackError::new(error)),
            },
            Token::Bytes(bytes) if is_list => {
                visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
            }
            Token::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Token::Array(len) => self.within(|this| {
                let mut parts = Parts::new(this, len);
                let value = visitor.visit_seq(&mut parts)?;
                parts.end()?;
                Ok(value)
            }),
            Token::Map(len) => self.within(|this| {
                let mut parts = Parts::new(this, len);
                let value = visitor.visit_map(&mut parts)?;
                parts.end()?;
                Ok(value)
            }),
            Token::Somes(n) => visitor.visit_some(Somes(n - 1)),
            Token::Ext(bytes) => {
                let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
                decoder.deserialize_any(visitor).map_err(UnpackError::new)
            }
        }
    }
}

macro_rules! read_whatever {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
                self.read(visitor, false)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Unpacker<'de> {
    type Error = UnpackError;

    read_whatever! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_map deserialize_identifier
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        let before = self.bytes.len();
        let ignored = self.read(visitor, false)?;
        if IS_NOTING.get() {
            IGNORED.with_borrow_mut(|noted| noted.push(self.bytes.len()..before));
        }
        Ok(ignored)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.wide() {
            Some(number) => visitor.visit_i128(i128::from_be_bytes(number)),
            None => self.read(visitor, false),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.wide() {
            Some(number) => visitor.visit_u128(u128::from_be_bytes(number)),
            None => self.read(visitor, false),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.peek() {
            Some(Marker::Null) => {
                self.token()?;
                visitor.visit_none()
            }
            Some(Marker::FixExt1) => {
                let before = self.bytes;
                if let Token::Somes(n) = self.token()? {
                    return visitor.visit_some(Somes(n - 1));
                }
                self.bytes = before;
                visitor.visit_some(self)
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        match self.peek() {
            // As `rmp-serde` writes it.
            Some(Marker::FixArray(0)) => {
                self.token()?;
                visitor.visit_unit()
            }
            _ => self.read(visitor, false),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        if name != EXT_STRUCT {
            return visitor.visit_newtype_struct(self);
        }
        let Token::Ext(bytes) = self.token()? else {
            return Err(UnpackError::new("it is no extension of MessagePack"));
        };
        let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
        let read = decoder.deserialize_newtype_struct(name, visitor);
        read.map_err(UnpackError::new)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        self.read(visitor, true)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.read(visitor, true)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.read(visitor, true)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.read(visitor, true)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        match self.peek() {
            Some(Marker::FixMap(1)) => {
                self.token()?;
                self.within(|this| visitor.visit_enum(Variant { of: this }))
            }
            // Another map, or a list, is no variant, and says so.
            _ => visitor.visit_enum(UnitVariant { of: self }),
        }
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// The elements of a list, or the entries of a map.
struct Parts<'u, 'de> {
    of: &'u mut Unpacker<'de>,
    left: u32,
    len: u32,
}

impl<'u, 'de> Parts<'u, 'de> {
    fn new(of: &'u mut Unpacker<'de>, len: u32) -> Self {
        let left = len;
        Self { of, left, len }
    }

    fn end(self) -> Result<(), UnpackError> {
        match self.left {
            0 => Ok(()),
            left => Err(UnpackError::new(format_args!(
                "it has {} parts, and {} are expected",
                self.len,
                self.len - left
            ))),
        }
    }

    /// No more than there can be: each part has a byte.
    fn hint(&self) -> Option<usize> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        Some(left.min(self.of.bytes.len()))
    }
}

impl<'de> de::SeqAccess<'de> for &mut Parts<'_, 'de> {
    type Error = UnpackError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, UnpackError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.of).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::MapAccess<'de> for &mut Parts<'_, 'de> {
    type Error = UnpackError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, UnpackError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.of).map(Some)
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

/// A variant that holds something.
struct Variant<'u, 'de> {
    of: &'u mut Unpacker<'de>,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = UnpackError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), UnpackError> {
        Ok((seed.deserialize(&mut *self.of)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = UnpackError;

    fn unit_variant(self) -> Result<(), UnpackError> {
        match self.of.token()? {
            Token::Nil => Ok(()),
            _ => Err(UnpackError::new("the variant holds something")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, UnpackError> {
        seed.deserialize(self.of)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.of.read(visitor, true)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        self.of.read(visitor, true)
    }
}

/// A variant that holds nothing.
struct UnitVariant<'u, 'de> {
    of: &'u mut Unpacker<'de>,
}

impl UnitVariant<'_, '_> {
    fn holds_nothing(expected: &'static str) -> UnpackError {
        de::Error::invalid_type(Unexpected::UnitVariant, &expected)
    }
}

impl<'de> EnumAccess<'de> for UnitVariant<'_, 'de> {
    type Error = UnpackError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), UnpackError> {
        Ok((seed.deserialize(&mut *self.of)?, self))
    }
}

impl<'de> VariantAccess<'de> for UnitVariant<'_, 'de> {
    type Error = UnpackError;

    fn unit_variant(self) -> Result<(), UnpackError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, UnpackError> {
        Err(Self::holds_nothing("newtype variant"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, UnpackError> {
        Err(Self::holds_nothing("tuple variant"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, UnpackError> {
        Err(Self::holds_nothing("struct variant"))
    }
}

/// What a `Some` of nil holds: nil, or `Some` of it so many times.
struct Somes(u8);

impl<'de> Deserializer<'de> for Somes {
    type Error = UnpackError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.0 {
            0 => visitor.visit_unit(),
            n => visitor.visit_some(Self(n - 1)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, UnpackError> {
        match self.0 {
            0 => visitor.visit_none(),
            n => visitor.visit_some(Self(n - 1)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, UnpackError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}
