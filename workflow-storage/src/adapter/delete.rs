//! Deleting runs: all of their pairs go with the commit. The blobs that only they named go after it.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::blobs::Removal;
use crate::{BlobId, DeleteOutcome, Op, Result, RunDelete, RunId};

use super::commit::{Commit, index};
use super::core::{Core, Writer};
use super::keys::{self, Space};

impl Commit<'_> {
    /// All deletes of a batch: what becomes of each is known before any of its family is removed.
    pub(super) fn delete_all(&mut self, deletes: Vec<RunDelete>) -> Result<Vec<DeleteOutcome>> {
        let mut outcomes = Vec::with_capacity(deletes.len());
        let mut broken = HashSet::new();
        for delete in &deletes {
            debug_assert!(
                !self.heads.contains_key(&delete.run),
                "a batch has a write or a delete of a run"
            );
            let outcome = match self.head(&delete.run)? {
                None => DeleteOutcome::NotFound,
                Some(head) if head.record.epoch != delete.epoch => DeleteOutcome::Fenced,
                Some(_) => DeleteOutcome::Deleted,
            };
            if outcome != DeleteOutcome::Deleted {
                broken.extend(delete.family.clone());
            }
            outcomes.push(outcome);
        }
        for (delete, outcome) in deletes.into_iter().zip(&mut outcomes) {
            if *outcome != DeleteOutcome::Deleted {
                continue;
            }
            if delete.family.is_some_and(|family| broken.contains(&family)) {
                *outcome = DeleteOutcome::Skipped;
            } else {
                self.delete(delete.run)?;
            }
        }
        Ok(outcomes)
    }

    fn delete(&mut self, run: RunId) -> Result<()> {
        let Some(head) = self.head(&run)? else {
            return Ok(());
        };
        let (core, ops, unnamed) = (self.core, &mut self.ops, &mut self.unnamed);
        core.blobs_of(&run, &mut |blob| {
            ops.push(Op::Remove(keys::blob_run(&blob, &run)));
            unnamed.push(blob);
        })?;
        for space in Space::OF_RUNS {
            core.remove_prefix(ops, &keys::of_run(space, &run))?;
        }
        index(ops, &run, Some(&head.record), None);
        ops.push(Op::Remove(keys::record(&run)));
        self.heads.insert(run, None);
        Ok(())
    }
}

impl Core {
    /// Begins to remove those of these blobs that no run names and nobody has pinned. From here on no commit can come to name them.
    pub(super) fn begin_removals(&self, _writer: &Writer<'_>, blobs: &[BlobId]) -> Vec<Removal> {
        blobs
            .iter()
            .filter(|blob| matches!(self.is_referred_to(blob), Ok(false)))
            .filter_map(|blob| self.blobs.begin_removal(blob))
            .collect()
    }

    fn blobs_of(&self, run: &RunId, visit: &mut dyn FnMut(BlobId)) -> Result<()> {
        let prefix = keys::of_run(Space::RunBlobs, run);
        self.try_range(&prefix, &keys::end_of(&prefix), &mut |key, _| {
            let blob = key[prefix.len()..].try_into().map_err(|_| {
                self.corrupt(format!(
                    "a blob of run {run} has an address of another length"
                ))
            })?;
            visit(BlobId(blob));
            Ok(ControlFlow::Continue(()))
        })
    }
}
