//! Tests of values: what is encoded decodes.

use std::collections::BTreeMap;

use super::*;

mod round_trips;

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
    for codec in [Codec::MessagePack, Codec::Bincode] {
        let stored = Value::encode(&value, codec).unwrap();
        assert_eq!(stored.decode::<T>().unwrap(), value, "{codec:?}");
        assert_eq!(
            stored.ok().decode::<Result<T, String>>().unwrap(),
            Ok(value_again(&stored)),
            "{codec:?}"
        );
    }
}

fn value_again<T: DeserializeOwned>(stored: &Value) -> T {
    stored.decode().unwrap()
}

#[test]
fn values_come_back_as_they_were() {
    round_trip(());
    round_trip(-1i64);
    // Around the length from which a value has memory of its own.
    for len in 0..2 * SHORT {
        round_trip("x".repeat(len));
        round_trip(vec![len; len]);
    }
    round_trip(u128::MAX);
    round_trip(f64::MIN_POSITIVE);
    round_trip(String::from("zażółć"));
    round_trip(vec![Some(1u8), None]);
    round_trip((1u8, 'x', true));
    round_trip(BTreeMap::from([(1u64, vec![1.5f64])]));
    round_trip(Err::<u8, String>("no".into()));
}

#[test]
fn json_values_survive_in_message_pack() {
    let value = serde_json::json!({"a": [1, 2.5, null, {"b": "c"}]});
    assert_eq!(
        Value::encode(&value, Codec::MessagePack)
            .unwrap()
            .decode::<serde_json::Value>()
            .unwrap(),
        value
    );
}

#[test]
fn blobs_are_found_and_replaced_wherever_they_stand() {
    let stored = Value::encode(&7u8, Codec::MessagePack).unwrap();
    let plain = Value::encode(&1u8, Codec::Bincode).unwrap();
    let (a, b) = (BlobId([7; 32]), BlobId([8; 32]));
    let list = Value::list(
        [
            &Value::blob(&[], a, 2).ok(),
            &plain.ok(),
            &Value::blob(&[], b, 2).ok(),
        ]
        .into_iter(),
    );
    let value = list.either(false);
    let mut found = Vec::new();
    value.for_each_blob(&mut |blob| found.push(blob));
    assert_eq!(found, [a, b]);
    type Decoded = either::Either<(), Vec<Result<u8, String>>>;
    assert!(value.decode::<Decoded>().is_err());
    let bytes = bytes::Bytes::copy_from_slice(stored.as_bytes());
    let whole = value.with_parts(&|_| Some(bytes.clone()));
    assert!(!whole.has_parts());
    let decoded = whole.decode::<Decoded>().unwrap().right().unwrap();
    assert_eq!(decoded, [Ok(7), Ok(1), Ok(7)]);
    assert_eq!(value.with_parts(&|_| None), value);
    assert!(!stored.has_parts());
}

#[test]
fn names_stand_before_what_they_are_names_of() {
    let (a, b, blob) = (BlobId([7; 32]), BlobId([8; 32]), BlobId([9; 32]));
    let plain = Value::encode(&7u8, Codec::MessagePack).unwrap();
    let named = |names: &[BlobId], inner: &Value| {
        Value::from_bytes(&[&Value::header(names), inner.as_bytes()].concat())
    };
    let (first, second) = (
        named(&[a, b], &plain),
        Value::blob(&Value::header(&[b]), blob, 2),
    );
    let list = Value::list([&first.ok(), &second.ok(), &plain.ok()].into_iter());
    let value = list.either(true);
    let (mut names, mut parts, mut all) = (vec![], vec![], vec![]);
    value.for_each_name(&mut |id| names.push(id));
    value.for_each_part(&mut |id| parts.push(id));
    value.for_each_blob(&mut |id| all.push(id));
    assert_eq!((&names[..], &parts[..]), (&[a, b, b][..], &[blob][..]));
    assert_eq!(all, [a, b, b, blob]);
    assert!(!first.has_parts() && second.has_parts());
    assert_eq!(first.decode::<u8>().unwrap(), 7);
    let bytes = bytes::Bytes::copy_from_slice(plain.as_bytes());
    let whole = value.with_parts(&|_| Some(bytes.clone()));
    type Decoded = either::Either<Vec<Result<u8, String>>, ()>;
    let decoded = whole.decode::<Decoded>().unwrap().left().unwrap();
    assert_eq!(decoded, [Ok(7), Ok(7), Ok(7)]);
    names.clear();
    whole.for_each_name(&mut |id| names.push(id));
    assert_eq!(names, [a, b, b]);
    // What it names is no part of what a workflow computes.
    let header = Value::header(&[a]);
    assert_eq!(split_header(first.as_bytes()).1, plain.as_bytes());
    assert_eq!(header_len(&header[..5]), header.len());
    assert_eq!(names_at(first.as_bytes()), [a, b]);
}

#[test]
fn a_value_is_three_words() {
    assert_eq!(size_of::<Value>(), 3 * size_of::<usize>());
}

#[test]
fn lists_decode_as_lists_and_tuples() {
    let one = Value::encode(&1u8, Codec::Bincode).unwrap();
    let text = Value::encode("two", Codec::MessagePack).unwrap();
    let pair = Value::list([&one, &text].into_iter());
    assert_eq!(pair.decode::<(u8, String)>().unwrap(), (1, "two".into()));
    let pairs = Value::list([&pair, &pair].into_iter());
    let decoded = pairs.decode::<Vec<(u8, String)>>().unwrap();
    assert_eq!(decoded, [(1, "two".into()), (1, "two".into())]);
    assert!(
        Value::list([].into_iter())
            .decode::<Vec<u8>>()
            .unwrap()
            .is_empty()
    );
    let left = text.either(true).decode::<either::Either<String, u8>>();
    assert_eq!(left.unwrap().left().unwrap(), "two");
    // Of a type that takes anything.
    let json = Value::list([&text, &text.ok()].into_iter()).decode::<serde_json::Value>();
    assert_eq!(json.unwrap(), serde_json::json!(["two", {"Ok": "two"}]));
}

#[test]
fn damaged_lists_are_an_error() {
    let one = Value::encode(&1u8, Codec::MessagePack).unwrap();
    let whole = Value::list([&one, &one].into_iter());
    for cut in 1..whole.len() {
        // Where an element ends, so may the list.
        let cut_off = Value::from_bytes(&whole.as_bytes()[..cut]).decode::<Vec<u8>>();
        assert_eq!(
            cut_off.is_ok(),
            cut == 1 || cut == 1 + 4 + one.len(),
            "{cut}"
        );
    }
    let mut deep = one;
    for _ in 0..10_000 {
        deep = Value::list([&deep].into_iter());
    }
    assert!(!deep.has_parts());
    assert!(deep.decode::<serde_json::Value>().is_err());
}

#[test]
fn damaged_bytes_are_an_error() {
    for bytes in [
        &[][..],
        &[0],
        &[99, 1],
        &[tag::MESSAGE_PACK],
        &[tag::BINCODE, 1],
        &[tag::OK],
        &[tag::BLOB, 1],
        &[tag::LEFT],
        &[tag::LIST, 1],
        &[tag::OBJECTS],
        &[tag::OBJECTS, 1, 0, 0, 0, 7],
        &[tag::OBJECTS, 0, 0, 0, 0],
        &[tag::OBJECTS, 255, 255, 255, 255, tag::MESSAGE_PACK, 7],
    ] {
        assert!(
            Value::from_bytes(bytes).decode::<u64>().is_err(),
            "{bytes:?}"
        );
    }
}
