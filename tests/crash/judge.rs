//! Compares what bodies wrote down with what a store holds after the crash of their process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keepstep::Filter;
use keepstep::prelude::*;

use crate::ledger;
use crate::workflow::over;

/// A step of a run, and how many of its executions are over.
type Over = BTreeMap<(String, String), u32>;

/// Compares, after each process, what its bodies wrote down with what its store holds.
#[derive(Default)]
pub(crate) struct Judge {
    /// What every run yields.
    output: u64,
    pub(crate) lines: Vec<String>,
    over: Over,
    pub(crate) successful: BTreeSet<String>,
}

impl Judge {
    /// Of runs that all yield this.
    pub(crate) fn of(output: u64) -> Self {
        Self {
            output,
            ..Self::default()
        }
    }

    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn judge(&mut self, store: &str, ledger: &Path) {
        let engine = Engine::open(store).await.unwrap();
        let lines = ledger::read(ledger);
        let new = &lines[self.lines.len()..];

        // What was durable when this process began was not done again by it.
        let mut begun = BTreeSet::new();
        for line in new {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["begin", run, step, attempt] => {
                    let step = (run.to_owned(), step.to_owned());
                    let over = self.over.get(&step).copied().unwrap_or(0);
                    assert!(attempt.parse::<u32>().unwrap() > over, "{line}, again");
                    begun.insert(step);
                }
                // What a caller was told is durable.
                ["started", run] => drop(engine.status(run).await.unwrap()),
                ["successful", run] => {
                    assert_eq!(engine.status(run).await.unwrap(), Status::Successful);
                    assert_eq!(engine.output::<u64>(run).await.unwrap(), self.output);
                    self.successful.insert(run.to_owned());
                }
                _ => {}
            }
        }

        let mut listed = engine.list(Filter::all()).await.unwrap().runs;
        listed.retain(|run| run.progress.total > 0);
        for run in listed {
            let graph = engine.graph(&run.id).await.unwrap();
            let over_in_run = over(&graph);
            for node in &graph.nodes {
                let step = (run.id.clone(), node.id.to_string());
                if !begun.contains(&step) {
                    continue;
                }
                // A body begins only after all that it needs is durable.
                for input in node.inputs.iter().chain(&node.expanded_from) {
                    let input = input.to_string();
                    let is_kept = graph.nodes.iter().any(|node| {
                        node.id.to_string() == input && (!node.is_step || is_volatile(&node.name))
                    });
                    let is_over = over_in_run.get(&input) == Some(&u32::MAX);
                    assert!(
                        is_kept || is_over,
                        "{step:?} began before {input} was durable"
                    );
                }
            }
            let of_run = over_in_run.into_iter();
            self.over
                .extend(of_run.map(|(step, n)| ((run.id.clone(), step), n)));
        }
        self.lines = lines;
        engine.shutdown().await.unwrap();
    }

    /// Executions that were cut short, or whose result was not yet durable.
    pub(crate) fn n_repeated(&self) -> usize {
        let begun = self.lines.iter().filter(|line| line.starts_with("begin "));
        let begun: Vec<_> = begun.collect();
        begun.len() - begun.iter().collect::<BTreeSet<_>>().len()
    }
}

fn is_volatile(name: &str) -> bool {
    name.ends_with("volatile")
}
