//! Putting in the results of what the worker executed, whatever has gathered together.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keepstep_storage::{FinishOutcome, Held, TaskResult};
use tokio::sync::mpsc;

use super::desk::{AGAIN_AFTER, Message};
use super::stored::{StoredOutcome, result};
use super::worker::{Ended, Worker};
use crate::engine::Shared;
use crate::error::StepErrorKind;
use crate::executor::Outcome;
use crate::run::Failure;

/// How many results go to the store in one call, and of how many bytes.
const MAX_RESULTS: usize = 1_000;
const MAX_RESULT_BYTES: usize = 16 << 20;

/// Puts in the results of what ended, until nothing is left that could end.
pub(super) async fn put_results_in(
    shared: Arc<Shared>,
    mut results: mpsc::UnboundedReceiver<Ended>,
) {
    let mut gathered = Vec::new();
    loop {
        tokio::select! {
            n = results.recv_many(&mut gathered, 4 * MAX_RESULTS) => if n == 0 { return },
            () = shared.halted.cancelled() => return,
        }
        tokio::select! {
            () = shared.put_in(std::mem::take(&mut gathered)) => {}
            () = shared.halted.cancelled() => return,
        }
    }
}

impl Shared {
    /// Tells the store of executions that ended.
    async fn put_in(&self, ended: Vec<Ended>) {
        let worker = &self.remote.worker;
        let (mut results, mut outcomes, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for Ended { held, outcome } in ended {
            if !worker.is_wanted(held) {
                worker.let_go(held);
                continue;
            }
            if let Outcome::Storage(error) = &outcome {
                tracing::warn!(%error, "the store failed under a remote step; it is given back");
                worker.is_tired.store(true, Ordering::SeqCst);
            }
            match self.result_of(held, outcome) {
                Some((result, outcome)) => {
                    results.push(result);
                    outcomes.push(outcome);
                }
                None => back.push(held),
            }
        }
        while !results.is_empty() {
            let mut bytes = 0;
            let fits = results
                .iter()
                .take(MAX_RESULTS)
                .take_while(|result: &&TaskResult| {
                    bytes += result.bytes.len();
                    bytes <= MAX_RESULT_BYTES
                });
            let n = fits.count().max(1);
            let batch: Vec<_> = results.drain(..n).collect();
            let batch_outcomes = outcomes.drain(..n).collect();
            back.extend(self.finish(batch, batch_outcomes).await);
        }
        if !back.is_empty() {
            let given = self.remote.queue().give_back(self.node, &back).await;
            back.into_iter().for_each(|held| worker.let_go(held));
            if let Err(error) = given {
                tracing::warn!(%error, "could not give remote steps back; trying again");
                worker.look();
            }
        }
        // Where limits are those of a queue in memory, nobody else says that there is room again; and a shutdown waits for the last.
        if self.remote.is_local() || worker.stops.is_cancelled() {
            worker.wake();
        }
    }

    /// What the store is told of an outcome; `None` if there is no result.
    fn result_of(&self, held: Held, outcome: Outcome) -> Option<(TaskResult, Outcome)> {
        let stored = StoredOutcome::of(&outcome)?;
        let (stored, outcome, bytes) = match self.remote.is_local() {
            // The desk has it from here, and nobody else.
            true => (stored, outcome, Some(bytes::Bytes::new())),
            false => {
                let bytes = result(&stored);
                (stored, outcome, bytes)
            }
        };
        if let Some(bytes) = bytes {
            let result = TaskResult {
                held,
                bytes,
                stands: stored.stands(),
                declines: stored.declines(),
                blobs: stored.blobs(),
            };
            return Some((result, outcome));
        }
        let failure = Failure {
            kind: StepErrorKind::Unencodable,
            message: "the result is too large to be stored".to_owned(),
            causes: Vec::new(),
        };
        let stored = StoredOutcome::Failed(failure);
        let result = TaskResult {
            held,
            bytes: result(&stored)?,
            stands: true,
            declines: false,
            blobs: Vec::new(),
        };
        Some((result, stored.into()))
    }

    /// Puts results in, and tries again as long as the store fails and the leases last; those that are to be given back.
    async fn finish(&self, results: Vec<TaskResult>, outcomes: Vec<Outcome>) -> Vec<Held> {
        let worker = &self.remote.worker;
        let finished = loop {
            match self.remote.queue().finish(self.node, &results).await {
                Ok(finished) => break finished,
                Err(error) if error.is_retryable() && worker.has_any(&results) => {
                    tracing::warn!(%error, "could not put results of remote steps in; trying again");
                    self.pause(AGAIN_AFTER).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "could not put results of remote steps in; they are given back");
                    return results.into_iter().map(|result| result.held).collect();
                }
            }
        };
        let mut back = Vec::new();
        for ((result, outcome), became) in results.into_iter().zip(outcomes).zip(finished) {
            match became {
                FinishOutcome::Accepted => {
                    let task = result.held.task;
                    self.remote.tell_desk(Message::Ended(task, outcome));
                }
                FinishOutcome::Stale => {
                    tracing::debug!(
                        task = result.held.task.0,
                        "a remote step's result came too late"
                    );
                }
                FinishOutcome::Declined => {
                    let task = result.held.task.0;
                    tracing::warn!(
                        task,
                        ?outcome,
                        "this program cannot execute a remote step; it is left to workers that may"
                    );
                }
                FinishOutcome::BlobMissing { blob } => {
                    tracing::warn!(%blob, "a remote step's result names a blob that is not there; the step is given back");
                    worker.is_tired.store(true, Ordering::SeqCst);
                    back.push(result.held);
                    continue;
                }
            }
            worker.let_go(result.held);
        }
        back
    }
}

impl Worker {
    /// Whether the store waits for what a task comes to.
    fn is_wanted(&self, held: Held) -> bool {
        let in_hand = self.in_hand();
        let body = in_hand.get(&held.task);
        body.is_some_and(|body| body.claim == held.claim && !body.is_withdrawn)
    }

    fn let_go(&self, held: Held) {
        let mut in_hand = self.in_hand();
        if in_hand
            .get(&held.task)
            .is_some_and(|body| body.claim == held.claim)
        {
            in_hand.remove(&held.task);
        }
    }

    fn has_any(&self, results: &[TaskResult]) -> bool {
        let in_hand = self.in_hand();
        results
            .iter()
            .any(|result| in_hand.contains_key(&result.held.task))
    }
}
