//! Which types say what all of their parts are. What is taken for one and is none is stored without being read again.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::Shape;

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its shape is looked at")]
enum Payment {
    Card { number: String },
    Wire { number: String, iban: String },
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Envelope<T> {
    id: u8,
    content: T,
}

fn is_plain<T: DeserializeOwned>() -> bool {
    Shape::of::<T>().is_plain()
}

#[test]
fn a_generic_type_in_another_instance_of_itself_is_not_inside_of_itself() {
    assert!(!is_plain::<Envelope<Payment>>());
    assert!(!is_plain::<Envelope<Envelope<Payment>>>());
    assert!(!is_plain::<Envelope<Vec<Envelope<Payment>>>>());
    assert!(!is_plain::<Envelope<Option<Envelope<Vec<Payment>>>>>());
    assert!(!is_plain::<Result<Vec<Result<Payment, u8>>, String>>());
    assert!(is_plain::<Envelope<Vec<Envelope<u8>>>>());
    assert!(is_plain::<Result<Vec<Result<IpAddr, u8>>, String>>());
    let shape = Shape::of::<Envelope<Vec<Envelope<u8>>>>();
    assert!(shape.kind(".content[].content").is_some());
}

#[test]
fn what_stands_beside_a_type_inside_of_itself_is_seen() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Node<T> {
        edges: Vec<Edge<T>>,
        at: IpAddr,
        kind: Kind,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    enum Kind {
        Inner(u8),
        Leaf,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Edge<T> {
        to: Node<T>,
        cost: T,
    }
    assert!(is_plain::<Node<u64>>());
    assert!(!is_plain::<Node<Payment>>());
    assert!(!is_plain::<Node<BTreeMap<String, Payment>>>());

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    enum Tree<T> {
        Many(Vec<(Tree<T>, T)>),
        Fork(Box<Tree<T>>, T),
        By {
            left: Box<Tree<T>>,
            named: HashMap<String, T>,
        },
        Leaf,
    }
    assert!(is_plain::<Tree<u64>>());
    assert!(!is_plain::<Tree<Payment>>());
    assert!(is_plain::<Vec<Tree<IpAddr>>>());
    let shape = Shape::of::<Tree<u64>>();
    for path in ["#Many[].0", "#Many[][].1", "#Fork.1", "#By.named[]"] {
        let is_there = shape.kind(path).is_some();
        assert_eq!(
            is_there,
            path != "#Many[].0",
            "{path}: {:?}",
            shape.places()
        );
    }

    // Of which there is a value only by way of another type.
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Account<T> {
        owner: Owner<T>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    enum Owner<T> {
        Other(Box<Account<T>>, Box<Owner<T>>, T),
        Nobody,
    }
    assert!(is_plain::<Account<u8>>());
    assert!(!is_plain::<Account<Payment>>());
}

#[test]
fn every_part_of_a_long_tuple_counts() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Long<T>(
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        u8,
        T,
    );
    assert!(is_plain::<Long<u8>>());
    assert!(!is_plain::<Long<Payment>>());
    assert!(!is_plain::<Long<Option<Payment>>>());
    assert!(is_plain::<[u8; 32]>());
    assert!(!is_plain::<[Payment; 32]>());
}
