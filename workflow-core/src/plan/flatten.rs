//! From the typed DAG to the plan: one walk, linear in nodes and edges, without recursion along the DAG.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Arg, Args, Child, Extra, First, NodeKind, Plan, PlanNode, StepRef};
use crate::arg::ArgShape;
use crate::check::guarded;
use crate::error::Error;
use crate::object::reading_again;
use crate::source::Source;
use crate::step::{Fault, StepDef, StepFault, StepInput};
use crate::value::{EncodeError, Value};
use crate::workflow::{BuildKind, BuildNode, ChildBuild};

/// A plan and the code it needs.
#[derive(Debug)]
pub(crate) struct Flattened {
    pub(crate) plan: Plan,
    /// The definitions of `plan.steps`, in their order, then those of the plans of child runs.
    pub(crate) defs: Vec<&'static StepDef>,
}

/// Flattens the DAG that ends in `root`.
///
/// # Errors
/// [`Error::Unencodable`] if an argument could not be encoded, [`Error::PlanTooLarge`] beyond `u32::MAX` nodes.
pub(crate) fn flatten(root: &Arc<BuildNode>) -> Result<Flattened, Error> {
    let mut flattener = Flattener::default();
    // A node is pushed once to have its inputs pushed above it, and taken in when it is met again.
    let mut pending: Vec<(&Arc<BuildNode>, bool)> = vec![(root, false)];
    while let Some((node, inputs_are_in)) = pending.pop() {
        if flattener.index.contains_key(&Arc::as_ptr(node)) {
            continue;
        }
        if inputs_are_in {
            flattener.take_in(node)?;
            continue;
        }
        pending.push((node, true));
        let first = pending.len();
        node.for_each_input(&mut |input| {
            if !flattener.index.contains_key(&Arc::as_ptr(input)) {
                pending.push((input, false));
            }
        });
        if pending.len() == first {
            pending.pop();
            flattener.take_in(node)?;
        } else {
            // So that the first argument's steps get the lowest numbers.
            pending[first..].reverse();
            flattener.index.reserve(pending.len() - first);
        }
    }
    flattener.defs.append(&mut flattener.defs_of_children);
    Ok(Flattened {
        plan: flattener.plan,
        defs: flattener.defs,
    })
}

/// Reads arguments of a call again that are values, where something in them may not be readable: nothing was done yet that
/// could not be undone. The first of them is for the parameter `first`. Values that workflows yield are read again where
/// they are made.
///
/// # Errors
/// [`Error::Unencodable`] if one cannot be read.
pub(crate) fn check_args(
    def: &'static StepDef,
    args: &[ArgShape],
    first: usize,
) -> Result<(), Error> {
    for (position, arg) in (first..).zip(args) {
        if let ArgShape::Value(value, doubts) = arg
            && def.types.must_read_param(position, value.len(), *doubts)
        {
            read_again(def, value, position)?;
            def.types.param_was_read(position, *doubts);
        }
    }
    Ok(())
}

#[cold]
fn read_again(def: &'static StepDef, value: &Value, position: usize) -> Result<(), Error> {
    let no_value = || Source::Seq(Vec::new());
    let value = Source::Value(value.clone());
    let before = std::iter::repeat_with(no_value).take(position);
    let input = StepInput {
        def,
        args: before.chain([value]).collect(),
        shared: None,
    };
    let param = def.params.get(position).copied().unwrap_or("?");
    let read = guarded(param, || {
        reading_again(|| def.types.probe(&input, position))
    });
    read.map_err(|StepFault(fault)| Error::Unencodable {
        step: def.name.to_owned(),
        param: param.to_owned(),
        message: match fault {
            Fault::Undecodable { error, .. } => EncodeError::unreadable(error).to_string(),
            // Nothing else comes of decoding.
            other => format!("{other:?}"),
        },
    })
}

#[derive(Default)]
struct Flattener {
    plan: Plan,
    defs: Vec<&'static StepDef>,
    defs_of_children: Vec<&'static StepDef>,
    index: FxHashMap<*const BuildNode, u32>,
    step_index: FxHashMap<*const StepDef, u32>,
}

impl Flattener {
    fn take_in(&mut self, node: &Arc<BuildNode>) -> Result<(), Error> {
        let index = u32::try_from(self.plan.nodes.len())
            .ok()
            .filter(|index| *index < u32::MAX - 1);
        let index = index.ok_or(Error::PlanTooLarge)?;
        let kind = match &node.kind {
            BuildKind::Step { def, args } => {
                let step = self.step(def);
                // Not collected: of how many there are nothing would be known.
                let mut flat = Args::with_capacity(args.len());
                for (position, arg) in args.iter().enumerate() {
                    let arg = self.arg(arg).map_err(|message| Error::Unencodable {
                        step: def.name.to_owned(),
                        param: def.params.get(position).copied().unwrap_or("?").to_owned(),
                        message,
                    })?;
                    flat.push(arg);
                }
                check_args(def, args, 0)?;
                NodeKind::Step { step, args: flat }
            }
            BuildKind::Value(Ok(value)) => NodeKind::Value(value.clone()),
            BuildKind::Value(Err(error)) => {
                return Err(Error::Unencodable {
                    step: node.label().to_owned(),
                    param: "value".to_owned(),
                    message: error.to_string(),
                });
            }
            BuildKind::Catch(inner) => NodeKind::Catch(self.index[&Arc::as_ptr(inner)]),
            BuildKind::Sleep(until) => NodeKind::Sleep(*until),
            BuildKind::Event(name) => NodeKind::Event(Arc::clone(name)),
            BuildKind::All(inputs) => NodeKind::All(self.indices(inputs)),
            BuildKind::First(First::Placed, inputs) if inputs.is_empty() => {
                return Err(Error::EmptySelect);
            }
            BuildKind::First(told, inputs) => NodeKind::First(*told, self.indices(inputs)),
            BuildKind::Child(child) => NodeKind::Child(Box::new(self.child(child)?)),
        };
        let extra = (!node.is_bare()).then(|| Box::new(self.extra(node)));
        self.plan.nodes.push(PlanNode { kind, extra });
        self.index.insert(Arc::as_ptr(node), index);
        Ok(())
    }

    fn extra(&self, node: &BuildNode) -> Extra {
        Extra {
            name: node.name.clone(),
            after: self.indices(&node.after),
            retries: node.retries,
            timeout: node
                .timeout
                .map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)),
            metadata: node
                .metadata
                .as_ref()
                .map(|metadata| metadata.to_string().into()),
            priority: node.priority,
            key: node.key.as_deref().map(Into::into),
        }
    }

    fn indices(&self, nodes: &[Arc<BuildNode>]) -> Box<[u32]> {
        let index = |node| self.index[&Arc::as_ptr(node)];
        nodes.iter().map(index).collect()
    }

    fn child(&mut self, child: &Result<ChildBuild, Error>) -> Result<Child, Error> {
        let child = child.as_ref().map_err(Error::clone)?;
        self.defs_of_children.extend_from_slice(&child.defs);
        Ok(child.child.clone())
    }

    fn step(&mut self, def: &'static StepDef) -> u32 {
        *self.step_index.entry(def).or_insert_with(|| {
            self.defs.push(def);
            self.plan.steps.push(StepRef {
                name: def.name.into(),
                version: def.version,
                fingerprints: Arc::clone(def.types.fingerprints()),
            });
            // There are no more steps than nodes, and those were counted.
            (self.plan.steps.len() - 1) as u32
        })
    }

    fn arg(&self, shape: &ArgShape) -> Result<Arg, String> {
        let value = |shape: &ArgShape| match shape {
            ArgShape::Value(value, _) => Ok(value.clone()),
            ArgShape::Invalid(error) => Err(error.to_string()),
            _ => Err("a key must be a value".to_owned()),
        };
        Ok(match shape {
            ArgShape::Value(..) | ArgShape::Invalid(_) => Arg::Value(value(shape)?),
            ArgShape::Node(node) => Arg::Node(self.index[&Arc::as_ptr(node)]),
            ArgShape::Seq(items) => {
                let mut flat = Vec::with_capacity(items.len());
                for item in items {
                    flat.push(self.arg(item)?);
                }
                Arg::Seq(flat.into())
            }
            ArgShape::Map(entries) => Arg::Map(
                entries
                    .iter()
                    .map(|(k, v)| Ok((value(k)?, self.arg(v)?)))
                    .collect::<Result<Box<[_]>, String>>()?,
            ),
            ArgShape::Some(inner) => Arg::Some(Box::new(self.arg(inner)?)),
        })
    }
}
