//! What has no order is the same workflow in whatever order it is.

use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use keepstep::prelude::*;
use keepstep::{child, virtual_actor};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Filter {
    by_kind: BTreeMap<String, Vec<Choice>>,
    ranks: Vec<BinaryHeapOf>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Choice {
    AnyOf(HashSet<String>),
    Not { these: Option<HashSet<u64>> },
}

/// Heaps cannot be compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct BinaryHeapOf(BinaryHeap<u32>);

impl PartialEq for BinaryHeapOf {
    fn eq(&self, other: &Self) -> bool {
        self.0.clone().into_sorted_vec() == other.0.clone().into_sorted_vec()
    }
}

/// Each time another order: each set has a hasher of its own, and a heap is what it was made from.
fn filter() -> Filter {
    let texts = || (0..40).map(|n| format!("word {n}")).collect();
    let mut ranks: Vec<u32> = (0..40).collect();
    fastrand::shuffle(&mut ranks);
    let choices = vec![
        Choice::AnyOf(texts()),
        Choice::Not {
            these: Some((0..40).collect()),
        },
        Choice::Not { these: None },
    ];
    Filter {
        by_kind: BTreeMap::from([("a".to_owned(), choices)]),
        ranks: vec![BinaryHeapOf(ranks.into_iter().collect())],
    }
}

#[step]
async fn count(filter: Filter, more: HashSet<u8>, maps: HashMap<u8, HashSet<u8>>) -> usize {
    filter.by_kind.len() + more.len() + maps.len()
}

#[step]
async fn numbers(list: Vec<u8>) -> usize {
    list.len()
}

fn counting() -> Workflow<usize> {
    let bytes = || (0..40).collect::<HashSet<u8>>();
    count(
        filter(),
        bytes(),
        (0..9).map(|n| (n, bytes())).collect::<HashMap<_, _>>(),
    )
}

#[tokio::test]
async fn the_same_call_with_a_set_is_the_same_run() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    assert_ne!(
        format!("{:?}", filter()),
        format!("{:?}", filter()),
        "the orders must differ for this to try anything"
    );
    for _ in 0..20 {
        assert_eq!(engine.run("run", counting()).await?, 50);
        assert_eq!(engine.run("parent", child("child", counting())).await?, 50);
    }
    // The order of a list is part of what it is.
    engine.run("list", numbers(vec![1, 2])).await?;
    let other = engine.run("list", numbers(vec![2, 1])).await;
    assert!(matches!(other, Err(Error::IdConflict { .. })), "{other:?}");
    engine.shutdown().await
}

#[tokio::test]
async fn another_set_is_another_workflow() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    #[step]
    async fn size(set: HashSet<u8>) -> usize {
        set.len()
    }
    engine.run("run", size(HashSet::from([1, 2]))).await?;
    let other = engine.run("run", size(HashSet::from([1, 3]))).await;
    assert!(matches!(other, Err(Error::IdConflict { .. })), "{other:?}");
    engine.shutdown().await
}

#[tokio::test]
async fn a_call_whose_id_was_used_is_found_again() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let set = Seen::on(&engine).get_or_create("s").await?;
    for _ in 0..10 {
        assert_eq!(
            set.see((0..40).collect::<HashSet<u8>>()).id("once").await?,
            40
        );
    }
    engine.shutdown().await
}

#[derive(Serialize, Deserialize)]
struct Seen(HashSet<u8>);

#[virtual_actor]
impl Seen {
    pub fn new() -> Self {
        Self(HashSet::new())
    }

    pub async fn see(&mut self, more: HashSet<u8>) -> usize {
        self.0.extend(more);
        self.0.len()
    }
}
