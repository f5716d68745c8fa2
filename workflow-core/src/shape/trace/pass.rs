//! One deserialization of a type: what it asks for is noted, and answered with the samples that are its turn.

use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::super::{AGAIN, ANY, Kind, MAP, NEWTYPE, OPTION, SEQ, element, field, some, variant};
use super::{BYTES, Known, MAX_PLACES, NUMBERS, TEXTS};

/// How deep a type is looked into.
const MAX_DEPTH: usize = 24;
/// A tuple or an array with more elements has them all of one type, most likely.
const MAX_TUPLE: usize = 16;

/// One deserialization.
pub(super) struct Pass<'k> {
    pub(super) known: &'k mut Known,
    /// Where it is; after a failure, where that was.
    pub(super) path: String,
    /// The named types around that place, and where they begin.
    pub(super) inside: Vec<(Named, String)>,
    /// Types inside of themselves around that place: of those, the shortest value is made.
    pub(super) shortest: Vec<Named>,
    /// Whether the pass failed because there is no shortest value of such a type, as far as is known.
    pub(super) is_endless: bool,
    pub(super) depth: usize,
    /// Enums that were met.
    pub(super) visited: Vec<String>,
}

/// A type that has a name. The list of its parts is one for all instances of a generic type, which the name of the type
/// tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    name: &'static str,
    parts: *const &'static str,
    of: &'static str,
}

/// The pass cannot go on here.
#[derive(Debug)]
pub(super) struct Stuck;

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shape cannot be found out")
    }
}

impl std::error::Error for Stuck {}

impl de::Error for Stuck {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl Pass<'_> {
    fn note(&mut self, kind: Kind) {
        match self.known.places.entry(self.path.clone()) {
            Entry::Vacant(place) => drop(place.insert(kind)),
            // Elements that share a place, and differ: not all can be told of it.
            Entry::Occupied(place) => self.known.is_cut |= *place.get() != kind,
        }
    }

    /// The sample that is to stand here.
    fn sample(&self) -> usize {
        self.known.samples.get(&self.path).copied().unwrap_or(0)
    }

    fn number(&self) -> u8 {
        NUMBERS.get(self.sample()).copied().unwrap_or(1)
    }

    fn is_closed(&self) -> bool {
        !self.shortest.is_empty() || self.known.closed.contains(&self.path)
    }

    /// Does something one level further in. After a failure the path stays where that was.
    fn at<T>(
        &mut self,
        path: String,
        inner: impl FnOnce(&mut Self) -> Result<T, Stuck>,
    ) -> Result<T, Stuck> {
        let outer = std::mem::replace(&mut self.path, path);
        self.depth += 1;
        if self.depth > MAX_DEPTH || self.known.places.len() > MAX_PLACES {
            self.known.is_cut = true;
            self.note(Kind::Plain(AGAIN));
            return Err(Stuck);
        }
        let done = inner(self)?;
        self.depth -= 1;
        self.path = outer;
        Ok(done)
    }

    /// Does something inside of a type that has a name. If it is inside of that already, it makes the shortest value that is
    /// known of it, so that what stands beside it is seen.
    fn within<V, T>(
        &mut self,
        name: &'static str,
        parts: &'static [&'static str],
        kind: Kind,
        inner: impl FnOnce(&mut Self) -> Result<T, Stuck>,
    ) -> Result<T, Stuck> {
        let this = Named {
            name,
            parts: parts.as_ptr(),
            of: std::any::type_name::<V>(),
        };
        let Some((_, begin)) = self.inside.iter().find(|(around, _)| *around == this) else {
            self.note(kind);
            self.inside.push((this, self.path.clone()));
            let done = inner(self)?;
            self.inside.pop();
            return Ok(done);
        };
        let begin = begin.clone();
        if self.shortest.is_empty() {
            self.note(Kind::Plain(AGAIN));
        }
        if !self.known.is_second_round || self.shortest.contains(&this) {
            self.is_endless = true;
            return Err(Stuck);
        }
        self.shortest.push(this);
        let outer = std::mem::replace(&mut self.path, begin);
        let done = inner(self);
        match done {
            Ok(_) => {
                self.shortest.pop();
                self.path = outer;
            }
            Err(_) if self.is_endless => self.path = outer,
            // Something in it needs another sample, where it begins as well.
            Err(_) => {}
        }
        done
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $name:literal)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
                self.note(Kind::Plain($name));
                visitor.$visit(self.number().into())
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Pass<'_> {
    type Error = Stuck;

    numbers! {
        deserialize_i8 visit_i64 "i8"
        deserialize_i16 visit_i16 "i16"
        deserialize_i32 visit_i32 "i32"
        deserialize_i64 visit_i64 "i64"
        deserialize_i128 visit_i128 "i128"
        deserialize_u8 visit_u8 "u8"
        deserialize_u16 visit_u16 "u16"
        deserialize_u32 visit_u32 "u32"
        deserialize_u64 visit_u64 "u64"
        deserialize_u128 visit_u128 "u128"
        deserialize_f32 visit_f32 "f32"
        deserialize_f64 visit_f64 "f64"
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain(ANY));
        match self.sample() {
            0 => visitor.visit_unit(),
            1 => visitor.visit_u64(1),
            2 => visitor.visit_str(""),
            3 => visitor.visit_bool(false),
            _ => visitor.visit_seq(Elements {
                pass: self,
                at: 0,
                len: 0,
                is_tuple: false,
                of: None,
            }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain("bool"));
        visitor.visit_bool(false)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain("char"));
        visitor.visit_char('a')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain("text"));
        visitor.visit_str(TEXTS.get(self.sample()).copied().unwrap_or(""))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain("bytes"));
        visitor.visit_bytes(BYTES.get(self.sample()).copied().unwrap_or(&[]))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain(OPTION));
        if self.is_closed() {
            return visitor.visit_none();
        }
        let path = some(&self.path);
        self.at(path, |pass| visitor.visit_some(pass))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain("unit"));
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stuck> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stuck> {
        // It is stored as what it holds. Its depth is counted all the same: it may hold itself.
        let path = self.path.clone();
        self.at(path, |pass| visitor.visit_newtype_struct(pass))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain(SEQ));
        let len = usize::from(!self.is_closed());
        visitor.visit_seq(Elements {
            pass: self,
            at: 0,
            len,
            is_tuple: false,
            of: None,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Tuple(len));
        visitor.visit_seq(Elements {
            pass: self,
            at: 0,
            len,
            is_tuple: true,
            of: None,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Stuck> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        self.note(Kind::Plain(MAP));
        let is_done = self.is_closed();
        visitor.visit_map(MapEntry {
            pass: self,
            is_done,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stuck> {
        let kind = Kind::Struct(fields.to_vec());
        self.within::<V::Value, _>(name, fields, kind, |pass| {
            visitor.visit_map(Fields {
                pass,
                rest: fields,
                outer: String::new(),
            })
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stuck> {
        let kind = Kind::Enum(variants.to_vec());
        self.within::<V::Value, _>(name, variants, kind, |pass| {
            let choice = pass.known.choices.entry(pass.path.clone()).or_default();
            choice.len = variants.len();
            let (now, good) = (choice.now, choice.good);
            let chosen = if pass.shortest.is_empty() {
                pass.visited.push(pass.path.clone());
                now
            } else {
                pass.is_endless |= good.is_none();
                good.ok_or(Stuck)?
            };
            let chosen = variants.get(chosen).copied().ok_or(Stuck)?;
            visitor.visit_enum(Variant { pass, chosen })
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        visitor.visit_str("")
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stuck> {
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        // As MessagePack values are: see `pack`.
        true
    }
}

/// The elements of a list, which has one, or of a tuple.
struct Elements<'p, 'k> {
    pass: &'p mut Pass<'k>,
    at: usize,
    len: usize,
    is_tuple: bool,
    /// The type of the first one.
    of: Option<&'static str>,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Stuck;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stuck> {
        if self.at == self.len {
            return Ok(None);
        }
        let path = match self.is_tuple && self.len <= MAX_TUPLE {
            true => field(&self.pass.path, &self.at.to_string()),
            false => element(&self.pass.path),
        };
        let of = std::any::type_name::<T::Value>();
        if self.is_tuple && self.len > MAX_TUPLE && *self.of.get_or_insert(of) != of {
            // They share a place, and not all can be told of it.
            self.pass.known.is_cut = true;
        }
        self.at += 1;
        self.pass.at(path, |pass| seed.deserialize(pass)).map(Some)
    }
}

/// The one entry of a map.
struct MapEntry<'p, 'k> {
    pass: &'p mut Pass<'k>,
    is_done: bool,
}

impl<'de> MapAccess<'de> for MapEntry<'_, '_> {
    type Error = Stuck;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stuck> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(None);
        }
        let path = format!("{}[key]", self.pass.path);
        self.pass.at(path, |pass| seed.deserialize(pass)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stuck> {
        let path = element(&self.pass.path);
        self.pass.at(path, |pass| seed.deserialize(pass))
    }
}

/// The fields of a struct.
struct Fields<'p, 'k> {
    pass: &'p mut Pass<'k>,
    rest: &'static [&'static str],
    outer: String,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Stuck;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stuck> {
        while let Some((name, rest)) = self.rest.split_first() {
            self.rest = rest;
            let path = field(&self.pass.path, name);
            if self.pass.known.skipped.contains(&path) {
                continue;
            }
            // The path is that of the field from here on, so that a key that is refused is known.
            self.outer = std::mem::replace(&mut self.pass.path, path);
            return seed
                .deserialize(StrDeserializer::<Stuck>::new(name))
                .map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stuck> {
        let path = self.pass.path.clone();
        let value = self.pass.at(path, |pass| seed.deserialize(pass))?;
        self.pass.path = std::mem::take(&mut self.outer);
        Ok(value)
    }
}

/// A variant of an enum.
struct Variant<'p, 'k> {
    pass: &'p mut Pass<'k>,
    chosen: &'static str,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Stuck;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Stuck> {
        let name: StrDeserializer<'_, Stuck> = self.chosen.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl Variant<'_, '_> {
    fn hold<T>(
        self,
        kind: Kind,
        inner: impl FnOnce(&mut Pass<'_>) -> Result<T, Stuck>,
    ) -> Result<T, Stuck> {
        let path = variant(&self.pass.path, self.chosen);
        self.pass.at(path, |pass| {
            pass.note(kind);
            inner(pass)
        })
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Stuck;

    fn unit_variant(self) -> Result<(), Stuck> {
        self.hold(Kind::Plain("unit"), |_| Ok(()))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Stuck> {
        self.hold(Kind::Plain(NEWTYPE), |pass| {
            let path = element(&pass.path);
            pass.at(path, |pass| seed.deserialize(pass))
        })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Stuck> {
        self.hold(Kind::Tuple(len), |pass| {
            pass.deserialize_tuple(len, visitor)
        })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stuck> {
        self.hold(Kind::Struct(fields.to_vec()), |pass| {
            visitor.visit_map(Fields {
                pass,
                rest: fields,
                outer: String::new(),
            })
        })
    }
}
