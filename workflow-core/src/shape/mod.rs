//! What a type looks like to serde: its fields, variants and elements, found without a macro of its own.
//!
//! A shape serves for hints only: whether a result that is not there yet will fit the parameter it is for, and whether a type has
//! changed since a run was created. What is there is decoded instead. So a type whose shape cannot be found out is no harm: what is
//! not known fits everything. It also tells which values need not be decoded once before they are stored.

mod compare;
mod trace;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub(crate) use compare::Difference;

/// The shape of a type: what stands at each place of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Shape {
    /// By path from the value itself, which is the empty path.
    places: Arc<BTreeMap<String, Kind>>,
    /// Whether that is all that can stand in a value.
    is_whole: bool,
}

/// What stands at one place of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number, a text, a list: something without names of its own.
    Plain(&'static str),
    /// So many elements, each of its own type.
    Tuple(usize),
    /// These fields.
    Struct(Vec<&'static str>),
    /// One of these variants.
    Enum(Vec<&'static str>),
}

/// What every value fits.
pub(crate) const ANY: &str = "any";
/// A type inside of itself: it is described further out.
pub(crate) const AGAIN: &str = "again";
pub(crate) const OPTION: &str = "option";
pub(crate) const SEQ: &str = "list";
pub(crate) const MAP: &str = "map";
pub(crate) const NEWTYPE: &str = "newtype";

/// The paths of the parts of what stands at `path`.
pub(crate) fn field(path: &str, name: &str) -> String {
    format!("{path}.{name}")
}

pub(crate) fn element(path: &str) -> String {
    format!("{path}[]")
}

pub(crate) fn some(path: &str) -> String {
    format!("{path}?")
}

pub(crate) fn variant(path: &str, name: &str) -> String {
    format!("{path}#{name}")
}

impl Shape {
    /// The shape of a type. Never panics, whatever the type's own code does.
    pub(crate) fn of<T: DeserializeOwned>() -> Self {
        let (places, is_whole) = trace::places::<T>();
        Self {
            places: Arc::new(places),
            is_whole,
        }
    }

    /// Whether every part of the type says what it is: then what is written of it can be read, as far as the type writes what it
    /// reads. Parts that take anything are behind serde's `untagged`, `tag` and `flatten`, which cannot hold everything.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_whole && !self.places.values().any(|kind| *kind == Kind::Plain(ANY))
    }

    /// Whether a number of 128 bits stands somewhere in it.
    pub(crate) fn has_wide(&self) -> bool {
        let mut kinds = self.places.values();
        kinds.any(|kind| matches!(kind, Kind::Plain("u128" | "i128")))
    }

    #[cfg(test)]
    pub(crate) fn places(&self) -> Vec<(&str, &Kind)> {
        self.places
            .iter()
            .map(|(path, kind)| (&**path, kind))
            .collect()
    }

    pub(crate) fn kind(&self, path: &str) -> Option<&Kind> {
        self.places.get(path)
    }

    /// A path such as `[1][0]`, of which the numbers of fields are made their names: a codec without names does not know them.
    pub(crate) fn named(&self, path: &str) -> String {
        let (mut named, mut at) = (String::new(), String::new());
        for part in path.split_inclusive(']') {
            while self.kind(&at) == Some(&Kind::Plain(OPTION)) {
                at = some(&at);
            }
            let number = part
                .strip_prefix('[')
                .and_then(|part| part.strip_suffix(']'));
            let number = number.and_then(|number| number.parse::<usize>().ok());
            let name = match (self.kind(&at), number) {
                (Some(Kind::Struct(fields)), Some(number)) => fields.get(number),
                _ => None,
            };
            match name {
                Some(name) => {
                    named.push_str(if named.is_empty() { "" } else { "." });
                    named.push_str(name);
                    at = field(&at, name);
                }
                None => {
                    named.push_str(part);
                    at = match (self.kind(&at), number) {
                        (Some(Kind::Tuple(_)), Some(number)) => field(&at, &number.to_string()),
                        _ => element(&at),
                    };
                }
            }
        }
        named
    }

    /// A number that is another one, most likely, when the shape is. The order of fields and of variants, and the names of types,
    /// make no difference: values are found by the names of their fields.
    pub(crate) fn fingerprint(&self) -> u32 {
        let mut hasher = blake3::Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        let sorted = |names: &[&'static str]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names.join("\n")
        };
        for (path, kind) in &*self.places {
            text(path);
            text(&match kind {
                Kind::Plain(kind) => Cow::Borrowed(*kind),
                Kind::Tuple(len) => format!("tuple of {len}").into(),
                Kind::Struct(fields) => format!("struct\n{}", sorted(fields)).into(),
                Kind::Enum(variants) => format!("enum\n{}", sorted(variants)).into(),
            });
        }
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

/// The shape of `T` if it is known to serde, and that of anything if it is not: the compiler finds [`ShapeByTrace`] before
/// [`ShapeOfAny`], and neither is a bound that could fail in addition to those that matter.
#[derive(Debug)]
#[doc(hidden)]
pub struct ShapeOf<T>(PhantomData<fn() -> T>);

impl<T> ShapeOf<T> {
    /// Stands for the type.
    pub const TYPE: Self = Self(PhantomData);
}

/// See [`ShapeOf`].
#[doc(hidden)]
pub trait ShapeByTrace {
    /// The type's shape.
    fn shape(&self) -> Shape;
}

impl<T: DeserializeOwned> ShapeByTrace for ShapeOf<T> {
    fn shape(&self) -> Shape {
        Shape::of::<T>()
    }
}

/// See [`ShapeOf`].
#[doc(hidden)]
pub trait ShapeOfAny {
    /// Nothing is known of the type.
    fn shape(&self) -> Shape;
}

impl<T> ShapeOfAny for &ShapeOf<T> {
    fn shape(&self) -> Shape {
        Shape::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Serialize};

    use super::*;

    fn told<T: DeserializeOwned>() -> String {
        let shape = Shape::of::<T>();
        let places = shape.places().into_iter().map(|(path, kind)| match kind {
            Kind::Plain(kind) => format!("{path}={kind}"),
            Kind::Tuple(len) => format!("{path}=({len})"),
            Kind::Struct(fields) => format!("{path}={{{}}}", fields.join(",")),
            Kind::Enum(variants) => format!("{path}=<{}>", variants.join("|")),
        });
        places.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_shape_of_a_type_has_all_that_serde_sees() {
        #[derive(Serialize, Deserialize)]
        struct Order {
            id: u64,
            lines: Vec<Line>,
            note: Option<String>,
            #[serde(default)]
            by: Pay,
        }
        #[derive(Serialize, Deserialize)]
        struct Line(String, i8);
        #[derive(Default, Serialize, Deserialize)]
        enum Pay {
            #[default]
            Cash,
            Card(u32),
            Bank {
                iban: String,
            },
            Two(u8, bool),
        }
        assert_eq!(
            told::<Order>(),
            "={id,lines,note,by} .by=<Cash|Card|Bank|Two> .by#Bank={iban} .by#Bank.iban=text .by#Card=newtype \
             .by#Card[]=u32 .by#Cash=unit .by#Two=(2) .by#Two.0=u8 .by#Two.1=bool .id=u64 .lines=list .lines[]=(2) \
             .lines[].0=text .lines[].1=i8 .note=option .note?=text"
        );
        assert_eq!(told::<u8>(), "=u8");
        assert_eq!(told::<()>(), "=unit");
        assert_eq!(
            told::<BTreeMap<String, (f64, char)>>(),
            "=map []=(2) [].0=f64 [].1=char [key]=text"
        );
        assert_eq!(told::<serde_json::Value>(), "=any");
        assert_eq!(
            told::<std::time::Duration>(),
            "={secs,nanos} .nanos=u32 .secs=u64"
        );
        assert_eq!(told::<std::num::NonZeroU16>(), "=u16");
    }

    #[test]
    fn types_are_plain_that_say_what_all_of_their_parts_are() {
        #[derive(Serialize, Deserialize)]
        enum Tree {
            Node(Vec<Tree>, HashMap<String, Tree>),
            Pair(Box<Tree>, Option<Box<Tree>>),
            Leaf { at: u8, ip: std::net::IpAddr },
        }
        #[derive(Serialize, Deserialize)]
        struct Plain {
            tree: Tree,
            wide: u128,
            result: Result<Option<()>, (char, [u8; 4])>,
            at: std::time::SystemTime,
        }
        #[derive(Serialize, Deserialize)]
        #[serde(tag = "t")]
        enum Tagged {
            A { a: u8 },
        }
        #[derive(Serialize, Deserialize)]
        #[serde(tag = "t", content = "c")]
        enum Adjacent {
            A(u8),
        }
        #[derive(Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            A(u8),
        }
        #[derive(Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            inner: HashMap<String, u8>,
        }
        fn is_plain<T: DeserializeOwned>() -> bool {
            Shape::of::<T>().is_plain()
        }
        assert!(is_plain::<()>() && is_plain::<u128>() && is_plain::<Vec<f64>>());
        assert!(is_plain::<Option<BTreeMap<String, Vec<char>>>>());
        assert!(is_plain::<Tree>());
        assert!(is_plain::<Plain>());
        assert!(!is_plain::<serde_json::Value>());
        assert!(!is_plain::<Vec<Option<serde_json::Value>>>());
        assert!(!is_plain::<Tagged>());
        assert!(is_plain::<Adjacent>());
        assert!(!is_plain::<Untagged>());
        assert!(!is_plain::<(u8, Flat)>());
        assert!(!Shape::default().is_plain());
        // Numbers of fields are made their names.
        let shape = Shape::of::<(u8, Option<Plain>)>();
        assert_eq!(shape.named("[1][0]"), "[1].tree");
        assert_eq!(shape.named("[1][2][7]"), "[1].result[7]");
        assert_eq!(shape.named(""), "");
        assert_eq!(Shape::of::<Plain>().named("[1]"), "wide");
    }

    #[test]
    fn recursive_types_are_told_to_their_second_round() {
        #[derive(Serialize, Deserialize)]
        struct Chain {
            next: Option<Box<Chain>>,
            at: u8,
        }
        assert_eq!(
            told::<Chain>(),
            "={next,at} .at=u8 .next=option .next?=again"
        );
        #[derive(Serialize, Deserialize)]
        enum Tree {
            Node(Vec<Tree>, HashMap<String, Tree>),
            Pair(Box<Tree>, Box<Tree>),
            Leaf(u8),
        }
        let tree = told::<Tree>();
        assert!(tree.contains("#Leaf[]=u8"), "{tree}");
        assert!(tree.contains("#Node.0[]=again"), "{tree}");
        assert!(tree.contains("#Pair.0=again"), "{tree}");
    }

    #[test]
    fn types_that_refuse_panic_or_never_end_do_no_harm() {
        struct Panics;
        impl<'de> Deserialize<'de> for Panics {
            fn deserialize<D: serde::Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
                let text = String::deserialize(decoder)?;
                panic!("{text:?} is no good")
            }
        }
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        struct Refuses(#[serde(deserialize_with = "refuse")] u8);
        fn refuse<'de, D: serde::Deserializer<'de>>(decoder: D) -> Result<u8, D::Error> {
            u8::deserialize(decoder)?;
            Err(serde::de::Error::custom("never"))
        }
        #[derive(Deserialize)]
        struct Endless(Box<Endless>);
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        struct Whole {
            #[serde(alias = "was")]
            first: Vec<Refuses>,
            #[serde(default)]
            second: u8,
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let panics = told::<Panics>();
        std::panic::set_hook(hook);
        assert_eq!(panics, "=text");
        assert_eq!(told::<Refuses>(), "=u8");
        let _ = (told::<Endless>(), |whole: Endless| drop(whole.0));
        // What comes after a part that cannot be found out is found out all the same.
        let whole = told::<Whole>();
        assert!(whole.contains(".first[]=u8"), "{whole}");
        assert!(whole.ends_with(".second=u8"), "{whole}");
    }

    #[test]
    fn a_fingerprint_is_of_names_and_types_and_not_of_their_order() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        struct A {
            one: u8,
            two: String,
        }
        mod other {
            #[derive(serde::Deserialize)]
            #[expect(dead_code, reason = "only its shape is looked at")]
            pub(super) struct B {
                two: String,
                one: u8,
            }
            #[derive(serde::Deserialize)]
            #[expect(dead_code, reason = "only its shape is looked at")]
            pub(super) struct C {
                one: u16,
                two: String,
            }
        }
        let print = |shape: Shape| shape.fingerprint();
        assert_eq!(print(Shape::of::<A>()), print(Shape::of::<other::B>()));
        assert_ne!(print(Shape::of::<A>()), print(Shape::of::<other::C>()));
        assert_ne!(print(Shape::of::<u8>()), print(Shape::of::<Vec<u8>>()));
    }
}
