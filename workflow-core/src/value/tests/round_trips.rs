//! What is encoded decodes to what it was, or is an error.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::shape::Shape;

/// Encodes with MessagePack and decodes, from its own bytes and from those of values around it.
fn again<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: &T) {
    let known = Readable::new(Shape::of::<T>());
    let stored = Value::encode_readable(value, Codec::MessagePack, &known).unwrap();
    assert_eq!(stored.decode::<T>().unwrap(), *value, "{stored:?}");
    let in_list = Value::list([&stored, &stored.ok()].into_iter());
    let (plain, ok) = in_list.decode::<(T, Result<T, String>)>().unwrap();
    assert_eq!(plain, *value);
    assert_eq!(ok.unwrap(), *value);
    let some = Source::Some(Box::new(Source::Value(stored)));
    assert_eq!(some.decode::<Option<T>>().unwrap().unwrap(), *value);
}

/// Encodes a value as a step does.
fn error_of<T: Serialize + DeserializeOwned>(value: &T, codec: Codec) -> String {
    let known = Readable::new(Shape::of::<T>());
    let encoded = Value::encode_readable(value, codec, &known);
    encoded.unwrap_err().to_string()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    text: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Note(Note),
    Both {
        a: Option<()>,
        b: Option<Option<u8>>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "of")]
enum Adjacent {
    Maybe(Option<Option<()>>),
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    // A struct would be read from a list, too.
    Pair(Option<Option<u8>>, Unit),
    Note(Note),
    Ip(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    id: Option<()>,
    #[serde(flatten)]
    note: Note,
    #[serde(flatten)]
    rest: BTreeMap<String, Option<Option<IpAddr>>>,
}

#[test]
fn some_of_nil_is_not_none() {
    again(&Some(()));
    again(&None::<()>);
    again(&Some(None::<u8>));
    again(&Some(Some(None::<u8>)));
    again(&Some(Some(Some(7))));
    again(&vec![Some(()), None, Some(())]);
    again(&Some(Unit));
    again(&(Some(()), [Some(None), Some(Some(1)), None]));
    again(&Some(serde_json::Value::Null));
    again(&json!({"a": null}));
    again(&BTreeMap::from(
        [("a", ()), ("b", ())].map(|(k, v)| (k.to_owned(), Some(v))),
    ));
    again(&Err::<Option<()>, _>(Some(None::<String>)));
    for text in [None, Some(None), Some(Some("x".to_owned()))] {
        for json in [None, Some(serde_json::Value::Null), Some(json!([null]))] {
            let note = Note {
                text: text.clone(),
                json,
            };
            again(&note);
            again(&Tagged::Note(note.clone()));
            again(&Untagged::Note(note.clone()));
            for ip in [
                None,
                Some(None),
                Some(Some(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            ] {
                let rest = BTreeMap::from([("ip".to_owned(), ip)]);
                again(&Flat {
                    id: Some(()),
                    note: note.clone(),
                    rest,
                });
            }
        }
    }
    for b in [None, Some(None), Some(Some(1))] {
        again(&Tagged::Both { a: Some(()), b });
        again(&Tagged::Both { a: None, b });
        again(&Untagged::Pair(b, Unit));
    }
    for of in [None, Some(None), Some(Some(()))] {
        again(&Adjacent::Maybe(of));
    }
    again(&Adjacent::Nothing);
    // The same in JSON, which has no way to tell.
    let stored = Value::encode(&Some(None::<u8>), Codec::MessagePack).unwrap();
    assert_eq!(stored.decode::<serde_json::Value>().unwrap(), json!(null));
    // Of bincode it was never true.
    round_trip(Some(Some(None::<u8>)));
}

#[test]
fn an_option_is_some_of_nil_at_most_255_times() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Deep(Option<Box<Deep>>);
    let deep = |n| (0..n).fold(Deep(None), |deep, _| Deep(Some(Box::new(deep))));
    again(&deep(3));
    again(&deep(254));
    let error = Value::encode(&deep(256), Codec::MessagePack).unwrap_err();
    assert!(error.to_string().contains("255 times"), "{error}");
}

#[test]
fn types_that_are_written_otherwise_for_people_are_read_in_every_place() {
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    again(&ip);
    again(&Untagged::Ip(ip));
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "t")]
    enum Host {
        Known {
            ip: IpAddr,
            others: Vec<Option<IpAddr>>,
        },
    }
    again(&Host::Known {
        ip,
        others: vec![None, Some(ip)],
    });
    round_trip(ip);
}

#[test]
fn numbers_of_128_bits_are_refused_where_they_could_not_be_read() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Plain {
        wide: u128,
        signed: Option<i128>,
    }
    let plain = || Plain {
        wide: u128::MAX,
        signed: Some(i128::MIN),
    };
    again(&plain());
    round_trip(plain());
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t")]
    enum InTag {
        Other,
        Wide { amount: u128 },
    }
    #[derive(Serialize, Deserialize)]
    struct InFlat {
        id: u8,
        #[serde(flatten)]
        plain: Plain,
    }
    #[derive(Serialize, Deserialize)]
    struct Outer {
        payment: InTag,
    }
    let outer = Outer {
        payment: InTag::Wide { amount: 1 },
    };
    let error = error_of(&outer, Codec::MessagePack);
    assert!(
        error.contains("payment") && error.contains("128"),
        "{error}"
    );
    let flat = InFlat {
        id: 1,
        plain: plain(),
    };
    let error = error_of(&flat, Codec::MessagePack);
    assert!(error.contains("could not be read back"), "{error}");
}

#[test]
fn what_is_left_out_must_have_a_default() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct NoDefault {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        lines: Vec<u8>,
        id: u8,
    }
    again(&NoDefault {
        lines: vec![1],
        id: 1,
    });
    let none = NoDefault {
        lines: vec![],
        id: 1,
    };
    let error = error_of(&none, Codec::MessagePack);
    assert!(error.contains("missing field `lines`"), "{error}");
    let error = error_of(&vec![none], Codec::Bincode);
    assert!(error.contains("[0].lines: bincode has no names"), "{error}");
}

#[test]
fn what_bincode_cannot_read_is_refused() {
    let note = Note {
        text: None,
        json: Some(json!(1)),
    };
    let error = error_of(&note, Codec::Bincode);
    assert!(
        error.starts_with("it could not be read back: json: "),
        "{error}"
    );
    error_of(&Untagged::Pair(None, Unit), Codec::Bincode);
    error_of(&Tagged::Both { a: None, b: None }, Codec::Bincode);
    let flat = Flat {
        id: None,
        note,
        rest: BTreeMap::new(),
    };
    let error = error_of(&flat, Codec::Bincode);
    assert!(error.contains("flatten"), "{error}");
    error_of(&Adjacent::Nothing, Codec::Bincode);
    error_of(&Adjacent::Maybe(Some(None)), Codec::Bincode);
}

#[test]
fn a_value_that_an_earlier_variant_takes_is_refused() {
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Payment {
        Cash { cents: u64 },
        Card { cents: u64, number: String },
    }
    let cash = Payment::Cash { cents: 1 };
    assert!(Value::encode_typed(&cash).is_ok());
    let card = Payment::Card {
        cents: 1,
        number: "4111".to_owned(),
    };
    let by_name = BTreeMap::from([("a".to_owned(), card)]);
    let error = error_of(&by_name, Codec::MessagePack);
    assert!(
        error.starts_with("a.number: it reads back as another value"),
        "{error}"
    );
}

#[test]
fn the_field_of_what_cannot_be_encoded_is_named() {
    #[derive(Serialize)]
    struct Order {
        lines: Vec<BTreeMap<String, Line>>,
    }
    #[derive(Serialize)]
    enum Line {
        Text { of: std::sync::Mutex<Refuses> },
    }
    struct Refuses;
    impl Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("never"))
        }
    }
    let line = Line::Text { of: Refuses.into() };
    let order = Order {
        lines: vec![BTreeMap::new(), BTreeMap::from([("a".to_owned(), line)])],
    };
    for codec in [Codec::MessagePack, Codec::Bincode] {
        let error = Value::encode(&order, codec).unwrap_err().to_string();
        let key = if codec == Codec::MessagePack {
            ".a"
        } else {
            "[]"
        };
        assert_eq!(error, format!("lines[1]{key}.Text.of: never"));
    }
}

/// Of two parts, so that each level has a name or a number.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Chain {
    Link(Box<Chain>),
    End,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Loose {
    Next { next: Box<Loose> },
    Last(u8),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Named {
    Next { next: Box<Named> },
    Last,
}

#[test]
fn as_deep_as_can_be_read_and_no_deeper() {
    // With the stack that a thread of tokio has.
    let test = || {
        let json = |n| (0..n).fold(json!(1), |inner, _| json!([inner]));
        let chain = |n| (0..n).fold(Chain::End, |inner, _| Chain::Link(Box::new(inner)));
        let loose = |n| {
            (0..n).fold(Loose::Last(1), |next, _| Loose::Next {
                next: Box::new(next),
            })
        };
        let named = |n| {
            (0..n).fold(Named::Last, |next, _| Named::Next {
                next: Box::new(next),
            })
        };
        again(&json(256));
        again(&chain(256));
        again(&loose(256));
        again(&named(255));
        for codec in [Codec::MessagePack, Codec::Bincode] {
            let errors = [
                Value::encode(&json(257), codec),
                Value::encode(&chain(257), codec),
                Value::encode(&loose(257), codec),
                Value::encode(&named(256), codec),
            ];
            for error in errors {
                let error = error.unwrap_err().to_string();
                assert!(error.contains("deeper than 256 levels"), "{error}");
                assert!(error.len() < 200 && error.contains('…'), "{error}");
            }
        }
        let stored = Value::encode(&chain(256), Codec::Bincode).unwrap();
        assert_eq!(stored.decode::<Chain>().unwrap(), chain(256));
    };
    with_the_stack_of_a_thread(test);
}

fn with_the_stack_of_a_thread(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(test).unwrap().join().unwrap();
}

#[test]
fn what_is_wrong_with_a_deep_value_is_found_with_the_usual_stack() {
    #[derive(Serialize, Deserialize)]
    struct Level {
        next: Option<Box<Level>>,
        end: Option<Tagged>,
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t")]
    enum Tagged {
        Wide { number: u128 },
    }
    with_the_stack_of_a_thread(|| {
        let end = Some(Tagged::Wide { number: 1 });
        let last = Level { next: None, end };
        let deep = (2..256).fold(last, |next, _| Level {
            next: Some(Box::new(next)),
            end: None,
        });
        let error = error_of(&deep, Codec::MessagePack);
        assert!(
            error.contains("next.next.") && error.contains(".end: "),
            "{error}"
        );
    });
}

#[test]
fn equal_sets_are_equal_bytes() {
    #[derive(Serialize)]
    struct Deep {
        sets: BTreeMap<u8, Vec<Option<HashSet<String>>>>,
        heap: BinaryHeap<u32>,
    }
    let deep = |seed: u32| {
        let numbers = (0..100).map(|n| (n * 37 + seed) % 100);
        Deep {
            sets: BTreeMap::from([(
                1,
                vec![None, Some(numbers.clone().map(|n| n.to_string()).collect())],
            )]),
            heap: numbers.collect(),
        }
    };
    for codec in [Codec::MessagePack, Codec::Bincode] {
        let one = Value::encode(&deep(0), codec).unwrap();
        for seed in 1..20 {
            assert_eq!(one, Value::encode(&deep(seed), codec).unwrap());
        }
    }
    // A list is what its order is, of a set or not.
    let list = |seed: u32| (0..9).map(|n| (n + seed) % 9).collect::<Vec<_>>();
    let encode = |value: &dyn Fn() -> Value| value();
    assert_ne!(
        encode(&|| Value::encode(&list(0), Codec::MessagePack).unwrap()),
        encode(&|| Value::encode(&list(1), Codec::MessagePack).unwrap())
    );
    let set: HashSet<Vec<u32>> = (0..9).map(list).collect();
    again(&set);
    assert_eq!(Value::encode(&set, Codec::MessagePack).unwrap(), {
        let sorted: BTreeSet<Vec<u32>> = set.into_iter().collect();
        Value::encode(&sorted, Codec::MessagePack).unwrap()
    });
    // A map in a set, behind a type that hashes it.
    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Key(HashMap<u8, u8>);
    impl std::hash::Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write_usize(self.0.len());
        }
    }
    let set = || {
        let keys = (0..5).map(|n| Key((0..20).map(|k| (k, k * n)).collect()));
        keys.collect::<HashSet<Key>>()
    };
    again(&set());
    let one = Value::encode(&set(), Codec::MessagePack).unwrap();
    for _ in 0..20 {
        assert_eq!(one, Value::encode(&set(), Codec::MessagePack).unwrap());
    }
}

/// A type that is an extension of MessagePack, as `rmp-serde` has it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "_ExtStruct")]
struct Ext((i8, Bin));

#[derive(Debug, PartialEq)]
struct Bin(Vec<u8>);

impl Serialize for Bin {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Bin;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bin, E> {
                Ok(Bin(bytes.to_vec()))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// A value of any shape that serde knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Any {
    Unit,
    Nothing(()),
    Number(i64),
    Wide(u128),
    Float(f32),
    Text(String),
    Char(char),
    Options(Option<Option<Option<()>>>),
    Maybe(Option<Box<Any>>),
    List(Vec<Option<Any>>),
    Map(BTreeMap<String, Any>),
    Keys(BTreeMap<i16, Option<Unit>>),
    Pair(Box<(Any, Option<Any>)>),
    Fields {
        a: Option<Option<Box<Any>>>,
        b: Result<(), Option<()>>,
    },
    Newtype(Wrapper),
    Tagged(Tagged),
    Adjacent(Adjacent),
    Untagged(Untagged),
    Flat(Box<Flat>),
    Json(Option<serde_json::Value>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapper(Option<Box<Any>>);

fn json_values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        ".{0,8}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!(list)),
            prop::collection::btree_map("[a-c]{0,2}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn notes() -> impl Strategy<Value = Note> {
    let text = prop::option::of(prop::option::of("[a-z]{0,3}"));
    (text, prop::option::of(json_values())).prop_map(|(text, json)| Note { text, json })
}

fn anything() -> impl Strategy<Value = Any> {
    let ip = any::<u32>().prop_map(|bits| IpAddr::V4(bits.into()));
    let maybe = || prop::option::of(prop::option::of(any::<u8>()));
    let unit = || prop::option::of(Just(()));
    let leaf = prop_oneof![
        Just(Any::Unit),
        Just(Any::Nothing(())),
        any::<i64>().prop_map(Any::Number),
        any::<u128>().prop_map(Any::Wide),
        any::<f32>()
            .prop_filter("a number", |n| !n.is_nan())
            .prop_map(Any::Float),
        ".{0,40}".prop_map(Any::Text),
        any::<char>().prop_map(Any::Char),
        prop::option::of(prop::option::of(unit())).prop_map(Any::Options),
        prop::collection::btree_map(any::<i16>(), prop::option::of(Just(Unit)), 0..4)
            .prop_map(Any::Keys),
        notes().prop_map(|note| Any::Tagged(Tagged::Note(note))),
        (unit(), maybe()).prop_map(|(a, b)| Any::Tagged(Tagged::Both { a, b })),
        prop::option::of(unit()).prop_map(|of| Any::Adjacent(Adjacent::Maybe(of))),
        Just(Any::Adjacent(Adjacent::Nothing)),
        notes().prop_map(|note| Any::Untagged(Untagged::Note(note))),
        maybe().prop_map(|maybe| Any::Untagged(Untagged::Pair(maybe, Unit))),
        ip.clone().prop_map(|ip| Any::Untagged(Untagged::Ip(ip))),
        (unit(), notes(), prop::option::of(prop::option::of(ip))).prop_map(|(id, note, ip)| {
            let rest = BTreeMap::from([("ip".to_owned(), ip)]);
            Any::Flat(Box::new(Flat { id, note, rest }))
        }),
        prop::option::of(json_values()).prop_map(Any::Json),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let some = prop::option::of(inner.clone());
        prop_oneof![
            prop::option::of(boxed.clone()).prop_map(Any::Maybe),
            prop::option::of(boxed.clone()).prop_map(|inner| Any::Newtype(Wrapper(inner))),
            prop::collection::vec(some.clone(), 0..4).prop_map(Any::List),
            prop::collection::btree_map("[a-z]{0,3}", inner.clone(), 0..4).prop_map(Any::Map),
            (inner, some).prop_map(|pair| Any::Pair(Box::new(pair))),
            (
                prop::option::of(prop::option::of(boxed)),
                any::<Option<bool>>()
            )
                .prop_map(|(a, b)| {
                    let b = b.map_or(Ok(()), |some| Err(some.then_some(())));
                    Any::Fields { a, b }
                }),
        ]
    })
}

/// Writes bytes as the codec itself would, where that reads them as what they were.
fn as_the_codec_writes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![tag::MESSAGE_PACK];
    let mut encoder = rmp_serde::Serializer::new(&mut bytes)
        .with_struct_map()
        .with_human_readable();
    value.serialize(&mut encoder).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_encoded_decodes_to_what_it_was(value in anything(), some in any::<bool>()) {
        let value = some.then_some(value);
        again(&value);
        again(&Some(value.clone()));
        again(&BTreeMap::from([(1u8, vec![value])]));
    }

    #[test]
    fn whatever_bytes_are_decoded_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let value = Value::from_bytes(&[&[tag::MESSAGE_PACK], &bytes[..]].concat());
        drop(value.decode::<Any>());
        drop(value.decode::<serde_json::Value>());
        drop(value.decode::<Option<Option<Ext>>>());
    }

    #[test]
    fn ordinary_values_are_written_as_the_codecs_write_them(
        json in json_values(), numbers in any::<(u8, i16, u64, f64, char, bool)>(), text in ".{0,300}",
        map in prop::collection::btree_map(any::<i32>(), any::<Option<u16>>(), 0..20),
    ) {
        let all = (&json, numbers, &text, &map, Some(&map), Err::<u8, _>(text.as_str()));
        let ours = Value::encode(&all, Codec::MessagePack).unwrap();
        prop_assert_eq!(ours.as_bytes(), &as_the_codec_writes(&all)[..]);
        let plain = (numbers, &text, &map, Some(&map), Err::<u8, _>(text.as_str()));
        let ours = Value::encode(&plain, Codec::Bincode).unwrap();
        prop_assert_eq!(&ours.as_bytes()[1..], &bincode::serialize(&plain).unwrap()[..]);
    }
}

#[test]
fn extensions_of_messagepack_are_kept() {
    for len in [0, 1, 2, 3, 16, 300] {
        again(&Ext((5, Bin(vec![7; len]))));
        again(&vec![Some(Ext((-1, Bin(vec![1; len]))))]);
    }
    let error = Value::encode(&Ext((107, Bin(vec![1]))), Codec::MessagePack).unwrap_err();
    assert!(error.to_string().contains("keepstep's own"), "{error}");
    again(&Ext((107, Bin(vec![1, 2]))));
    // Damage.
    for bytes in [
        &[tag::MESSAGE_PACK, 0xd4, 107, 0][..],
        &[tag::MESSAGE_PACK, 0xd4, 107],
    ] {
        assert!(
            Value::from_bytes(bytes)
                .decode::<Option<Option<u8>>>()
                .is_err()
        );
    }
}
