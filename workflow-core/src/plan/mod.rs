//! The plan: the flat, untyped, encodable form of a DAG. What is stored of a workflow.

mod args;
mod depth;
mod flatten;
mod hash;

use std::sync::Arc;
use std::time::Duration;

use bincode::Options;
use keepstep_storage::{BlobId, RunId, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use args::Args;
pub(crate) use flatten::{Flattened, check_args, flatten};
pub(crate) use hash::{hash, is_same_content};

use crate::object::Pins;
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
    /// What its types looked like to the program that made the plan: a fingerprint of each parameter, then that of the result.
    /// Not part of what the plan is: the same workflow of newer code is the same.
    pub(crate) fingerprints: Arc<[u32]>,
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
    Step {
        step: u32,
        #[serde(with = "args")]
        args: Args,
    },
    /// Is finished.
    Value(Value),
    /// Turns its input's failure into a value.
    Catch(u32),
    /// Waits until a time.
    Sleep(Until),
    /// Waits for a message of this name.
    Event(Arc<str>),
    /// Is done when all of its inputs are, with the list of their results.
    All(Box<[u32]>),
    /// Ends as the first of its inputs that ends does.
    First(First, Box<[u32]>),
    /// Waits for the end of a run of its own.
    Child(Box<Child>),
}

/// When a node that waits for a time is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Until {
    /// So many microseconds after the run reached it.
    After(u64),
    At(Timestamp),
}

/// How the result of the first of several nodes is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum First {
    /// `Left` or `Right`.
    Either,
    /// With its place.
    Placed,
    /// As it is: there is only one.
    Alone,
}

/// A run that another one starts and waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Child {
    pub(crate) id: RunId,
    /// Its plan, encoded: children of children are not looked into.
    pub(crate) plan: Arc<[u8]>,
    pub(crate) hash: [u8; 32],
    /// The blobs that values of the plan are kept in or refer to, those of children of children included.
    pub(crate) blobs: Box<[BlobId]>,
    #[serde(skip)]
    pub(crate) in_memory: InMemory,
}

/// What is known of the plan of a child while it is in memory; no part of what it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct InMemory {
    /// Keep the blobs before a run names them.
    pins: Vec<Arc<Pins>>,
    /// The plan itself, if its values are not ready to be stored.
    pub(crate) unsettled: Option<Box<Plan>>,
}

impl PartialEq for InMemory {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for InMemory {}

impl Child {
    /// A run of this id and plan; `None` if that does not encode.
    pub(crate) fn new(id: RunId, plan: &Plan) -> Option<Self> {
        let bytes = bincode::DefaultOptions::new().serialize(plan).ok()?;
        let mut pins = Vec::new();
        plan.for_each_value(&mut |value| pins.extend_from_slice(value.pins()));
        plan.for_each_child(&mut |child| pins.extend_from_slice(&child.in_memory.pins));
        Some(Self {
            id,
            plan: bytes.into(),
            hash: hash(plan),
            blobs: plan.blobs().into(),
            in_memory: InMemory {
                pins,
                unsettled: (!plan.is_settled()).then(|| Box::new(plan.clone())),
            },
        })
    }

    /// Its plan; `None` if the bytes are not one.
    pub(crate) fn plan(&self) -> Option<Plan> {
        let options = bincode::DefaultOptions::new().with_limit(self.plan.len() as u64);
        let plan: Plan = options.deserialize(&self.plan).ok()?;
        plan.is_sound().then_some(plan)
    }
}

/// One argument of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Arg {
    Value(Value),
    /// The result of a node of this plan.
    Node(u32),
    Seq(#[serde(deserialize_with = "depth::nested")] Box<[Arg]>),
    Map(#[serde(deserialize_with = "depth::nested")] Box<[(Value, Arg)]>),
    Some(#[serde(deserialize_with = "depth::nested")] Box<Arg>),
}

/// What a user may say of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Extra {
    pub(crate) name: Option<Arc<str>>,
    /// Nodes that must be done first, without their results being used.
    pub(crate) after: Box<[u32]>,
    pub(crate) retries: Option<u32>,
    /// In microseconds. Of a step, that of one attempt; of any other node, of its whole wait.
    pub(crate) timeout: Option<u64>,
    /// JSON text.
    pub(crate) metadata: Option<Box<str>>,
    /// Of a remote step, in place of what it says itself.
    pub(crate) priority: Option<i32>,
    /// What a remote step counts under where its pool has a limit for each key.
    pub(crate) key: Option<Box<str>>,
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
            _ => None,
        }
    }

    /// A plan of nothing but one step, which has all of its inputs. `None` if the node is no step, or an input is missing.
    pub(crate) fn of_step(&self, index: u32, inputs: Vec<Value>) -> Option<Self> {
        let node = self.node(index);
        let NodeKind::Step { args, .. } = &node.kind else {
            return None;
        };
        let mut inputs = inputs.into_iter();
        let args = args.iter().map(|arg| arg.filled(&mut inputs));
        let kind = NodeKind::Step {
            step: 0,
            args: args.collect::<Option<_>>()?,
        };
        let extra = node.extra.as_ref().map(|extra| Extra {
            name: extra.name.clone(),
            timeout: extra.timeout,
            ..Extra::default()
        });
        let extra = extra.filter(|extra| *extra != Extra::default());
        Some(Self {
            steps: vec![self.step_of(index)?.clone()],
            nodes: vec![PlanNode {
                kind,
                extra: extra.map(Box::new),
            }],
        })
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
            (None, NodeKind::Event(event)) => event,
            (None, NodeKind::Child(child)) => child.id.as_str(),
            (None, kind) => kind.label(),
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
                _ => {}
            }
        }
    }

    fn for_each_child(&self, visit: &mut impl FnMut(&Child)) {
        for node in &self.nodes {
            if let NodeKind::Child(child) = &node.kind {
                visit(child);
            }
        }
    }

    /// The blobs that values of the plan are kept in or refer to.
    pub(crate) fn blobs(&self) -> Vec<BlobId> {
        let mut blobs = Vec::new();
        self.for_each_value(&mut |value| value.for_each_blob(&mut |blob| blobs.push(blob)));
        self.for_each_child(&mut |child| blobs.extend_from_slice(&child.blobs));
        blobs
    }

    /// Whether every value of it, and of the plans of its children, is ready to be stored.
    pub(crate) fn is_settled(&self) -> bool {
        let mut is_settled = true;
        self.for_each_value(&mut |value| is_settled &= value.is_settled());
        self.for_each_child(&mut |child| is_settled &= child.in_memory.unsettled.is_none());
        is_settled
    }

    /// Whether a plan that was read from a store is one: every reference points to something before it, and every node but the
    /// root is used.
    pub(crate) fn is_sound(&self) -> bool {
        if self.nodes.is_empty() || self.nodes.len() >= u32::MAX as usize {
            return false;
        }
        let mut is_used = vec![false; self.nodes.len()];
        is_used[self.root() as usize] = true;
        let refers_back = self.nodes.iter().enumerate().all(|(index, node)| {
            let mut sound = match &node.kind {
                NodeKind::Step { step, .. } => (*step as usize) < self.steps.len(),
                NodeKind::First(First::Either, inputs) => inputs.len() == 2,
                NodeKind::First(First::Alone, inputs) => inputs.len() == 1,
                NodeKind::First(First::Placed, inputs) => !inputs.is_empty(),
                _ => true,
            };
            node.for_each_input(&mut |input| {
                let is_before = (input as usize) < index;
                if is_before {
                    is_used[input as usize] = true;
                }
                sound &= is_before;
            });
            sound
        });
        refers_back && is_used.into_iter().all(|is_used| is_used)
    }
}

impl NodeKind {
    /// What a node of this kind is called that has no name.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Step { .. } => "step",
            Self::Value(_) => "value",
            Self::Catch(_) => "catch",
            Self::Sleep(_) => "sleep",
            Self::Event(_) => "event",
            Self::All(_) => "all",
            Self::First(First::Either, _) => "race",
            Self::First(First::Placed, _) => "select",
            Self::First(First::Alone, _) => "wait_for",
            Self::Child(_) => "child",
        }
    }

    /// Whether something must happen for a node of this kind to be done, beyond its inputs: it counts as a step of its run.
    pub(crate) fn is_counted(&self) -> bool {
        match self {
            Self::Step { .. } | Self::Sleep(_) | Self::Event(_) | Self::Child(_) => true,
            Self::Value(_) | Self::Catch(_) | Self::All(_) | Self::First(..) => false,
        }
    }
}

impl PlanNode {
    /// How long the node may take from when its clock starts, if it is not a step.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        match self.kind {
            NodeKind::Step { .. } => None,
            _ => Some(Duration::from_micros(self.extra.as_ref()?.timeout?)),
        }
    }

    /// Shows the values that stand in the node to `visit`.
    pub(crate) fn for_each_literal(&self, visit: &mut impl FnMut(&Value)) {
        match &self.kind {
            NodeKind::Step { args, .. } => args.iter().for_each(|arg| match arg {
                // Nearly every argument, and no call in a call for it.
                Arg::Value(value) => visit(value),
                Arg::Node(_) => {}
                nested => nested.for_each_literal(visit),
            }),
            NodeKind::Value(value) => visit(value),
            _ => {}
        }
    }

    /// Shows each node this one depends on to `visit`, as often as it does.
    pub(crate) fn for_each_input(&self, visit: &mut impl FnMut(u32)) {
        match &self.kind {
            NodeKind::Step { args, .. } => args.iter().for_each(|arg| match arg {
                Arg::Value(_) => {}
                Arg::Node(node) => visit(*node),
                nested => nested.for_each_input(visit),
            }),
            NodeKind::Catch(inner) => visit(*inner),
            NodeKind::All(inputs) | NodeKind::First(_, inputs) => {
                inputs.iter().copied().for_each(&mut *visit);
            }
            NodeKind::Value(_) | NodeKind::Sleep(_) | NodeKind::Event(_) | NodeKind::Child(_) => {}
        }
        if let Some(extra) = &self.extra {
            extra.after.iter().copied().for_each(visit);
        }
    }
}

impl Arg {
    pub(crate) fn for_each_literal(&self, visit: &mut impl FnMut(&Value)) {
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

    /// The same with values in the place of nodes; `None` if there are too few.
    fn filled(&self, inputs: &mut std::vec::IntoIter<Value>) -> Option<Self> {
        Some(match self {
            Self::Value(value) => Self::Value(value.clone()),
            Self::Node(_) => Self::Value(inputs.next()?),
            Self::Seq(items) => {
                let items = items.iter().map(|item| item.filled(inputs));
                Self::Seq(items.collect::<Option<_>>()?)
            }
            Self::Map(entries) => {
                let entries = entries.iter();
                let filled = entries.map(|(key, value)| Some((key.clone(), value.filled(inputs)?)));
                Self::Map(filled.collect::<Option<_>>()?)
            }
            Self::Some(inner) => Self::Some(Box::new(inner.filled(inputs)?)),
        })
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
