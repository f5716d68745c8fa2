//! The serializer of stored values, for both codecs.
//!
//! The codecs' own serializers write some values so that nothing can read them, or so that they are read as others. This one writes
//! the same bytes for all that is read as it was, and differs where it is not:
//!
//! - `Some(x)`, where `x` is nil in MessagePack, is not nil but says how many times it is `Some`.
//! - A set that has no order is written in order of its elements' bytes, so that equal sets are equal bytes.
//! - Unit structs are nil in MessagePack: only so can they be part of an untagged enum.
//! - MessagePack values say that they are for people (`is_human_readable`). serde's own buffers, behind `untagged`, `tag` and
//!   `flatten`, always say so, and a type must be told the same when it is written and when it is read.
//! - What cannot be read is an error, which names the field: values nested too deep, a field that bincode would leave out.

mod compound;

use std::borrow::Cow;
use std::fmt;

use rmp::encode as msgpack;
use serde::ser::{self, Serialize, Serializer};

use super::Codec;
use super::buffer::Encoding;
use super::encoding::shown;
use super::readable::{NO_FORM, form};
use crate::texts;
use compound::Compound;

/// How deep a value may nest: lists, maps, structs and variants with fields. Deeper ones would take more stack when they are read
/// than a thread of tokio has in a debug build.
pub(crate) const MAX_DEPTH: u32 = 256;

/// How many elements of lists may have no bytes in bincode, such as `()`: a damaged length would be read without an end.
pub(crate) const MAX_EMPTY: usize = 1 << 24;

/// The MessagePack extension type of a value that is `Some` of nil: its one byte says how many times it is `Some`.
pub(crate) const SOME_OF_NIL: i8 = 107;
pub(super) const NIL: u8 = 0xc0;
const FIXEXT_1: u8 = 0xd4;
/// The name that `rmp-serde` gives to types which are an extension of MessagePack.
pub(crate) const EXT_STRUCT: &str = rmp_serde::MSGPACK_EXT_STRUCT_NAME;

/// What is in a value that not every type which writes it can read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Doubts {
    /// A number of 128 bits, which serde cannot buffer.
    pub(super) wide: bool,
    /// A field was left out. Whether the type has a default for it, only reading can tell.
    pub(super) skipped: bool,
    /// A struct in bincode whose first field seems to be the tag of an enum with `tag` and `content`.
    pub(super) tagged: bool,
    /// Which structs and variants it has: a bit for each, and [`NO_FORM`].
    pub(super) forms: u64,
}

/// A serializer that appends to bytes.
pub(super) struct Packer<'o> {
    out: &'o mut Encoding,
    codec: Codec,
    depth: u32,
    doubts: Doubts,
    /// How many sets are around what is being written: in one, maps are written in order too.
    in_sets: u32,
    /// The struct whose field is written next.
    of_struct: &'static str,
    /// How many elements of lists had no bytes.
    empty: usize,
}

impl<'o> Packer<'o> {
    pub(super) fn new(out: &'o mut Encoding, codec: Codec) -> Self {
        Self {
            out,
            codec,
            depth: 0,
            doubts: Doubts::default(),
            in_sets: 0,
            of_struct: "",
            empty: 0,
        }
    }

    pub(super) fn doubts(&self) -> Doubts {
        let mut doubts = self.doubts;
        doubts.forms |= NO_FORM;
        doubts
    }

    fn is_bincode(&self) -> bool {
        self.codec == Codec::Bincode
    }

    fn enter(&mut self) -> Result<(), PackError> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(PackError::new(format_args!(
                "it is nested deeper than {MAX_DEPTH} levels"
            ))),
            false => Ok(()),
        }
    }

    fn put_len(&mut self, len: usize) {
        self.out.put(&(len as u64).to_le_bytes());
    }

    fn put_variant(&mut self, index: u32, name: &'static str) -> Result<(), PackError> {
        if self.is_bincode() {
            self.out.put(&index.to_le_bytes());
            return Ok(());
        }
        self.enter()?;
        msgpack::write_map_len(self.out, 1)?;
        Ok(msgpack::write_str(self.out, name)?)
    }

    /// Makes nil, or `Some` of nil, that was written from `at` on, one more `Some` of it.
    #[inline]
    fn mark_some(&mut self, at: usize) -> Result<(), PackError> {
        const EXT: u8 = SOME_OF_NIL.cast_unsigned();
        if self.out.len() - at > 3 {
            return Ok(());
        }
        let n = match self.out.as_bytes().get(at..) {
            Some([NIL]) => Some(1),
            Some([FIXEXT_1, EXT, n]) => n.checked_add(1),
            _ => return Ok(()),
        };
        let n = n.ok_or_else(|| PackError::new("it is `Some` more than 255 times"))?;
        self.out.replace_from(at, &[FIXEXT_1, EXT, n]);
        Ok(())
    }

    /// Writes a value that is an extension of MessagePack.
    fn put_ext<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        let mut bytes = Vec::new();
        let mut encoder = rmp_serde::Serializer::new(&mut bytes);
        let written = encoder.serialize_newtype_struct(EXT_STRUCT, value);
        written.map_err(PackError::new)?;
        if bytes.starts_with(&[FIXEXT_1, SOME_OF_NIL.cast_unsigned()]) {
            return Err(PackError::new(format_args!(
                "MessagePack extension {SOME_OF_NIL} of one byte is keepstep's own: take another"
            )));
        }
        self.out.put(&bytes);
        Ok(())
    }
}

/// Writes a number as bincode has it, or as MessagePack does.
macro_rules! numbers {
    ($($method:ident $type:ty => $write:ident as $wide:ty;)*) => {
        $(
            #[inline]
            fn $method(self, value: $type) -> Result<(), PackError> {
                if self.is_bincode() {
                    self.out.put(&value.to_le_bytes());
                    return Ok(());
                }
                msgpack::$write(self.out, <$wide>::from(value))?;
                Ok(())
            }
        )*
    };
}

impl<'p, 'o> Serializer for &'p mut Packer<'o> {
    type Ok = ();
    type Error = PackError;
    type SerializeSeq = Compound<'p, 'o>;
    type SerializeTuple = Compound<'p, 'o>;
    type SerializeTupleStruct = Compound<'p, 'o>;
    type SerializeTupleVariant = Compound<'p, 'o>;
    type SerializeMap = Compound<'p, 'o>;
    type SerializeStruct = Compound<'p, 'o>;
    type SerializeStructVariant = Compound<'p, 'o>;

    numbers! {
        serialize_i8 i8 => write_sint as i64;
        serialize_i16 i16 => write_sint as i64;
        serialize_i32 i32 => write_sint as i64;
        serialize_i64 i64 => write_sint as i64;
        serialize_u8 u8 => write_uint as u64;
        serialize_u16 u16 => write_uint as u64;
        serialize_u32 u32 => write_uint as u64;
        serialize_u64 u64 => write_uint as u64;
        serialize_f32 f32 => write_f32 as f32;
        serialize_f64 f64 => write_f64 as f64;
    }

    fn serialize_bool(self, value: bool) -> Result<(), PackError> {
        let byte = match self.codec {
            Codec::Bincode => u8::from(value),
            Codec::MessagePack => 0xc2 + u8::from(value),
        };
        self.out.put(&[byte]);
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<(), PackError> {
        self.doubts.wide = true;
        match self.codec {
            Codec::Bincode => self.out.put(&value.to_le_bytes()),
            Codec::MessagePack => msgpack::write_bin(self.out, &value.to_be_bytes())?,
        }
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<(), PackError> {
        self.doubts.wide = true;
        match self.codec {
            Codec::Bincode => self.out.put(&value.to_le_bytes()),
            Codec::MessagePack => msgpack::write_bin(self.out, &value.to_be_bytes())?,
        }
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), PackError> {
        let mut bytes = [0; 4];
        let text = value.encode_utf8(&mut bytes);
        match self.codec {
            Codec::Bincode => self.out.put(text.as_bytes()),
            Codec::MessagePack => msgpack::write_str(self.out, text)?,
        }
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), PackError> {
        if self.is_bincode() {
            return self.serialize_bytes(value.as_bytes());
        }
        length(value.len())?;
        Ok(msgpack::write_str(self.out, value)?)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), PackError> {
        if self.is_bincode() {
            self.put_len(value.len());
            self.out.put(value);
            return Ok(());
        }
        length(value.len())?;
        Ok(msgpack::write_bin(self.out, value)?)
    }

    fn serialize_none(self) -> Result<(), PackError> {
        self.out.put(match self.codec {
            Codec::Bincode => &[0],
            Codec::MessagePack => &[NIL],
        });
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), PackError> {
        if self.is_bincode() {
            self.out.put(&[1]);
            return value.serialize(self);
        }
        let at = self.out.len();
        value.serialize(&mut *self)?;
        self.mark_some(at)
    }

    fn serialize_unit(self) -> Result<(), PackError> {
        if !self.is_bincode() {
            self.out.put(&[NIL]);
        }
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), PackError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<(), PackError> {
        self.doubts.forms |= form(name, index as usize);
        if self.is_bincode() {
            // serde writes such a tag as a variant of the enum's name, and cannot read it without the names of fields.
            self.doubts.tagged |= self.of_struct == name;
            return self.put_variant(index, variant);
        }
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        if name == EXT_STRUCT && !self.is_bincode() {
            return self.put_ext(value);
        }
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        self.doubts.forms |= form(name, index as usize);
        if self.is_bincode() {
            // Nothing counts as a level but here, where the type may hold itself.
            self.enter()?;
        }
        self.put_variant(index, variant)?;
        let written = value.serialize(&mut *self);
        written.map_err(|error| error.within(Cow::Owned(format!(".{variant}"))))?;
        self.depth -= 1;
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'p, 'o>, PackError> {
        Compound::seq(self, len)
    }

    fn serialize_tuple(self, len: usize) -> Result<Compound<'p, 'o>, PackError> {
        Compound::tuple(self, len)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Compound<'p, 'o>, PackError> {
        self.doubts.forms |= form(name, len);
        Compound::tuple(self, len)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'p, 'o>, PackError> {
        self.doubts.forms |= form(name, index as usize);
        self.put_variant(index, variant)?;
        Ok(Compound::tuple(self, len)?.of_variant(variant))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Compound<'p, 'o>, PackError> {
        Compound::map(self, len)
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Compound<'p, 'o>, PackError> {
        self.doubts.forms |= form(name, len);
        Ok(Compound::of_fields(self, len)?.called(name))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'p, 'o>, PackError> {
        self.doubts.forms |= form(name, index as usize);
        self.put_variant(index, variant)?;
        Ok(Compound::of_fields(self, len)?.of_variant(variant))
    }

    fn collect_seq<I>(self, iter: I) -> Result<(), PackError>
    where
        I: IntoIterator,
        I::Item: Serialize,
    {
        let is_set = is_set(std::any::type_name::<I>());
        let iter = iter.into_iter();
        let mut seq = Compound::seq(self, exact_len(&iter))?;
        if !is_set {
            for element in iter {
                ser::SerializeSeq::serialize_element(&mut seq, &element)?;
            }
            return ser::SerializeSeq::end(seq);
        }
        let from = seq.begin_set();
        let mut ends = Vec::new();
        for element in iter {
            ser::SerializeSeq::serialize_element(&mut seq, &element)?;
            ends.push(seq.at());
        }
        seq.end_set(from, &ends);
        ser::SerializeSeq::end(seq)
    }

    fn collect_map<K, V, I>(self, iter: I) -> Result<(), PackError>
    where
        K: Serialize,
        V: Serialize,
        I: IntoIterator<Item = (K, V)>,
    {
        let is_sorted = self.in_sets > 0 && is_hash_map(std::any::type_name::<I>());
        let iter = iter.into_iter();
        let mut map = Compound::map(self, exact_len(&iter))?;
        let (from, mut ends) = (map.at(), Vec::new());
        for (key, value) in iter {
            ser::SerializeMap::serialize_entry(&mut map, &key, &value)?;
            if is_sorted {
                ends.push(map.at());
            }
        }
        if is_sorted {
            map.sort(from, &ends);
        }
        ser::SerializeMap::end(map)
    }

    fn is_human_readable(&self) -> bool {
        !self.is_bincode()
    }
}

fn exact_len(iter: &impl Iterator) -> Option<usize> {
    match iter.size_hint() {
        (low, Some(high)) if low == high => Some(low),
        _ => None,
    }
}

/// MessagePack takes no more.
fn length(len: usize) -> Result<u32, PackError> {
    u32::try_from(len).map_err(|_| PackError::new("it is longer than 4 GiB"))
}

/// Whether a type that is collected is a set without an order. Nothing but its name tells it from a list.
fn is_set(type_name: &str) -> bool {
    let name = type_name.trim_start_matches('&');
    name.starts_with("std::collections::hash::set::HashSet<")
        || name.starts_with("hashbrown::set::HashSet<")
        || name.starts_with("alloc::collections::binary_heap::BinaryHeap<")
}

fn is_hash_map(type_name: &str) -> bool {
    let name = type_name.trim_start_matches('&');
    name.starts_with("std::collections::hash::map::HashMap<")
        || name.starts_with("hashbrown::map::HashMap<")
}

/// Why a value cannot be written, and where in it. The path begins with the innermost part.
#[derive(Debug)]
pub(super) struct PackError(Box<(String, Vec<Cow<'static, str>>)>);

impl PackError {
    #[cold]
    fn new(message: impl fmt::Display) -> Self {
        Self(Box::new((texts::kept(message), Vec::new())))
    }

    #[cold]
    fn within(mut self, part: Cow<'static, str>) -> Self {
        self.0.1.push(part);
        self
    }
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, path) = &*self.0;
        if path.is_empty() {
            return f.write_str(message);
        }
        let path: Vec<_> = path.iter().rev().cloned().collect();
        write!(f, "{}: {message}", shown(&path))
    }
}

impl std::error::Error for PackError {}

impl ser::Error for PackError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}

impl From<msgpack::ValueWriteError> for PackError {
    fn from(error: msgpack::ValueWriteError) -> Self {
        // Writing to memory does not fail.
        Self::new(error)
    }
}
