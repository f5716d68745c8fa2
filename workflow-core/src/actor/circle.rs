//! Circles of waits that go through several engines: what an engine tells others of who waits for whom, and finding a circle in what
//! all of them say.
//!
//! What others say may be out of date, so a circle that was found may never have been. It is one only if all of its waits lasted at
//! one moment. Each wait has a number that its engine never uses again, and each engine counts how often it said what waits. A circle
//! is suspected when it is found, and it is certain when the same waits are found again in what every engine has said since: each of
//! them was there before the suspicion and after it.

use std::collections::VecDeque;

use keepstep_storage::{NodeId, RunId};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

/// What an engine says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Said {
    /// How often it has said something.
    pub(super) count: u64,
    pub(super) edges: Vec<Edge>,
}

/// Somebody waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Edge {
    /// It is never used again for another wait of the same engine.
    pub(super) number: u64,
    /// An actor, or a run and the runs that wait for it, innermost first.
    pub(super) waiters: Vec<RunId>,
    pub(super) target: RunId,
    /// The run whose step waits.
    pub(super) by: Option<RunId>,
    pub(super) kind: Kind,
}

/// What kind of wait it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// A call that is not being made yet: it can be taken back.
    Call,
    /// A call that is being made.
    Begun,
    /// For the end of a run that a call has returned.
    Run,
    /// Calls of an actor wait for a run, unless its own steps make them.
    Exclusive,
}

/// Waits that go round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Circle {
    /// The waits by node and number, in order: what the circle is known by.
    pub(super) key: Vec<(NodeId, u64)>,
    /// From what the wait that fails waits for to whoever waits there, with the children on the way.
    pub(super) names: Vec<RunId>,
    /// The wait that ends with an error. All engines choose the same of the same circle.
    pub(super) fails: (NodeId, u64),
}

/// The waits of all engines.
struct Union<'a> {
    edges: Vec<(NodeId, &'a Edge)>,
    by_waiter: FxHashMap<&'a RunId, Vec<usize>>,
}

/// Circles that calls of the engine `own` are in, of what it and others say.
pub(super) fn circles(own: (NodeId, &[Edge]), others: &[(NodeId, Said)]) -> Vec<Circle> {
    let (node, edges) = own;
    let others = others
        .iter()
        .flat_map(|(node, said)| said.edges.iter().map(|edge| (*node, edge)));
    let own = edges.iter().map(|edge| (node, edge));
    let edges: Vec<_> = own.chain(others).collect();
    let mut by_waiter: FxHashMap<&RunId, Vec<usize>> = FxHashMap::default();
    for (at, (_, edge)) in edges.iter().enumerate() {
        for waiter in &edge.waiters {
            by_waiter.entry(waiter).or_default().push(at);
        }
    }
    let union = Union { edges, by_waiter };
    let can_fail = |at: &usize| {
        let (of, edge) = union.edges[*at];
        of == node && matches!(edge.kind, Kind::Call | Kind::Run)
    };
    let mut found: Vec<Circle> = (0..union.edges.len())
        .filter(can_fail)
        .filter_map(|at| union.circle_of(at))
        .collect();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found.dedup_by(|a, b| a.key == b.key);
    found
}

impl Union<'_> {
    /// A shortest circle that a wait closes.
    fn circle_of(&self, closing: usize) -> Option<Circle> {
        let (_, last) = self.edges[closing];
        // Each node that was reached, and by which wait of which node.
        let mut came_by: FxHashMap<&RunId, (usize, &RunId)> = FxHashMap::default();
        let mut to_visit = VecDeque::from([&last.target]);
        let mut reached = last.waiters.iter().find(|waiter| **waiter == last.target);
        let mut seen = FxHashSet::from_iter([&last.target]);
        while reached.is_none() {
            let at = to_visit.pop_front()?;
            for &next in self.by_waiter.get(at).into_iter().flatten() {
                let (_, edge) = self.edges[next];
                let lets_through = edge.kind == Kind::Exclusive
                    && at == &last.target
                    && last.by.as_ref() == Some(&edge.target);
                if lets_through || !seen.insert(&edge.target) {
                    continue;
                }
                came_by.insert(&edge.target, (next, at));
                if last.waiters.contains(&edge.target) {
                    reached = Some(&edge.target);
                    break;
                }
                to_visit.push_back(&edge.target);
            }
        }
        let mut at = reached?;
        // From the end to the beginning.
        let mut way = vec![(closing, at)];
        while at != &last.target {
            let &(by, from) = came_by.get(at)?;
            way.push((by, from));
            at = from;
        }
        way.reverse();
        self.circle(way)
    }

    /// The circle of these waits, each with the one of its waiters that it was come to by.
    fn circle(&self, mut way: Vec<(usize, &RunId)>) -> Option<Circle> {
        let choice = |&(at, waiter): &(usize, _)| {
            let (node, edge) = self.edges[at];
            let rank = match edge.kind {
                // A call is taken back rather than the outcome of one that was made.
                Kind::Call => 0,
                Kind::Run => 1,
                Kind::Begun | Kind::Exclusive => return None,
            };
            Some((rank, waiter, &edge.target, node, edge.number))
        };
        let choices = way.iter().enumerate();
        let choices = choices.filter_map(|(at, wait)| Some((choice(wait)?, at)));
        let ((.., node, number), at) = choices.min()?;
        // It is told that what it waits for waits for it.
        way.rotate_left(at + 1);
        let mut names = Vec::new();
        let mut key = Vec::with_capacity(way.len());
        for (at, waiter) in way {
            let (node, edge) = self.edges[at];
            key.push((node, edge.number));
            names.push(waiter.clone());
            // From a run down to the child that waits.
            let below = edge.waiters.iter().position(|other| other == waiter);
            let below = &edge.waiters[..below.unwrap_or_default()];
            names.extend(below.iter().rev().cloned());
        }
        key.sort_unstable();
        Some(Circle {
            key,
            names,
            fails: (node, number),
        })
    }
}

/// Circles that were found and are not certain yet.
#[derive(Debug, Default)]
pub(super) struct Suspicions(FxHashMap<Vec<(NodeId, u64)>, FxHashMap<NodeId, u64>>);

impl Suspicions {
    /// Takes in which circles there are now, and gives those that are certain. The waits of the engine
    /// `own` are as they were before others were asked.
    pub(super) fn take_in(
        &mut self,
        own: NodeId,
        others: &[(NodeId, Said)],
        found: Vec<Circle>,
    ) -> Vec<Circle> {
        let counts: FxHashMap<NodeId, u64> = others
            .iter()
            .map(|(node, said)| (*node, said.count))
            .collect();
        let keys: FxHashSet<_> = found.iter().map(|circle| &circle.key).collect();
        self.0.retain(|key, _| keys.contains(key));
        let mut certain = Vec::new();
        for circle in found {
            let Some(then) = self.0.get(&circle.key) else {
                self.0.insert(circle.key, counts.clone());
                continue;
            };
            // What was said next may have been on its way already. What was said after that was looked up later.
            let was_said_since = |node: &NodeId| {
                let (then, now) = (then.get(node), counts.get(node));
                then.zip(now).is_some_and(|(then, now)| *now >= *then + 2)
            };
            let mut nodes = circle.key.iter().map(|(node, _)| node);
            if nodes.all(|node| *node == own || was_said_since(node)) {
                certain.push(circle);
            }
        }
        certain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn id(id: &str) -> RunId {
        RunId::new(id).unwrap()
    }

    /// `number waiter,run-above>target`, with `?` before a call that is being made, `!` before an exclusive wait, `.` before one for a
    /// run, and `@run` behind a call of its step.
    fn edge(text: &str) -> Edge {
        let (number, wait) = text.split_once(' ').unwrap();
        let kind = match wait.chars().next() {
            Some('?') => Kind::Begun,
            Some('!') => Kind::Exclusive,
            Some('.') => Kind::Run,
            _ => Kind::Call,
        };
        let wait = wait.trim_start_matches(['?', '!', '.']);
        let (waiters, target) = wait.split_once('>').unwrap();
        let (target, by) = target
            .split_once('@')
            .map_or((target, None), |(target, by)| (target, Some(id(by))));
        Edge {
            number: number.parse().unwrap(),
            waiters: waiters.split(',').map(id).collect(),
            target: id(target),
            by,
            kind,
        }
    }

    fn edges(texts: &[&str]) -> Vec<Edge> {
        texts.iter().copied().map(edge).collect()
    }

    fn said(node: usize, count: u64, texts: &[&str]) -> (NodeId, Said) {
        let edges = edges(texts);
        (NODES[node], Said { count, edges })
    }

    /// The names of the circles, and who fails.
    fn found(own: &[&str], others: &[(NodeId, Said)]) -> Vec<(String, (NodeId, u64))> {
        let circles = circles((NODES[0], &edges(own)), others);
        let named = |circle: Circle| {
            let names: Vec<&str> = circle.names.iter().map(RunId::as_str).collect();
            (names.join(" "), circle.fails)
        };
        circles.into_iter().map(named).collect()
    }

    #[test]
    fn a_circle_is_found_through_any_number_of_engines() {
        let others = [said(1, 1, &["7 b>c", "8 x>y"]), said(2, 1, &["9 c>a"])];
        let all = ("b c a".to_owned(), (NODES[0], 5));
        assert_eq!(found(&["5 a>b"], &others), [all]);
        assert_eq!(found(&["5 a>b"], &others[..1]), []);
        // From wherever it is looked at, the same fails, and is told of the circle as it sees it.
        let others = [said(1, 1, &["7 b>c"]), said(2, 1, &["9 a>b"])];
        let all = ("b c a".to_owned(), (NODES[2], 9));
        assert_eq!(found(&["5 c>a"], &others), [all]);
    }

    #[test]
    fn children_exclusive_workflows_and_returned_ones_are_named() {
        let others = [said(1, 1, &["1 b>a", "2 !a>run"])];
        let circle = ("a run child b".to_owned(), (NODES[1], 1));
        assert_eq!(found(&["5 child,run>b@child"], &others), [circle]);
        // A call that is made already does not fail, and whoever waits for a run does if there is nobody else.
        let others = [said(1, 1, &["1 ?b>a", "2 .a>run"])];
        let circle = ("b a run child".to_owned(), (NODES[0], 5));
        assert_eq!(found(&["5 child,run>b@child"], &others), [circle]);
        let circle = ("run a".to_owned(), (NODES[0], 4));
        let others = [said(1, 1, &["1 ?run>a@run"])];
        assert_eq!(found(&["4 .a>run"], &others), [circle]);
    }

    #[test]
    fn steps_of_an_exclusive_workflow_do_not_wait_for_it() {
        let others = [said(1, 1, &["1 !a>run"])];
        assert_eq!(found(&["5 run>a@run"], &others), []);
        assert_eq!(found(&["5 child,run>a@child"], &others).len(), 1);
    }

    #[test]
    fn the_smallest_wait_of_all_fails_in_the_circle_that_its_engine_finds() {
        // Two circles share the way from b to a.
        let all = ["1 a>b", "2 b>c", "3 b>d", "4 c>a", "5 d>a"];
        let others = [said(1, 1, &all[1..])];
        let failing = found(&all[..1], &others).into_iter().map(|(_, at)| at);
        assert_eq!(failing.collect::<Vec<_>>(), [(NODES[0], 1)]);
    }

    /// What is certain, of circles found while others say this.
    fn take_in(suspicions: &mut Suspicions, own: &[&str], others: &[(NodeId, Said)]) -> usize {
        let found = circles((NODES[0], &edges(own)), others);
        suspicions.take_in(NODES[0], others, found).len()
    }

    #[test]
    fn a_circle_is_certain_when_everybody_has_said_it_again() {
        let mut suspicions = Suspicions::default();
        let says = |b, c| [said(1, b, &["7 b>c"]), said(2, c, &["9 c>a"])];
        let own = ["5 a>b"];
        assert_eq!(take_in(&mut suspicions, &own, &says(3, 8)), 0);
        // Nobody has said anything since, one has, both have once, which may have been on its way, and only one has twice.
        for (b, c) in [(3, 8), (9, 8), (4, 9), (9, 9)] {
            assert_eq!(take_in(&mut suspicions, &own, &says(b, c)), 0, "{b} {c}");
        }
        assert_eq!(take_in(&mut suspicions, &own, &says(5, 10)), 1);
    }

    #[test]
    fn waits_that_never_lasted_at_the_same_time_are_no_circle() {
        let mut suspicions = Suspicions::default();
        let own = ["5 a>b"];
        assert_eq!(take_in(&mut suspicions, &own, &[said(1, 1, &["7 b>a"])]), 0);
        // It waits again: that is another wait.
        assert_eq!(take_in(&mut suspicions, &own, &[said(1, 9, &["8 b>a"])]), 0);
        assert_eq!(
            take_in(&mut suspicions, &["6 a>b"], &[said(1, 19, &["8 b>a"])]),
            0
        );
        // There was none in between.
        assert_eq!(take_in(&mut suspicions, &["6 a>b"], &[said(1, 29, &[])]), 0);
        assert_eq!(
            take_in(&mut suspicions, &["6 a>b"], &[said(1, 39, &["8 b>a"])]),
            0
        );
        assert_eq!(
            take_in(&mut suspicions, &["6 a>b"], &[said(1, 41, &["8 b>a"])]),
            1
        );
    }
}
