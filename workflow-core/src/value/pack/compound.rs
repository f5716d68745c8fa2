//! What a value is made of: elements, entries and fields.

use std::borrow::Cow;

use rmp::encode as msgpack;
use serde::ser::{self, Serialize};

use super::{MAX_EMPTY, PackError, Packer, length};

/// A list, a tuple, a map or a struct that is being written.
pub(in crate::value) struct Compound<'p, 'o> {
    packer: &'p mut Packer<'o>,
    /// How many elements, entries or fields it said that it has.
    len: Option<usize>,
    /// How many there were.
    n: usize,
    /// Where its own bytes begin.
    start: usize,
    /// Where the last key was written.
    key: usize,
    is_map: bool,
    /// Whether its length stands before it in bincode.
    is_counted: bool,
    variant: Option<&'static str>,
    levels: u32,
    name: &'static str,
}

impl<'p, 'o> Compound<'p, 'o> {
    fn new(
        packer: &'p mut Packer<'o>,
        len: Option<usize>,
        is_map: bool,
    ) -> Result<Self, PackError> {
        packer.enter()?;
        let start = packer.out.len();
        Ok(Self {
            packer,
            len,
            n: 0,
            start,
            key: start,
            is_map,
            is_counted: false,
            variant: None,
            levels: 1,
            name: "",
        })
    }

    pub(super) fn seq(packer: &'p mut Packer<'o>, len: Option<usize>) -> Result<Self, PackError> {
        let mut this = Self::new(packer, len, false)?;
        this.is_counted = true;
        match (len, this.packer.is_bincode()) {
            (Some(len), true) => this.packer.put_len(len),
            (None, true) => return Err(no_length()),
            (Some(len), false) => {
                msgpack::write_array_len(this.packer.out, length(len)?)?;
            }
            (None, false) => {}
        }
        Ok(this)
    }

    pub(super) fn map(packer: &'p mut Packer<'o>, len: Option<usize>) -> Result<Self, PackError> {
        let mut this = Self::new(packer, len, true)?;
        this.is_counted = true;
        match (len, this.packer.is_bincode()) {
            (Some(len), true) => this.packer.put_len(len),
            (None, true) => return Err(no_length()),
            (Some(len), false) => {
                msgpack::write_map_len(this.packer.out, length(len)?)?;
            }
            (None, false) => {}
        }
        Ok(this)
    }

    pub(super) fn tuple(packer: &'p mut Packer<'o>, len: usize) -> Result<Self, PackError> {
        let this = Self::new(packer, Some(len), false)?;
        if !this.packer.is_bincode() {
            msgpack::write_array_len(this.packer.out, length(len)?)?;
        }
        Ok(this)
    }

    /// A struct: fields with their names, or one after the other in bincode.
    pub(super) fn of_fields(packer: &'p mut Packer<'o>, len: usize) -> Result<Self, PackError> {
        let this = Self::new(packer, Some(len), true)?;
        if !this.packer.is_bincode() {
            msgpack::write_map_len(this.packer.out, length(len)?)?;
        }
        Ok(this)
    }

    /// The fields of a variant, whose name was written before them.
    pub(super) fn of_variant(mut self, variant: &'static str) -> Self {
        self.variant = Some(variant);
        if !self.packer.is_bincode() {
            self.levels += 1;
        }
        self
    }

    /// The fields of a struct that is called so.
    pub(super) fn called(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    pub(super) fn at(&self) -> usize {
        self.packer.out.len()
    }

    pub(super) fn begin_set(&mut self) -> usize {
        self.packer.in_sets += 1;
        self.at()
    }

    pub(super) fn end_set(&mut self, from: usize, ends: &[usize]) {
        self.packer.in_sets -= 1;
        self.sort(from, ends);
    }

    /// Puts what was written from `from` on, and ends where `ends` say, in the order of its bytes.
    pub(super) fn sort(&mut self, from: usize, ends: &[usize]) {
        let bytes = self.packer.out.as_bytes();
        let starts = std::iter::once(&from).chain(ends);
        let mut parts: Vec<&[u8]> = starts
            .zip(ends)
            .filter_map(|(start, end)| bytes.get(*start..*end))
            .collect();
        if parts.is_sorted() {
            return;
        }
        parts.sort_unstable();
        let sorted = parts.concat();
        self.packer.out.replace_from(from, &sorted);
    }

    /// Names a part of this in the path of an error.
    #[cold]
    fn named(&self, error: PackError, part: Cow<'static, str>) -> PackError {
        let error = error.within(part);
        match self.variant {
            Some(variant) => error.within(Cow::Owned(format!(".{variant}"))),
            None => error,
        }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        let written = value.serialize(&mut *self.packer);
        if let Err(error) = written {
            return Err(self.named(error, Cow::Owned(format!("[{}]", self.n))));
        }
        self.n += 1;
        Ok(())
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        match self.packer.is_bincode() {
            true => self.packer.of_struct = self.name,
            false => msgpack::write_str(self.packer.out, name)?,
        }
        let written = value.serialize(&mut *self.packer);
        if let Err(error) = written {
            return Err(self.named(error, Cow::Owned(format!(".{name}"))));
        }
        self.n += 1;
        Ok(())
    }

    fn skip(&mut self, name: &'static str) -> Result<(), PackError> {
        if self.packer.is_bincode() {
            let error = PackError::new(
                "bincode has no names of fields, so that none may be left out: take away `skip_serializing_if`, or the \
                 step's `codec = \"bincode\"`",
            );
            return Err(self.named(error, Cow::Owned(format!(".{name}"))));
        }
        self.packer.doubts.skipped = true;
        Ok(())
    }

    fn finish(self) -> Result<(), PackError> {
        self.packer.depth -= self.levels;
        if self.is_counted && self.packer.is_bincode() && self.at() - self.start == 8 {
            // Nothing but the length.
            self.packer.empty = self.packer.empty.saturating_add(self.n);
            if self.packer.empty > MAX_EMPTY {
                return Err(PackError::new(format_args!(
                    "bincode takes at most {MAX_EMPTY} elements without bytes"
                )));
            }
        }
        match self.len {
            Some(len) if len == self.n => Ok(()),
            Some(len) => Err(PackError::new(format_args!(
                "its type says that it has {len} parts, and writes {}",
                self.n
            ))),
            None => self.put_head(),
        }
    }

    /// Puts the number of the elements or entries before them, which was not known.
    fn put_head(self) -> Result<(), PackError> {
        let parts = self.packer.out.as_bytes().get(self.start..);
        let parts = parts.unwrap_or_default().to_vec();
        self.packer.out.replace_from(self.start, &[]);
        let n = length(self.n)?;
        match self.is_map {
            true => msgpack::write_map_len(self.packer.out, n)?,
            false => msgpack::write_array_len(self.packer.out, n)?,
        };
        self.packer.out.put(&parts);
        Ok(())
    }
}

#[cold]
fn no_length() -> PackError {
    PackError::new(
        "bincode takes lists and maps of a known length only, which `flatten` does not make: take away the step's \
         `codec = \"bincode\"`",
    )
}

impl ser::SerializeSeq for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        self.element(value)
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}

impl ser::SerializeTuple for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        self.element(value)
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}

impl ser::SerializeTupleStruct for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        self.element(value)
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}

impl ser::SerializeTupleVariant for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        self.element(value)
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), PackError> {
        self.key = self.at();
        let written = key.serialize(&mut *self.packer);
        written.map_err(|error| self.named(error, Cow::Borrowed("[key]")))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PackError> {
        let at = self.at();
        let written = value.serialize(&mut *self.packer);
        if let Err(error) = written {
            let key = self.packer.out.as_bytes().get(self.key..at);
            let key = key.and_then(|key| rmp::decode::read_str_from_slice(key).ok());
            let key = key.map_or(Cow::Borrowed("[]"), |(key, _)| {
                Cow::Owned(format!(".{key}"))
            });
            return Err(self.named(error, key));
        }
        self.n += 1;
        Ok(())
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}

impl ser::SerializeStruct for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        self.field(name, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), PackError> {
        self.skip(name)
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}

impl ser::SerializeStructVariant for Compound<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        self.field(name, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), PackError> {
        self.skip(name)
    }

    fn end(self) -> Result<(), PackError> {
        self.finish()
    }
}
