//! What really happened: which bodies ran with which outcome, and which outcomes the store holds.
//!
//! Every execution of a body that ends leaves a token of its own in what it returns. The lowest layer of the store
//! looks for tokens in the bytes that become durable. So the ledger knows what is durable without asking the engine, and without
//! reading its formats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::post::Post;
use keepstep::storage::{
    Batch, BlobId, Committed, Epoch, Expect, NodeId, RunId, RunRecord, StoredStatus, ValueKey,
    WriteOutcome,
};

/// How every token begins. It is in no other text of a program.
pub(crate) const MAGIC: &str = "~k5~";
const DIGITS: usize = 8;
/// How many bytes are looked through at a time.
const PART: usize = 256;

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
        drop(state);
        let what = format!(
            "body {label} of {run} attempt {} on {engine}",
            context.attempt()
        );
        self.trace(&what);
        Execution {
            ledger: Arc::clone(self),
            step,
            is_volatile,
            has_ended: false,
        }
    }

    /// A batch was committed.
    pub(crate) fn committed(&self, batch: &Batch, committed: &Committed) {
        let mut state = self.state();
        for (write, outcome) in batch.writes.iter().zip(&committed.writes) {
            if *outcome != WriteOutcome::Written {
                state.n_fenced += 1;
                continue;
            }
            let before = state.runs.get(&write.run).map(|stored| {
                let record = &stored.record;
                (record.epoch, record.status, record.next_entry)
            });
            match (write.expect, before) {
                (Expect::New, None) => {}
                (Expect::Epoch(epoch), Some((current, status, next_entry))) => {
                    state.check_write(&write.run, (epoch, current), status, &write.record);
                    let expected = match &write.entry {
                        Some(_) => next_entry.next(),
                        None => next_entry,
                    };
                    if write.record.next_entry != expected {
                        state.violated(format!("{}: its journal has a hole", write.run));
                    }
                }
                (expect, before) => state.violated(format!(
                    "10: {} was written with {expect:?} over {before:?}",
                    write.run
                )),
            }
            let record = write.record.clone();
            let status = record.status;
            match state.runs.get_mut(&write.run) {
                Some(stored) => {
                    stored.record = record;
                    stored.had.insert(status);
                }
                None => {
                    let had = BTreeSet::from([status]);
                    let output = None;
                    let stored = Stored {
                        record,
                        had,
                        output,
                    };
                    state.runs.insert(write.run.clone(), stored);
                }
            }
            let mut found = write.entry.as_deref().map(tokens_in).unwrap_or_default();
            for (key, value) in &write.values {
                // A name keeps also what a volatile step gave last, which makes that no checkpoint.
                if !matches!(key, ValueKey::Metadata | ValueKey::Step(_)) {
                    found.extend(value.as_deref().map(tokens_in).unwrap_or_default());
                }
            }
            for blob in &write.blobs {
                match state.blobs.get(blob) {
                    Some(tokens) => found.extend(tokens),
                    None => state.violated(format!("{} refers to no blob", write.run)),
                }
            }
            found.into_iter().for_each(|id| state.is_durable(id));
            for what in state.post.consumed(&write.run, &write.consumed) {
                state.violated(what);
            }
        }
        for (message, outcome) in batch.messages.iter().zip(&committed.messages) {
            if let Err(what) = state.post.arrived(message, *outcome) {
                state.violated(what);
            }
        }
    }

    /// Runs were claimed.
    pub(crate) fn claimed(&self, records: &[Option<RunRecord>], runs: &[RunId]) {
        let mut state = self.state();
        for (run, record) in runs.iter().zip(records) {
            let Some(record) = record else { continue };
            let before = state.runs.get(run).map(|stored| stored.record.epoch);
            if before.is_none_or(|epoch| epoch >= record.epoch) {
                state.violated(format!(
                    "10: {run} was claimed at {:?} after {before:?}",
                    record.epoch
                ));
            }
            if let Some(stored) = state.runs.get_mut(run) {
                stored.record = record.clone();
            }
        }
    }

    /// Runs were given up.
    pub(crate) fn released(&self, runs: &[(RunId, Epoch)]) {
        let mut state = self.state();
        for (run, epoch) in runs {
            if let Some(stored) = state.runs.get_mut(run)
                && stored.record.epoch == *epoch
            {
                stored.record.owner = None;
                stored.record.epoch = epoch.next();
            }
        }
    }

    /// A run was deleted.
    pub(crate) fn deleted(&self, run: &RunId) {
        let mut state = self.state();
        state.runs.remove(run);
        state.post.deleted(run);
        state.has_deleted = true;
    }

    /// Whether any run was deleted.
    pub(crate) fn has_deleted(&self) -> bool {
        self.state().has_deleted
    }

    /// A blob was stored.
    pub(crate) fn put(&self, id: BlobId, bytes: &[u8]) {
        self.state().blobs.insert(id, tokens_in(bytes));
    }
}

impl State {
    fn violated(&mut self, what: String) {
        if self.say {
            println!("VIOLATED {what}");
        }
        self.violations.push(what);
    }

    fn check_write(
        &mut self,
        run: &RunId,
        (epoch, current): (Epoch, Epoch),
        from: StoredStatus,
        to: &RunRecord,
    ) {
        if epoch != current || to.epoch != current {
            self.violated(format!("10: {run} was written at {epoch:?} of {current:?}"));
        }
        let is_final = matches!(from, StoredStatus::Successful | StoredStatus::Canceled);
        if is_final && from != to.status {
            self.violated(format!("3: {run} was {from:?} and became {:?}", to.status));
        }
        let was_stopped = matches!(from, StoredStatus::Failed | StoredStatus::Suspended);
        if was_stopped && to.status != from {
            // It was resumed: what failed for good begins afresh, also what did so while the run was being suspended.
            let incarnation = format!("{run}/{:016x}/", to.incarnation);
            for (step, log) in &mut self.steps {
                if step.starts_with(&incarnation) && log.failures + log.uncertain > log.retries {
                    log.uncertain += std::mem::take(&mut log.failures);
                }
            }
        }
    }

    fn is_durable(&mut self, id: u32) {
        if !self.durable.insert(id) {
            return;
        }
        let Token { step, came, .. } = &self.tokens[id as usize];
        let Some(log) = self.steps.get_mut(step) else {
            return;
        };
        let what = match came {
            Came::Well => log
                .done
                .replace(id)
                .map(|_| format!("1: {step} has two durable results")),
            Came::Failed => {
                log.failures += 1;
                (log.failures > log.retries + 1)
                    .then(|| format!("5: {step} failed {} times", log.failures))
            }
        };
        if let Some(what) = what {
            self.violated(what);
        }
    }
}

/// A body that is executing.
#[derive(Debug)]
pub(crate) struct Execution {
    ledger: Arc<Ledger>,
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
        format!("{MAGIC}{id:0DIGITS$x}")
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
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

/// Every token in some bytes.
pub(crate) fn tokens_in(bytes: &[u8]) -> Vec<u32> {
    let magic = MAGIC.as_bytes();
    let len = magic.len() + DIGITS;
    let begins = |at: &usize| bytes[*at..].starts_with(magic);
    // Values may be long: most of their parts are passed over without a look at each byte.
    let at = (0..bytes.len())
        .step_by(PART)
        .map(|from| from..bytes.len().min(from + PART))
        .filter(|part| bytes[part.clone()].contains(&magic[0]))
        .flatten()
        .filter(|at| at + len <= bytes.len())
        .filter(begins);
    at.filter_map(|at| {
        let digits = std::str::from_utf8(&bytes[at + magic.len()..at + len]).ok()?;
        u32::from_str_radix(digits, 16).ok()
    })
    .collect()
}
