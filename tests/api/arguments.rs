//! Every form of argument reaches the body as what the parameter says.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    lines: Vec<String>,
}

impl Order {
    fn new(id: u64) -> Self {
        let lines = vec![format!("line of {id}")];
        Self { id, lines }
    }
}

#[step]
async fn number(n: i64) -> i64 {
    n
}

#[step]
async fn order(id: u64) -> Order {
    Order::new(id)
}

#[step]
async fn list(items: Vec<i64>) -> Vec<i64> {
    items
}

#[step]
async fn array(items: [i64; 3]) -> [i64; 3] {
    items
}

#[step]
async fn option(item: Option<i64>) -> Option<i64> {
    item
}

#[step]
async fn tuple(items: (i64, Order, Option<bool>)) -> (i64, Order, Option<bool>) {
    items
}

#[step]
async fn hash_map(items: HashMap<String, i64>) -> HashMap<String, i64> {
    items
}

#[step]
async fn tree_map(items: BTreeMap<u8, Order>) -> BTreeMap<u8, Order> {
    items
}

#[step]
async fn text(text: &str) -> String {
    text.to_uppercase()
}

#[step]
async fn owned_text(text: String) -> String {
    text
}

#[step]
async fn path(path: &Path) -> PathBuf {
    path.join("file")
}

#[step]
async fn borrowed(order: &Order, items: &[Order], n: &i64, names: &HashMap<u8, String>) -> usize {
    order.lines.len() + items.len() + *n as usize + names.len()
}

#[step]
async fn patterns(
    mut a: i64,
    (b, c): (i64, i64),
    Order { id, .. }: Order,
    [d, ..]: [i64; 2],
    _: i64,
) -> i64 {
    a += b + c + d;
    a * 1000 + id as i64
}

#[tokio::test]
async fn values_and_workflows_are_arguments() -> keepstep::Result<()> {
    assert_eq!(number(7).eval().await?, 7);
    assert_eq!(number(number(7)).eval().await?, 7);
    let inner = number(7);
    assert_eq!(number(&inner).eval().await?, 7);
    assert_eq!(number(inner.clone()).eval().await?, 7);
    assert_eq!(number(Workflow::value(7)).eval().await?, 7);
    Ok(())
}

#[tokio::test]
async fn containers_of_workflows_are_arguments() -> keepstep::Result<()> {
    assert_eq!(list(vec![1, 2]).eval().await?, [1, 2]);
    assert_eq!(list(Vec::<i64>::new()).eval().await?, [0; 0]);
    assert_eq!(list(&[1, 2][..]).eval().await?, [1, 2]);
    let items = vec![1, 2];
    assert_eq!(list(&items).eval().await?, items);
    assert_eq!(list(vec![number(1), number(2)]).eval().await?, [1, 2]);
    assert_eq!(list([number(1), number(2)]).eval().await?, [1, 2]);
    assert_eq!(list(Vec::<Workflow<i64>>::new()).eval().await?, [0; 0]);
    assert_eq!(list(list(vec![1, 2])).eval().await?, [1, 2]);
    let one = number(1);
    assert_eq!(list(vec![one.clone(), one]).eval().await?, [1, 1]);

    assert_eq!(array([1, 2, 3]).eval().await?, [1, 2, 3]);
    let three = [number(1), number(2), number(3)];
    assert_eq!(array(three).eval().await?, [1, 2, 3]);

    assert_eq!(option(Some(1)).eval().await?, Some(1));
    assert_eq!(option(None::<i64>).eval().await?, None);
    assert_eq!(option(Some(number(1))).eval().await?, Some(1));
    assert_eq!(option(None::<Workflow<i64>>).eval().await?, None);

    let expected = (1, Order::new(2), Some(true));
    assert_eq!(tuple(expected.clone()).eval().await?, expected);
    let mixed = (number(1), order(2), Workflow::value(Some(true)));
    assert_eq!(tuple(mixed).eval().await?, expected);

    let names = || (0..20).map(|n| (format!("name {n}"), n));
    let expected: HashMap<String, i64> = names().collect();
    assert_eq!(hash_map(expected.clone()).eval().await?, expected);
    let workflows: HashMap<String, _> = names().map(|(key, n)| (key, number(n))).collect();
    assert_eq!(hash_map(workflows).eval().await?, expected);

    let expected: BTreeMap<u8, Order> = (0..3).map(|n| (n, Order::new(n.into()))).collect();
    assert_eq!(tree_map(expected.clone()).eval().await?, expected);
    let workflows: BTreeMap<u8, _> = (0..3u8).map(|n| (n, order(u64::from(n)))).collect();
    assert_eq!(tree_map(workflows).eval().await?, expected);
    Ok(())
}

#[tokio::test]
async fn borrowed_forms_are_arguments() -> keepstep::Result<()> {
    assert_eq!(text("a").eval().await?, "A");
    assert_eq!(text(String::from("a")).eval().await?, "A");
    let owned = String::from("a");
    assert_eq!(text(&owned).eval().await?, owned.to_uppercase());
    assert_eq!(text(Cow::Borrowed("a")).eval().await?, "A");
    assert_eq!(text(owned_text("a")).eval().await?, "A");
    assert_eq!(path("dir").eval().await?, Path::new("dir/file"));
    assert_eq!(path(Path::new("dir")).eval().await?, Path::new("dir/file"));
    let dir = PathBuf::from("dir");
    assert_eq!(path(&dir).eval().await?, Path::new("dir/file"));
    assert_eq!(path(path(dir)).eval().await?, Path::new("dir/file/file"));

    let names = HashMap::from([(1, owned_text("one")), (2, owned_text("two"))]);
    let workflow = borrowed(order(1), vec![order(2), order(3)], number(4), names);
    assert_eq!(workflow.eval().await?, 1 + 2 + 4 + 2);
    Ok(())
}

#[tokio::test]
async fn patterns_take_arguments_apart() -> keepstep::Result<()> {
    let workflow = patterns(number(1), (number(2), number(3)), order(7), [4, 5], 6);
    assert_eq!(workflow.eval().await?, 10_007);
    Ok(())
}

/// What JSON has and MessagePack has not, and attributes of serde that bincode cannot do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Shape {
    RoundOne { radius: f64 },
    Other(Nested),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Nested {
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<Box<Shape>>,
}

#[step]
async fn same(shapes: Vec<Shape>) -> Vec<Shape> {
    shapes
}

#[tokio::test]
async fn every_attribute_of_serde_survives() -> keepstep::Result<()> {
    let more = serde_json::from_value(serde_json::json!({"a": [1, null, {"b": 1.5}], "c": "d"}));
    let nested = Nested {
        more: more.unwrap(),
        note: Some(Box::new(Shape::RoundOne { radius: 1.0 })),
    };
    let shapes = vec![Shape::RoundOne { radius: 0.1 }, Shape::Other(nested)];
    assert_eq!(same(same(shapes.clone())).eval().await?, shapes);
    Ok(())
}

#[derive(Debug, Clone)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it cannot be written"))
    }
}

impl<'de> Deserialize<'de> for Unwritable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

#[step]
async fn takes_unwritable(_first: i64, _value: Unwritable) -> i64 {
    1
}

#[tokio::test]
async fn an_argument_that_cannot_be_stored_is_an_error_at_submission() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let bad = takes_unwritable(number(1), Unwritable);
    match engine.start("run", number(bad)).await {
        Err(Error::Unencodable {
            step,
            param,
            message,
        }) => {
            assert!(step.ends_with("takes_unwritable"), "{step}");
            assert_eq!(param, "_value");
            assert!(message.contains("it cannot be written"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let error = engine.status("run").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    engine.shutdown().await
}
