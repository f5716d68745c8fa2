//! Drawing workflows and runs: Mermaid and Graphviz.

use std::collections::BTreeMap;
use std::fmt::Write;

use rustc_hash::FxHashSet;

use crate::error::Result;
use crate::plan::{Plan, flatten};
use crate::run::{Run, StepId, ViewState};
use crate::workflow::Workflow;

/// A DAG with the state of each of its nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Graph {
    /// The nodes, inputs first.
    pub nodes: Vec<GraphNode>,
}

/// A node of a [`Graph`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphNode {
    /// Its number in its run.
    pub id: StepId,
    /// Its name: that of its step, `catch`, or `value`.
    pub name: String,
    /// Whether it executes a body.
    pub is_step: bool,
    /// Where it stands; `None` in a workflow that is not a run.
    pub state: Option<NodeState>,
    /// The nodes it depends on.
    pub inputs: Vec<StepId>,
    /// The step whose expansion brought it in.
    pub expanded_from: Option<StepId>,
    /// How many of its executions have failed.
    pub failed_attempts: u32,
    /// Why it failed, if it and its run did.
    pub error: Option<String>,
    /// What was attached to it with `.metadata(…)`.
    pub metadata: Option<serde_json::Value>,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NodeState {
    /// For its inputs, or a free place.
    Waiting,
    /// Its body is executing.
    Running,
    /// For its next attempt.
    Retrying,
    /// It returned a workflow, which is not done.
    Expanded,
    /// Its result is durable.
    Done,
    /// For good.
    Failed,
    /// Nothing needs it any more.
    Skipped,
}

impl NodeState {
    const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::Waiting, "waiting", "#eeeeee"),
        (Self::Running, "running", "#9ecbff"),
        (Self::Retrying, "retrying", "#ffd58a"),
        (Self::Expanded, "expanded", "#d9c8ff"),
        (Self::Done, "done", "#a8e6a1"),
        (Self::Failed, "failed", "#ff9c94"),
        (Self::Skipped, "skipped", "#ffffff"),
    ];

    fn look(self) -> (&'static str, &'static str) {
        // Every state stands in the table.
        Self::ALL
            .iter()
            .find(|(state, ..)| *state == self)
            .map_or(("", ""), |(_, name, color)| (*name, *color))
    }
}

impl<T> Workflow<T> {
    /// The workflow as it stands, before anything runs.
    ///
    /// # Errors
    /// [`Error::Unencodable`](crate::Error::Unencodable) if an argument could not be encoded.
    pub fn graph(&self) -> Result<Graph> {
        Ok(Graph::of_plan(&flatten(self.node())?.plan))
    }

    /// Draws the workflow for [Mermaid](https://mermaid.js.org/).
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.graph()
            .map_or_else(|error| format!("%% {error}\n"), |graph| graph.to_mermaid())
    }

    /// Draws the workflow for [Graphviz](https://graphviz.org/).
    #[must_use]
    pub fn to_dot(&self) -> String {
        self.graph()
            .map_or_else(|error| format!("// {error}\n"), |graph| graph.to_dot())
    }
}

impl Graph {
    fn of_plan(plan: &Plan) -> Self {
        // With its history: a value is finished at once, and would be dropped.
        let mut run = Run::with_history(None);
        // Folding a plan that was just made cannot fail.
        drop(run.apply(crate::run::Event::Created {
            plan: std::sync::Arc::new(plan.clone()),
        }));
        let mut graph = Self::of_run(&run, &[]);
        graph.nodes.iter_mut().for_each(|node| node.state = None);
        graph
    }

    pub(crate) fn of_run(run: &Run, running: &[StepId]) -> Self {
        let running: FxHashSet<StepId> = running.iter().copied().collect();
        let nodes = run.nodes().map(|node| GraphNode {
            id: node.id,
            name: node.label.to_owned(),
            is_step: node.is_step,
            state: Some(match node.state {
                _ if running.contains(&node.id) => NodeState::Running,
                ViewState::Waiting => NodeState::Waiting,
                ViewState::Running => NodeState::Running,
                ViewState::Retrying => NodeState::Retrying,
                ViewState::Expanded => NodeState::Expanded,
                ViewState::Done => NodeState::Done,
                ViewState::Failed(_) => NodeState::Failed,
                ViewState::Skipped => NodeState::Skipped,
            }),
            error: match node.state {
                ViewState::Failed(error) => error.map(ToString::to_string),
                _ => None,
            },
            inputs: node.inputs,
            expanded_from: node.origin,
            failed_attempts: node.attempts,
            metadata: node
                .metadata
                .and_then(|json| serde_json::from_str(json).ok()),
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// Draws the graph for [Mermaid](https://mermaid.js.org/): what an expansion brought in stands in a box of its own.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut out = String::from("flowchart TD\n");
        for (origin, nodes) in self.clusters() {
            let indent = if origin.is_some() { "        " } else { "    " };
            if let Some(origin) = origin {
                let name = self.name_of(origin);
                let _ = writeln!(out, "    subgraph x{origin}[\"{}\"]", mermaid_text(&name));
            }
            for node in &nodes {
                let class = node
                    .state
                    .map_or(String::new(), |state| format!(":::{}", state.look().0));
                let _ = writeln!(
                    out,
                    "{indent}s{}[\"{}\"]{class}",
                    node.id,
                    mermaid_text(&node.name)
                );
            }
            if origin.is_some() {
                out.push_str("    end\n");
            }
        }
        for (from, to, is_expansion) in self.edges() {
            let arrow = if is_expansion { "-.->" } else { "-->" };
            let _ = writeln!(out, "    s{from} {arrow} s{to}");
        }
        let used: Vec<_> = self.nodes.iter().filter_map(|node| node.state).collect();
        for (state, name, color) in NodeState::ALL {
            if used.contains(&state) {
                let _ = writeln!(out, "    classDef {name} fill:{color},stroke:#333");
            }
        }
        out
    }

    /// Draws the graph for [Graphviz](https://graphviz.org/).
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut out = String::from(
            "digraph workflow {\n    node [shape=box, style=\"rounded,filled\", fillcolor=white];\n",
        );
        for (origin, nodes) in self.clusters() {
            let indent = if origin.is_some() { "        " } else { "    " };
            if let Some(origin) = origin {
                let name = dot_text(&self.name_of(origin));
                let _ = writeln!(
                    out,
                    "    subgraph cluster_{origin} {{\n        label=\"{name}\";"
                );
            }
            for node in &nodes {
                let look = node.state.map_or(String::new(), |state| {
                    let (name, color) = state.look();
                    format!(", fillcolor=\"{color}\", tooltip=\"{name}\"")
                });
                let _ = writeln!(
                    out,
                    "{indent}s{} [label=\"{}\"{look}];",
                    node.id,
                    dot_text(&node.name)
                );
            }
            if origin.is_some() {
                out.push_str("    }\n");
            }
        }
        for (from, to, is_expansion) in self.edges() {
            let style = if is_expansion { " [style=dashed]" } else { "" };
            let _ = writeln!(out, "    s{from} -> s{to}{style};");
        }
        out.push_str("}\n");
        out
    }

    fn clusters(&self) -> BTreeMap<Option<StepId>, Vec<&GraphNode>> {
        let mut clusters: BTreeMap<Option<StepId>, Vec<&GraphNode>> = BTreeMap::new();
        for node in &self.nodes {
            clusters.entry(node.expanded_from).or_default().push(node);
        }
        clusters
    }

    fn name_of(&self, id: StepId) -> String {
        let place = self.nodes.binary_search_by_key(&id, |node| node.id);
        place.map_or_else(
            |_| format!("step {id}"),
            |place| self.nodes[place].name.clone(),
        )
    }

    /// From, to, and whether it leads from a step into its expansion.
    fn edges(&self) -> Vec<(StepId, StepId, bool)> {
        let known: FxHashSet<StepId> = self.nodes.iter().map(|node| node.id).collect();
        let mut edges = Vec::new();
        for node in &self.nodes {
            edges.extend(node.inputs.iter().map(|input| (*input, node.id, false)));
            // Into an expansion: to the nodes that begin it.
            if let Some(origin) = node
                .expanded_from
                .filter(|origin| node.inputs.is_empty() && known.contains(origin))
            {
                edges.push((origin, node.id, true));
            }
        }
        edges
    }
}

fn mermaid_text(text: &str) -> String {
    text.replace('#', "#35;")
        .replace('"', "#quot;")
        .replace('<', "#lt;")
        .replace('>', "#gt;")
}

fn dot_text(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
