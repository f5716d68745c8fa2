//! Steps that act in a [`World`], and workflows of them written as values, so that a step can be told what to return.

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use super::World;

/// A workflow as a value. The names are those of its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Tree {
    /// A step that yields the sum of its inputs, and 1.
    Join(String, Vec<Tree>),
    /// A step that returns the workflow of a tree.
    Grow(String, Box<Tree>),
    /// What a tree yields, or -1 if it fails.
    Caught(String, Box<Tree>),
}

pub(crate) fn leaf(who: &str) -> Tree {
    join(who, [])
}

pub(crate) fn join(who: &str, inputs: impl Into<Vec<Tree>>) -> Tree {
    Tree::Join(who.to_owned(), inputs.into())
}

pub(crate) fn grow(who: &str, tree: Tree) -> Tree {
    Tree::Grow(who.to_owned(), Box::new(tree))
}

pub(crate) fn caught(who: &str, tree: Tree) -> Tree {
    Tree::Caught(who.to_owned(), Box::new(tree))
}

impl Tree {
    pub(crate) fn build(&self) -> Workflow<i64> {
        match self {
            Self::Join(who, inputs) => {
                let inputs: Vec<_> = inputs.iter().map(Self::build).collect();
                act(who, inputs).name(who)
            }
            Self::Grow(who, tree) => expand(who, (**tree).clone()).name(who),
            Self::Caught(who, tree) => or_minus_one(who, tree.build().catch()).name(who),
        }
    }
}

/// Acts, and yields the sum of its inputs and 1.
#[step(name = "act", retries = 0)]
pub(crate) async fn act(
    who: String,
    inputs: Vec<i64>,
    #[resource] world: &World,
) -> Result<i64, String> {
    world.act(&who).await?;
    Ok(inputs.iter().sum::<i64>() + 1)
}

#[step(name = "expand", retries = 0)]
async fn expand(
    who: String,
    tree: Tree,
    #[resource] world: &World,
) -> Result<Workflow<i64>, String> {
    world.act(&who).await?;
    Ok(tree.build())
}

#[step(name = "or_minus_one", retries = 0)]
async fn or_minus_one(
    who: String,
    result: Result<i64, StepError>,
    #[resource] world: &World,
) -> Result<i64, String> {
    world.act(&who).await?;
    Ok(result.unwrap_or(-1))
}
