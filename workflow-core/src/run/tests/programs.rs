//! Programs: descriptions of workflows whose steps do as they are told.

use std::fmt;

use crate::plan::{Arg, Args, Extra, NodeKind, Plan, PlanNode, StepRef};
use crate::value::{Codec, Value};

/// How often a step is tried again if the program does not say.
const DEFAULT_RETRIES: u32 = 1;

/// The number of a node in its program and all that it expands into: what it is known by in every test.
pub(super) type Uid = u32;

/// A workflow. A node's inputs stand before it; the last node is the root, and it needs all the others.
#[derive(Clone, Default)]
pub(super) struct Program {
    pub(super) nodes: Vec<Node>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) uid: Uid,
    pub(super) kind: Kind,
    /// Places in the program.
    pub(super) after: Vec<usize>,
    pub(super) is_named: bool,
    pub(super) retries: Option<u32>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Value,
    /// Of the node in this place.
    Catch(usize),
    Step(Step),
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Places in the program; the same one may stand there twice.
    pub(super) args: Vec<usize>,
    pub(super) shape: Shape,
    /// How many of its executions fail before one succeeds.
    pub(super) fails: u32,
    pub(super) then: Then,
    /// `checkpoint = false`.
    pub(super) is_volatile: bool,
}

/// What a step gives.
#[derive(Debug, Clone)]
pub(super) enum Then {
    Value,
    Program(Program),
}

/// How the inputs of a step stand in its arguments.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Plain,
    Seq,
    Nested,
}

/// Short enough to be read when a property fails.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.nodes).finish()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.label())?;
        match &self.kind {
            Kind::Value => write!(f, "value")?,
            Kind::Catch(inner) => write!(f, "catch {inner}")?,
            Kind::Step(step) => {
                let volatile = if step.is_volatile { "volatile " } else { "" };
                let (args, shape) = (&step.args, step.shape);
                write!(f, "{volatile}step {shape:?} {args:?} fails {}", step.fails)?;
            }
        }
        write!(f, ", after {:?}, retries {}", self.after, self.retries())?;
        match self.step().map(|step| &step.then) {
            Some(Then::Program(inner)) => write!(f, ", gives {inner:?}"),
            _ => Ok(()),
        }
    }
}

impl Program {
    /// Numbers the nodes of the program and of all that it expands into.
    pub(super) fn number(&mut self) {
        fn number(program: &mut Program, next: &mut Uid) {
            for node in &mut program.nodes {
                node.uid = *next;
                *next += 1;
                if let Kind::Step(step) = &mut node.kind
                    && let Then::Program(inner) = &mut step.then
                {
                    number(inner, next);
                }
            }
        }
        number(self, &mut 0);
    }

    pub(super) fn root(&self) -> &Node {
        self.nodes.last().unwrap()
    }

    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for node in &self.nodes {
            let kind = match &node.kind {
                Kind::Value => NodeKind::Value(value_of(node.uid)),
                Kind::Catch(inner) => NodeKind::Catch(*inner as u32),
                Kind::Step(step) => {
                    let name = format!("s{}", node.uid).into();
                    plan.steps.push(StepRef {
                        name,
                        version: 1,
                        fingerprints: [].into(),
                    });
                    NodeKind::Step {
                        step: plan.steps.len() as u32 - 1,
                        args: step.args(node.uid),
                    }
                }
            };
            let extra = Extra {
                name: node.is_named.then(|| node.label().into()),
                after: node.after.iter().map(|place| *place as u32).collect(),
                retries: node.retries,
                ..Extra::default()
            };
            let extra = (extra != Extra::default()).then(|| Box::new(extra));
            plan.nodes.push(PlanNode { kind, extra });
        }
        assert!(plan.is_sound());
        plan
    }

    /// The value that the workflow is, if it is finished as it is built.
    pub(super) fn finished(&self) -> Option<Value> {
        match &*self.nodes {
            [only]
                if matches!(only.kind, Kind::Value) && !only.is_named && only.retries.is_none() =>
            {
                Some(value_of(only.uid))
            }
            _ => None,
        }
    }
}

impl Node {
    /// What errors call it, and what its result is kept under if it is named.
    pub(super) fn label(&self) -> String {
        let prefix = if self.is_named { "n" } else { "s" };
        format!("{prefix}{}", self.uid)
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries.unwrap_or(DEFAULT_RETRIES)
    }

    pub(super) fn step(&self) -> Option<&Step> {
        match &self.kind {
            Kind::Step(step) => Some(step),
            _ => None,
        }
    }

    /// The places of the nodes that must succeed before this one can do anything.
    pub(super) fn needs(&self) -> impl Iterator<Item = usize> {
        let args = self.step().map_or(&[][..], |step| &step.args);
        args.iter().chain(&self.after).copied()
    }
}

impl Step {
    fn args(&self, uid: Uid) -> Args {
        let literal = || Arg::Value(value_of(uid));
        let nodes = self.args.iter().map(|place| Arg::Node(*place as u32));
        match self.shape {
            Shape::Plain => nodes.collect(),
            Shape::Seq => [literal(), Arg::Seq(nodes.collect())].into_iter().collect(),
            Shape::Nested => {
                let nested = nodes.map(|node| Arg::Map([(value_of(uid), node)].into()));
                nested
                    .map(|node| Arg::Some(Box::new(node)))
                    .chain([literal()])
                    .collect()
            }
        }
    }
}

/// The value that a node gives, if it gives one itself.
pub(super) fn value_of(uid: Uid) -> Value {
    Value::encode(&(uid, "v"), Codec::MessagePack).unwrap()
}

/// The node that a step's name or a label is of.
pub(super) fn uid_of(label: &str) -> Uid {
    label[1..].parse().unwrap()
}

/// Every node of a program and of all that it expands into, by number, with where it stands.
#[derive(Debug)]
pub(super) struct Index<'p> {
    pub(super) program: &'p Program,
    nodes: Vec<Place<'p>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) node: &'p Node,
    pub(super) program: &'p Program,
    /// The step that gives the program.
    pub(super) parent: Option<Uid>,
}

impl<'p> Index<'p> {
    pub(super) fn new(program: &'p Program) -> Self {
        let mut nodes = Vec::new();
        let mut pending = vec![(program, None)];
        while let Some((program, parent)) = pending.pop() {
            for node in &program.nodes {
                nodes.push(Place {
                    node,
                    program,
                    parent,
                });
                if let Some(Step {
                    then: Then::Program(inner),
                    ..
                }) = node.step()
                {
                    pending.push((inner, Some(node.uid)));
                }
            }
        }
        nodes.sort_by_key(|place| place.node.uid);
        Self { program, nodes }
    }

    pub(super) fn place(&self, uid: Uid) -> Place<'p> {
        self.nodes[uid as usize]
    }

    pub(super) fn node(&self, uid: Uid) -> &'p Node {
        self.place(uid).node
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = (&'p Node, &'p Step)> {
        self.nodes
            .iter()
            .filter_map(|place| Some((place.node, place.node.step()?)))
    }

    /// The path that an error of a step has: itself, behind the steps whose expansions led to it. Those that were replaced
    /// by a tail call are not in it, only how many they were.
    pub(super) fn path(&self, uid: Uid) -> Vec<String> {
        let mut path = Vec::new();
        let mut next = Some(uid);
        while let Some(uid) = next {
            let place = self.place(uid);
            let mut parent = place.parent;
            let mut tail_calls = 0;
            while let Some(above) = parent.map(|parent| self.place(parent))
                && above.program.root().uid == above.node.uid
                && above.parent.is_some()
            {
                tail_calls += 1;
                parent = above.parent;
            }
            path.push(match tail_calls {
                0 => place.node.label(),
                n => format!("{} (tail call {n})", place.node.label()),
            });
            next = parent;
        }
        path.reverse();
        path
    }
}
