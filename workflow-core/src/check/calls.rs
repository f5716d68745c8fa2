//! The calls of steps that a plan still has to make: whether the program could make them.

use std::sync::Arc;

use keepstep_storage::Storage;
use rustc_hash::FxHashMap;

use super::{Cause, Certainty, Checker, guarded};
use crate::error::Result;
use crate::executor::{fit, load_arg};
use crate::plan::{Arg, First, NodeKind, Plan, StepRef};
use crate::registry::{Found, Registry};
use crate::resource::Resources;
pub(crate) use crate::run::Standing;
use crate::shape::{self, Difference, Kind, Shape};
use crate::source::Source;
use crate::step::{Fault, StepFault, StepInput};
use crate::value::Value;

/// Plans of child runs of child runs deeper than this are looked into no further for the type that they yield.
const MAX_DEPTH: usize = 16;

/// What has arrived of the events that a run waits for.
type Events = FxHashMap<Arc<str>, Value>;

/// Checks the nodes of a plan that are still to be run, and the plans of child runs that are still to be started.
pub(super) async fn check_plan(
    checker: &mut Checker,
    plan: &Plan,
    standings: &[Standing<'_>],
    events: &Events,
) -> Result<()> {
    let mut children = Vec::new();
    check_nodes(checker, plan, standings, events, &mut children).await?;
    while let Some(plan) = children.pop() {
        let pending = vec![Standing::Pending; plan.nodes.len()];
        check_nodes(checker, &plan, &pending, &Events::default(), &mut children).await?;
    }
    Ok(())
}

async fn check_nodes(
    checker: &mut Checker,
    plan: &Plan,
    standings: &[Standing<'_>],
    events: &Events,
    children: &mut Vec<Plan>,
) -> Result<()> {
    for (node, standing) in plan.nodes.iter().zip(standings) {
        if !matches!(standing, Standing::Pending) {
            continue;
        }
        match &node.kind {
            NodeKind::Step { step, args } => {
                let step = &plan.steps[*step as usize];
                let place = Place {
                    plan,
                    standings,
                    events,
                };
                let checked = check_call(checker, &place, step, args).await;
                checker.unless_damaged(checked)?;
            }
            NodeKind::Child(child) => match child.plan() {
                Some(plan) => children.push(plan),
                None => checker.certain(Cause::Damaged {
                    message: format!("the plan of child run {:?} cannot be read", child.id),
                }),
            },
            _ => {}
        }
    }
    Ok(())
}

/// Where a call stands.
struct Place<'a> {
    plan: &'a Plan,
    standings: &'a [Standing<'a>],
    events: &'a Events,
}

async fn check_call(
    checker: &mut Checker,
    place: &Place<'_>,
    step: &StepRef,
    args: &[Arg],
) -> Result<()> {
    let registry = checker.shared.registry;
    let Some(found) = registry.find(&step.name, step.version) else {
        checker.certain(Cause::UnknownStep {
            step: step.name.to_string(),
            version: step.version,
            known: registry.versions(&step.name),
        });
        return Ok(());
    };
    if checker.with_resources {
        check_resources(checker, found);
    }
    let mut sources = Vec::with_capacity(args.len());
    for arg in args {
        sources.push(place.source(arg, &*checker.shared.storage).await?);
    }
    let is_there: Vec<bool> = sources.iter().map(Option::is_some).collect();
    let nothing = || Source::Seq(Vec::new());
    let input = StepInput {
        def: found.def,
        args: sources
            .into_iter()
            .map(|source| source.unwrap_or_else(nothing))
            .collect(),
        shared: Some(Arc::clone(&checker.shared)),
    };
    try_call(checker, found, input, &is_there);
    for (index, arg) in args
        .iter()
        .enumerate()
        .filter(|(index, _)| !is_there[*index])
    {
        let Some(expected) = expected(found, index) else {
            continue;
        };
        if let Some(Difference { field, message }) = place.misfit(
            registry,
            arg,
            &expected,
            step.fingerprints.get(index).copied(),
        ) {
            let param = param_name(found, index);
            let (step, version) = (step.name.to_string(), step.version);
            checker.add(
                Certainty::Possible,
                Cause::Argument {
                    step,
                    version,
                    param,
                    field,
                    message,
                },
            );
        }
    }
    Ok(())
}

fn check_resources(checker: &mut Checker, found: Found) {
    let resources: Arc<Resources> = Arc::clone(&checker.shared.resources);
    for need in found.def.resources {
        if !resources.contains((need.type_id)()) {
            checker.certain(Cause::Resource {
                step: found.def.name.to_owned(),
                param: need.param.to_owned(),
                type_name: (need.type_name)().to_owned(),
            });
        }
    }
}

/// Decodes what is there of the arguments, after their migration if all are there.
fn try_call(checker: &mut Checker, found: Found, input: StepInput, is_there: &[bool]) {
    let migration = found.accepted.and_then(|older| older.migration.as_ref());
    let n_params = migration.map_or(found.def.params.len(), |migration| migration.n_args());
    let mut faults = Vec::new();
    for index in 0..n_params {
        // An argument that was never stored is missing for good.
        if is_there.get(index).copied().unwrap_or(true) {
            let param = found.def.params.get(index).copied().unwrap_or("?");
            let probed = guarded(param, || match migration {
                Some(migration) => migration.probe(&input, index),
                None => found.def.types.probe(&input, index),
            });
            faults.extend(probed.err());
        }
    }
    if faults.is_empty() && is_there.iter().all(|is_there| *is_there) {
        faults.extend(fit(input, found).err());
    }
    for StepFault(fault) in faults {
        if let Some(cause) = cause(found, fault) {
            checker.certain(cause);
        }
    }
}

fn cause(found: Found, fault: Fault) -> Option<Cause> {
    let (step, version) = (found.def.name.to_owned(), found.version());
    match fault {
        Fault::Undecodable { param, error } => Some(Cause::Argument {
            step,
            version,
            param: param.to_owned(),
            field: error.field,
            message: error.message,
        }),
        Fault::Unmigratable { message } => Some(Cause::Migration {
            step,
            version,
            to: found.def.version,
            message,
        }),
        // Nothing else comes of decoding.
        _ => None,
    }
}

/// The shape of what a call is to bring for an argument.
fn expected(found: Found, index: usize) -> Option<Shape> {
    match found.accepted.and_then(|older| older.migration.as_ref()) {
        Some(migration) => migration.shape(index),
        None => found.def.types.param(index).cloned(),
    }
}

fn param_name(found: Found, index: usize) -> String {
    match found.accepted.and_then(|older| older.migration.as_ref()) {
        Some(_) => (index + 1).to_string(),
        None => found
            .def
            .params
            .get(index)
            .copied()
            .unwrap_or("?")
            .to_owned(),
    }
}

impl Place<'_> {
    /// The result of a node, if it is there.
    fn result(&self, node: u32) -> Option<&Value> {
        match (
            self.standings.get(node as usize)?,
            &self.plan.node(node).kind,
        ) {
            (Standing::Done(value), _) => Some(value),
            (Standing::Pending, NodeKind::Event(name)) => self.events.get(name),
            _ => None,
        }
    }

    /// An argument, if all of it is there.
    async fn source(&self, arg: &Arg, storage: &dyn Storage) -> Result<Option<Source>> {
        let mut inputs = Vec::new();
        let mut is_there = true;
        arg.for_each_input(&mut |node| match self.result(node) {
            Some(value) => inputs.push(value.clone()),
            None => is_there = false,
        });
        Ok(match is_there {
            true => Some(load_arg(arg, inputs, storage).await?),
            false => None,
        })
    }

    /// Why an argument that is not there yet may not decode.
    fn misfit(
        &self,
        registry: &Registry,
        arg: &Arg,
        expected: &Shape,
        recorded: Option<u32>,
    ) -> Option<Difference> {
        let mut is_unknown = false;
        let misfit = self.compare(registry, arg, expected, "", &mut is_unknown);
        let has_changed = recorded.is_some_and(|recorded| recorded != expected.fingerprint());
        misfit.or_else(|| {
            (is_unknown && has_changed).then(|| Difference {
                field: String::new(),
                message: "it is not there yet, and the parameter's type is another than when the run was created".into(),
            })
        })
    }

    fn compare(
        &self,
        registry: &Registry,
        arg: &Arg,
        expected: &Shape,
        at: &str,
        is_unknown: &mut bool,
    ) -> Option<Difference> {
        match arg {
            Arg::Value(_) => None,
            Arg::Node(node) if self.result(*node).is_some() => None,
            Arg::Node(node) => match yields(registry, self.plan, *node, 0) {
                Some(given) => given.misfit(expected, at),
                None => {
                    *is_unknown = true;
                    None
                }
            },
            Arg::Seq(items) => items.iter().enumerate().find_map(|(n, item)| {
                let at = match expected.kind(at) {
                    Some(Kind::Tuple(_)) => shape::field(at, &n.to_string()),
                    _ => shape::element(at),
                };
                self.compare(registry, item, expected, &at, is_unknown)
            }),
            Arg::Map(entries) => {
                let at = shape::element(at);
                let mut values = entries.iter().map(|(_, value)| value);
                values.find_map(|value| self.compare(registry, value, expected, &at, is_unknown))
            }
            Arg::Some(inner) => {
                let at = shape::some(at);
                self.compare(registry, inner, expected, &at, is_unknown)
            }
        }
    }
}

/// The shape of what a node will yield, in this program; `None` if that is not known.
fn yields(registry: &Registry, plan: &Plan, node: u32, depth: usize) -> Option<Shape> {
    if depth > MAX_DEPTH {
        return None;
    }
    match &plan.node(node).kind {
        NodeKind::Step { step, .. } => {
            let step = &plan.steps[*step as usize];
            let found = registry.find(&step.name, step.version)?;
            Some(found.def.types.result().shape().clone())
        }
        NodeKind::Sleep(_) => Some(Shape::of::<()>()),
        NodeKind::First(First::Alone, inputs) => {
            yields(registry, plan, *inputs.first()?, depth + 1)
        }
        NodeKind::Child(child) => {
            let plan = child.plan()?;
            yields(registry, &plan, plan.root(), depth + 1)
        }
        _ => None,
    }
}
