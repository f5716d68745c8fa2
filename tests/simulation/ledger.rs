//! What really happened: which bodies ran with which outcome, and which outcomes the store holds.
//!
//! Every execution of a body that ends leaves a token of its own in what it returns. The lowest layer of the store
//! looks for tokens in the bytes that become durable. So the ledger knows what is durable without asking the engine, and without
//! reading its formats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepstep::storage::{BlobId, NodeId, RunId, RunRecord, StoredStatus};
use tokio::time::Instant;

mod durable;

use crate::post::Post;
use crate::tokens::{token, tokens_in};

/// How long an engine may go on with a body after another one began it too: it stops what it has lost, and gives bodies
/// that ask for it a few seconds.
const OVERLAP: Duration = Duration::from_secs(20);

/// What an execution came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// A result, or an expansion.
    Well,
    Failed,
}

/// What a step was given that might have been something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saw {
    /// Which of several came first; `None` for a failure.
    pub(crate) place: Option<usize>,
    /// The token of its result.
    pub(crate) what: String,
}

#[derive(Debug)]
struct Token {
    step: String,
    came: Came,
    is_volatile: bool,
}

/// What is known of one step of one run.
#[derive(Debug, Default)]
struct StepLog {
    label: u32,
    retries: u32,
    /// The execution whose result is durable.
    done: Option<u32>,
    /// Durable failures since the step last began afresh.
    failures: u32,
    /// Executions that ended without a token, dropped or out of time; and failures that may or may not count any more.
    uncertain: u32,
}

/// What the store holds of one run.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) record: RunRecord,
    /// When it was last written, claimed or given up.
    pub(crate) changed_at: Instant,
    /// Every status it has had.
    pub(crate) had: BTreeSet<StoredStatus>,
    /// What `run` or `output` returned first.
    pub(crate) output: Option<(i64, String)>,
}

/// The ledger.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tokens: Vec<Token>,
    durable: BTreeSet<u32>,
    blobs: BTreeMap<BlobId, Vec<u32>>,
    steps: BTreeMap<String, StepLog>,
    runs: BTreeMap<RunId, Stored>,
    nodes: BTreeMap<NodeId, usize>,
    /// What readers saw, by run, incarnation and label of what they read.
    saw: BTreeMap<String, Saw>,
    post: Post,
    violations: Vec<String>,
    /// Bodies that execute now: which step, on which engine, and since when.
    executing: Vec<(String, usize, Instant)>,
    n_bodies: u64,
    n_fenced: u64,
    is_mended: bool,
    has_deleted: bool,
    hash: u64,
    unordered: u64,
    say: bool,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An invariant does not hold.
    pub(crate) fn violated(&self, what: String) {
        self.state().violated(what);
    }

    /// What did not hold so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Prints the trace.
    pub(crate) fn say(&self, say: bool) {
        self.state().say = say;
    }

    /// Adds to the hash by which two runs of a seed are compared.
    pub(crate) fn trace(&self, what: &str) {
        let mut state = self.state();
        if state.say {
            println!("{what}");
        }
        state.hash = fnv(state.hash, what);
    }

    /// Adds to the hash, in whatever order such things come.
    pub(crate) fn trace_unordered(&self, what: &str) {
        let mut state = self.state();
        if state.say {
            println!("{what}");
        }
        state.unordered = state
            .unordered
            .wrapping_add(fnv(0xcbf2_9ce4_8422_2325, what));
    }

    /// The hash of the trace.
    pub(crate) fn hash(&self) -> u64 {
        let state = self.state();
        state.hash ^ state.unordered.rotate_left(32)
    }

    /// How many results there are: a token is of one of those so far if its number is less.
    pub(crate) fn n_tokens(&self) -> usize {
        self.state().tokens.len()
    }

    /// How many bodies began, and how many writes were refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.n_bodies, state.n_fenced)
    }

    /// From now on what was broken works.
    pub(crate) fn mend(&self) {
        self.state().is_mended = true;
    }

    pub(crate) fn is_mended(&self) -> bool {
        self.state().is_mended
    }

    /// An engine was seen to claim or create runs by this name.
    pub(crate) fn is_node(&self, node: NodeId, engine: usize) {
        self.state().nodes.insert(node, engine);
    }

    /// Looks at what the store holds of a run.
    pub(crate) fn stored<R>(&self, run: &str, look: impl FnOnce(&mut Stored) -> R) -> Option<R> {
        let run = RunId::new(run).ok()?;
        self.state().runs.get_mut(&run).map(look)
    }

    /// Whether the execution that left this token has a durable outcome.
    pub(crate) fn is_durable(&self, token: &str) -> bool {
        let state = self.state();
        tokens_in(token.as_bytes())
            .iter()
            .all(|id| state.durable.contains(id))
    }

    /// A body is given something that what is labelled so decides: all who read that must see the same.
    pub(crate) fn saw(&self, label: u32, saw: Saw) {
        let context = keepstep::context();
        let key = key_of_run(&context.idempotency_key(), label);
        let mut state = self.state();
        let first = state.saw.entry(key.clone()).or_insert_with(|| saw.clone());
        if *first != saw {
            let what = format!("a reader of {key} sees {saw:?}, another one saw {first:?}");
            state.violated(what);
        }
    }

    /// What the readers saw of what is labelled so in a run that is stored.
    pub(crate) fn what_was_seen(&self, run: &str, label: u32) -> Option<Saw> {
        let incarnation = self.stored(run, |stored| stored.record.incarnation)?;
        let key = key_of_run(&format!("{run}/{incarnation:016x}/"), label);
        self.state().saw.get(&key).cloned()
    }

    /// A body is given the message with this text.
    pub(crate) fn uses(&self, text: &str) {
        let context = keepstep::context();
        let step = context.idempotency_key();
        let incarnation = self.stored(context.run_id(), |stored| stored.record.incarnation);
        let of_run = |incarnation| format!("{}/{incarnation:016x}/", context.run_id());
        if !incarnation.is_some_and(|incarnation| step.starts_with(&of_run(incarnation))) {
            // The run was deleted, which its engine does not know yet.
            return;
        }
        let mut state = self.state();
        if let Err(what) = state.post.uses(text, &step) {
            state.violated(what);
        }
    }

    /// Looks at all that the store holds.
    pub(crate) fn each_stored(&self, mut look: impl FnMut(&RunId, &Stored)) {
        for (run, stored) in &self.state().runs {
            look(run, stored);
        }
    }

    /// Which engine a node is.
    pub(crate) fn engine_of(&self, node: NodeId) -> Option<usize> {
        self.state().nodes.get(&node).copied()
    }

    /// How many bodies execute on an engine.
    pub(crate) fn n_executing(&self, engine: usize) -> usize {
        let state = self.state();
        let is_there = |(_, on, _): &&(String, usize, Instant)| *on == engine;
        state.executing.iter().filter(is_there).count()
    }

    /// Looks at the messages.
    pub(crate) fn post<R>(&self, look: impl FnOnce(&mut Post) -> R) -> R {
        look(&mut self.state().post)
    }

    /// A body begins. `inputs` are texts with the tokens of all that it depends on.
    pub(crate) fn begin(
        self: &Arc<Self>,
        engine: usize,
        label: u32,
        retries: u32,
        is_volatile: bool,
        inputs: &[&str],
    ) -> Execution {
        let context = keepstep::context();
        let step = context.idempotency_key();
        let run = RunId::new(context.run_id()).expect("it runs");
        let mut state = self.state();
        state.n_bodies += 1;
        for id in inputs.iter().flat_map(|text| tokens_in(text.as_bytes())) {
            if !state.durable.contains(&id) && !state.tokens[id as usize].is_volatile {
                let of = &state.tokens[id as usize].step;
                let what = format!("2: {step} begins before its input {of} is durable");
                state.violated(what);
            }
        }
        let log = state.steps.entry(step.clone()).or_default();
        let is_first = log.label == 0;
        (log.label, log.retries) = (label, retries);
        let (done, failures, uncertain) = (log.done, log.failures, log.uncertain);
        let owner = state.runs.get(&run).map(|stored| {
            let engine = stored.record.owner.and_then(|node| state.nodes.get(&node));
            (engine.copied(), stored.record.status)
        });
        // An engine that was overtaken may not know it yet; what its bodies return is refused.
        if let Some((Some(owner), status)) = owner
            && owner == engine
        {
            if done.is_some() {
                state.violated(format!("1: {step} runs again, its result is durable"));
            }
            if status != StoredStatus::Running {
                state.violated(format!("6: {step} begins in a run that is {status:?}"));
            }
            let failed = context.attempt() - 1;
            if failed < failures || failed > failures + uncertain {
                state.violated(format!(
                    "5: {step} counts {failed} failed attempts; {failures} are durable, {uncertain} may count (first: {is_first})"
                ));
            }
        }
        state.executing.push((step.clone(), engine, Instant::now()));
        drop(state);
        let what = format!(
            "body {label} of {run} attempt {} on {engine}",
            context.attempt()
        );
        self.trace(&what);
        Execution {
            ledger: Arc::clone(self),
            engine,
            step,
            is_volatile,
            has_ended: false,
        }
    }

    /// Whether any run was deleted.
    pub(crate) fn has_deleted(&self) -> bool {
        self.state().has_deleted
    }
}

impl State {
    /// A body does not execute any more. Two engines may not have executed it side by side.
    fn stops(&mut self, step: &str, engine: usize) {
        let is_this = |(of, on, _): &(String, usize, Instant)| of == step && *on == engine;
        let Some(at) = self.executing.iter().position(is_this) else {
            return;
        };
        let (_, _, began) = self.executing.swap_remove(at);
        let beside = self.executing.iter().find_map(|(of, on, other)| {
            let is_long = (*other).max(began).elapsed() > OVERLAP;
            (of == step && *on != engine && is_long).then_some(*on)
        });
        if let Some(other) = beside {
            self.violated(format!(
                "1: {step} is executed by engines {engine} and {other} at a time"
            ));
        }
    }

    fn violated(&mut self, what: String) {
        if self.say {
            println!("VIOLATED {what}");
        }
        self.violations.push(what);
    }
}

/// A body that is executing.
#[derive(Debug)]
pub(crate) struct Execution {
    ledger: Arc<Ledger>,
    engine: usize,
    step: String,
    is_volatile: bool,
    has_ended: bool,
}

impl Execution {
    /// It ends: the token that its outcome is to hold.
    pub(crate) fn ends(mut self, came: Came) -> String {
        self.has_ended = true;
        let mut state = self.ledger.state();
        let id = state.tokens.len();
        state.tokens.push(Token {
            step: self.step.clone(),
            came,
            is_volatile: self.is_volatile,
        });
        token(id)
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.ledger.state().stops(&self.step, self.engine);
        if !self.has_ended
            && let Some(log) = self.ledger.state().steps.get_mut(&self.step)
        {
            log.uncertain += 1;
        }
    }
}

/// What is labelled so, in the incarnation of the run that this step key is of.
fn key_of_run(step: &str, label: u32) -> String {
    let run = step.rsplit_once('/').map_or(step, |(run, _)| run);
    format!("{run}/{label}")
}

fn fnv(hash: u64, text: &str) -> u64 {
    text.bytes().fold(hash, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
