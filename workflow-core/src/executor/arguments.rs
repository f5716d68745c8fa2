//! The arguments of an execution: stored literals, and the results of the step's inputs in their places.

use keepstep_storage::{Storage, StorageError};

use crate::engine::load_value;
use crate::plan::{Arg, NodeKind};
use crate::run::Start;
use crate::source::{Source, Sources};
use crate::value::Value;

/// Whether no part of the arguments is kept in a blob.
pub(super) fn are_at_hand(start: &Start) -> bool {
    let mut at_hand = start.inputs.iter().all(|value| !value.has_parts());
    start
        .plan
        .node(start.index)
        .for_each_literal(&mut |value| at_hand &= !value.has_parts());
    at_hand
}

/// Loads what is kept in blobs, and puts the arguments together.
pub(super) async fn load(mut start: Start, storage: &dyn Storage) -> Result<Sources, StorageError> {
    for value in &mut start.inputs {
        *value = load_value(value.clone(), storage).await?;
    }
    // Before filling in, which is not async.
    let mut blobs = Vec::new();
    start.plan.node(start.index).for_each_literal(&mut |value| {
        if value.has_parts() {
            blobs.push(value.clone());
        }
    });
    let mut literals = Vec::with_capacity(blobs.len());
    for value in blobs {
        let loaded = load_value(value.clone(), storage).await?;
        literals.push((value, loaded));
    }
    Ok(fill(start, &literals))
}

/// One argument, of the results of the nodes that it names, in their order.
pub(crate) async fn load_arg(
    arg: &Arg,
    mut inputs: Vec<Value>,
    storage: &dyn Storage,
) -> Result<Source, StorageError> {
    for value in &mut inputs {
        *value = load_value(value.clone(), storage).await?;
    }
    let mut blobs = Vec::new();
    arg.for_each_literal(&mut |value| {
        if value.has_parts() {
            blobs.push(value.clone());
        }
    });
    let mut literals = Vec::with_capacity(blobs.len());
    for value in blobs {
        let loaded = load_value(value.clone(), storage).await?;
        literals.push((value, loaded));
    }
    let mut fill = Fill {
        inputs: &mut inputs.into_iter(),
        literals: &literals,
    };
    Ok(fill.source(arg))
}

/// Puts the arguments together. `literals` has what stands in the place of each literal that is kept in a blob.
pub(super) fn fill(start: Start, literals: &[(Value, Value)]) -> Sources {
    let NodeKind::Step { args, .. } = &start.plan.node(start.index).kind else {
        return Sources::new();
    };
    let mut inputs = start.inputs.into_iter();
    let mut fill = Fill {
        inputs: &mut inputs,
        literals,
    };
    args.iter().map(|arg| fill.source(arg)).collect()
}

struct Fill<'a> {
    inputs: &'a mut std::vec::IntoIter<Value>,
    literals: &'a [(Value, Value)],
}

impl Fill<'_> {
    fn source(&mut self, arg: &Arg) -> Source {
        match arg {
            Arg::Value(value) => Source::Value(self.literal(value)),
            // There is an input for each: both come from the same walk.
            Arg::Node(_) => {
                Source::Value(self.inputs.next().unwrap_or_else(|| Value::from_bytes(&[])))
            }
            Arg::Seq(items) => Source::Seq(items.iter().map(|item| self.source(item)).collect()),
            Arg::Map(entries) => Source::Map(
                entries
                    .iter()
                    .map(|(key, value)| (self.literal(key), self.source(value)))
                    .collect(),
            ),
            Arg::Some(inner) => Source::Some(Box::new(self.source(inner))),
        }
    }

    fn literal(&self, value: &Value) -> Value {
        let loaded = self.literals.iter().find(|(blob, _)| blob == value);
        loaded.map_or_else(|| value.clone(), |(_, loaded)| loaded.clone())
    }
}
