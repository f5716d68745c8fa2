//! Random programs.

use proptest::collection::vec;
use proptest::prelude::*;

use keepstep_storage::{RunId, Timestamp};

use super::programs::{Kind, Node, Program, Shape, Step, Then};
use crate::plan::{Child, First, NodeKind, Plan, Until};

/// Up to three levels of expansions, up to six nodes in each.
pub(super) fn programs() -> impl Strategy<Value = Program> {
    let leaf = vec(raw_node(Just(None).boxed()), 1..6).prop_map(build);
    let any = leaf.prop_recursive(3, 20, 4, |inner| {
        let then = prop_oneof![2 => Just(None), 1 => inner.prop_map(Some)];
        vec(raw_node(then.boxed()), 1..7).prop_map(build)
    });
    any.prop_map(|mut program| {
        program.number();
        program
    })
}

/// Plans of programs in which some nodes wait for the world, or for the first or all of others.
pub(super) fn plans_with_waits() -> impl Strategy<Value = Plan> {
    (programs(), vec(0..64u8, 1..8)).prop_map(|(program, picks)| {
        let mut plan = program.plan();
        let mut picks = picks.into_iter().cycle();
        for node in &mut plan.nodes {
            // There is always one more.
            let pick = picks.next().unwrap_or(0);
            let inputs: Box<[u32]> = match &node.kind {
                NodeKind::Step { args, .. } => {
                    let mut inputs = Vec::new();
                    args.iter()
                        .for_each(|arg| arg.for_each_input(&mut |input| inputs.push(input)));
                    inputs.into()
                }
                NodeKind::Value(_) => [].into(),
                _ => continue,
            };
            node.kind = match (pick % 8, inputs.len()) {
                (0, 0) => NodeKind::Sleep(Until::After(u64::from(pick) / 8)),
                (1, 0) => NodeKind::Sleep(Until::At(Timestamp(u64::from(pick) / 8))),
                (2, 0) => NodeKind::Event("paid".into()),
                (3, 0) => {
                    let id = RunId::new("child").unwrap();
                    NodeKind::Child(Child::new(id, &Plan::default()).unwrap().into())
                }
                (0 | 1, _) => NodeKind::All(inputs),
                (4, 1) => NodeKind::First(First::Alone, inputs),
                (2, 2) => NodeKind::First(First::Either, inputs),
                (2 | 3, 1..) => NodeKind::First(First::Placed, inputs),
                _ => continue,
            };
            if pick % 3 == 0 {
                node.extra.get_or_insert_default().timeout = Some(u64::from(pick) / 4);
            }
        }
        assert!(plan.is_sound());
        plan
    })
}

#[derive(Debug, Clone)]
struct RawNode {
    kind: u8,
    inputs: Vec<usize>,
    after: Vec<usize>,
    is_named: bool,
    retries: Option<u32>,
    fails: u32,
    then: Option<Program>,
    shape: Shape,
    is_volatile: bool,
}

fn raw_node(then: BoxedStrategy<Option<Program>>) -> impl Strategy<Value = RawNode> {
    let rarely = |p| prop::bool::weighted(p);
    (
        prop_oneof![8 => Just(0u8), 2 => Just(1), 1 => Just(2)],
        vec(0..16usize, 0..4),
        prop_oneof![4 => Just(vec![]), 1 => vec(0..16usize, 1..3)],
        rarely(0.2),
        prop_oneof![2 => Just(None), 1 => (0..3u32).prop_map(Some)],
        prop_oneof![6 => Just(0u32), 2 => 1..4u32, 1 => Just(u32::MAX)],
        then,
        prop_oneof![Just(Shape::Plain), Just(Shape::Seq), Just(Shape::Nested)],
        rarely(0.2),
    )
        .prop_map(
            |(kind, inputs, after, is_named, retries, fails, then, shape, is_volatile)| RawNode {
                kind,
                inputs,
                after,
                is_named,
                retries,
                fails,
                then,
                shape,
                is_volatile,
            },
        )
}

/// Makes inputs refer to nodes before, and leaves out what the last node does not need.
fn build(raw: Vec<RawNode>) -> Program {
    let mut nodes = Vec::new();
    for (place, raw) in raw.into_iter().enumerate() {
        let back = |picks: &[usize]| -> Vec<usize> {
            match place {
                0 => vec![],
                _ => picks.iter().map(|pick| place - 1 - pick % place).collect(),
            }
        };
        let inputs = back(&raw.inputs);
        let kind = match (raw.kind, inputs.first()) {
            (2, _) => Kind::Value,
            (1, Some(inner)) => Kind::Catch(*inner),
            _ => Kind::Step(Step {
                args: inputs,
                shape: raw.shape,
                fails: raw.fails,
                then: raw.then.map_or(Then::Value, Then::Program),
                is_volatile: raw.is_volatile,
            }),
        };
        nodes.push(Node {
            uid: 0,
            kind,
            after: back(&raw.after),
            is_named: raw.is_named,
            retries: raw.retries,
        });
    }

    let mut is_needed = vec![false; nodes.len()];
    *is_needed.last_mut().unwrap() = true;
    for place in (0..nodes.len()).rev() {
        if is_needed[place] {
            for_each_input(&mut nodes[place], |input| is_needed[*input] = true);
        }
    }
    let places: Vec<usize> = is_needed
        .iter()
        .scan(0, |next, is_needed| {
            let place = *next;
            *next += usize::from(*is_needed);
            Some(place)
        })
        .collect();
    let mut kept = is_needed.into_iter();
    nodes.retain(|_| kept.next().unwrap());
    for node in &mut nodes {
        for_each_input(node, |input| *input = places[*input]);
    }
    Program { nodes }
}

fn for_each_input(node: &mut Node, mut visit: impl FnMut(&mut usize)) {
    node.after.iter_mut().for_each(&mut visit);
    match &mut node.kind {
        Kind::Value => {}
        Kind::Catch(inner) => visit(inner),
        Kind::Step(step) => step.args.iter_mut().for_each(visit),
    }
}
