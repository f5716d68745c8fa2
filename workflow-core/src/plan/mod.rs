//! The plan: the flat, untyped, encodable form of a DAG. What is stored of a workflow.

mod flatten;
mod hash;

use std::sync::Arc;

use keepstep_storage::BlobId;
use serde::{Deserialize, Serialize};

#[cfg(feature = "schedules")]
pub(crate) use flatten::Flattened;
pub(crate) use flatten::flatten;
pub(crate) use hash::hash;

use crate::value::Value;

/// A flat DAG. A node's inputs stand before it; the last of them all is the root, whose result is the plan's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The steps that nodes refer to by number.
    pub(crate) steps: Vec<StepRef>,
    /// The nodes, inputs first.
    pub(crate) nodes: Vec<PlanNode>,
}

/// A step's name and version: how its code is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StepRef {
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanNode {
    pub(crate) kind: NodeKind,
    /// What few nodes have.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What a node does. Variants are only ever added, at the end: their numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeKind {
    /// Runs a step.
    Step { step: u32, args: Box<[Arg]> },
    /// Is finished.
    Value(Value),
    /// Turns its input's failure into a value.
    Catch(u32),
}

/// One argument of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Arg {
    Value(Value),
    /// The result of a node of this plan.
    Node(u32),
    Seq(Box<[Arg]>),
    Map(Box<[(Value, Arg)]>),
    Some(Box<Arg>),
}

/// What a user may say of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Extra {
    pub(crate) name: Option<Arc<str>>,
    /// Nodes that must be done first, without their results being used.
    pub(crate) after: Box<[u32]>,
    pub(crate) retries: Option<u32>,
    /// In microseconds.
    pub(crate) timeout: Option<u64>,
    /// JSON text.
    pub(crate) metadata: Option<Box<str>>,
}

impl Plan {
    /// The number of the root.
    pub(crate) fn root(&self) -> u32 {
        u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn node(&self, index: u32) -> &PlanNode {
        &self.nodes[index as usize]
    }

    /// The step a node runs, if it runs one.
    pub(crate) fn step_of(&self, index: u32) -> Option<&StepRef> {
        match self.node(index).kind {
            NodeKind::Step { step, .. } => Some(&self.steps[step as usize]),
            NodeKind::Value(_) | NodeKind::Catch(_) => None,
        }
    }

    /// The name that the user gave a node.
    pub(crate) fn name_of(&self, index: u32) -> Option<&Arc<str>> {
        self.node(index).extra.as_ref()?.name.as_ref()
    }

    /// What people see a node called.
    pub(crate) fn label(&self, index: u32) -> &str {
        match (self.name_of(index), &self.node(index).kind) {
            (Some(name), _) => name,
            (None, NodeKind::Step { step, .. }) => &self.steps[*step as usize].name,
            (None, NodeKind::Value(_)) => "value",
            (None, NodeKind::Catch(_)) => "catch",
        }
    }

    /// Every value that stands in the plan.
    pub(crate) fn for_each_value(&self, visit: &mut impl FnMut(&Value)) {
        self.nodes
            .iter()
            .for_each(|node| node.for_each_literal(visit));
    }

    /// Puts another value in the place of each value that stands in the plan.
    pub(crate) fn for_each_value_mut(&mut self, change: &mut impl FnMut(&mut Value)) {
        for node in &mut self.nodes {
            match &mut node.kind {
                NodeKind::Step { args, .. } => args
                    .iter_mut()
                    .for_each(|arg| arg.for_each_literal_mut(change)),
                NodeKind::Value(value) => change(value),
                NodeKind::Catch(_) => {}
            }
        }
    }

    /// The blobs that values of the plan are kept in.
    pub(crate) fn blobs(&self) -> Vec<BlobId> {
        let mut blobs = Vec::new();
        self.for_each_value(&mut |value| blobs.extend(value.blob_id()));
        blobs
    }

    /// Whether every reference of a plan that was read from a store points to something before it.
    pub(crate) fn is_sound(&self) -> bool {
        !self.nodes.is_empty()
            && self.nodes.len() < u32::MAX as usize
            && self.nodes.iter().enumerate().all(|(index, node)| {
                let mut sound = match node.kind {
                    NodeKind::Step { step, .. } => (step as usize) < self.steps.len(),
                    NodeKind::Value(_) | NodeKind::Catch(_) => true,
                };
                node.for_each_input(&mut |input| sound &= (input as usize) < index);
                sound
            })
    }
}

impl PlanNode {
    /// Shows the values that stand in the node to `visit`.
    pub(crate) fn for_each_literal(&self, visit: &mut impl FnMut(&Value)) {
        match &self.kind {
            NodeKind::Step { args, .. } => args.iter().for_each(|arg| arg.for_each_literal(visit)),
            NodeKind::Value(value) => visit(value),
            NodeKind::Catch(_) => {}
        }
    }

    /// Shows each node this one depends on to `visit`, as often as it does.
    pub(crate) fn for_each_input(&self, visit: &mut impl FnMut(u32)) {
        match &self.kind {
            NodeKind::Step { args, .. } => args.iter().for_each(|arg| arg.for_each_input(visit)),
            NodeKind::Catch(inner) => visit(*inner),
            NodeKind::Value(_) => {}
        }
        if let Some(extra) = &self.extra {
            extra.after.iter().copied().for_each(visit);
        }
    }
}

impl Arg {
    fn for_each_literal(&self, visit: &mut impl FnMut(&Value)) {
        match self {
            Self::Value(value) => visit(value),
            Self::Node(_) => {}
            Self::Seq(items) => items.iter().for_each(|item| item.for_each_literal(visit)),
            Self::Map(entries) => entries.iter().for_each(|(key, value)| {
                visit(key);
                value.for_each_literal(visit);
            }),
            Self::Some(inner) => inner.for_each_literal(visit),
        }
    }

    fn for_each_literal_mut(&mut self, change: &mut impl FnMut(&mut Value)) {
        match self {
            Self::Value(value) => change(value),
            Self::Node(_) => {}
            Self::Seq(items) => items
                .iter_mut()
                .for_each(|item| item.for_each_literal_mut(change)),
            Self::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
                change(key);
                value.for_each_literal_mut(change);
            }),
            Self::Some(inner) => inner.for_each_literal_mut(change),
        }
    }

    pub(crate) fn for_each_input(&self, visit: &mut impl FnMut(u32)) {
        match self {
            Self::Value(_) => {}
            Self::Node(node) => visit(*node),
            Self::Seq(items) => items.iter().for_each(|item| item.for_each_input(visit)),
            Self::Map(entries) => entries
                .iter()
                .for_each(|(_, value)| value.for_each_input(visit)),
            Self::Some(inner) => inner.for_each_input(visit),
        }
    }
}
