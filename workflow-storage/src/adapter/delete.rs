//! Deleting runs: all of their pairs go with the commit. The blobs that only they named go after it.

use std::ops::ControlFlow;

use crate::blobs::Removal;
use crate::{BlobId, DeleteOutcome, Op, Result, RunDelete, RunId};

use super::commit::{Commit, index};
use super::core::{Core, Writer};
use super::keys::{self, Space};

impl Commit<'_> {
    pub(super) fn delete(&mut self, delete: RunDelete) -> Result<DeleteOutcome> {
        let run = delete.run;
        debug_assert!(
            !self.heads.contains_key(&run),
            "a batch has a write or a delete of a run"
        );
        let Some(head) = self.head(&run)? else {
            return Ok(DeleteOutcome::NotFound);
        };
        if head.record.epoch != delete.epoch {
            return Ok(DeleteOutcome::Fenced);
        }
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
        Ok(DeleteOutcome::Deleted)
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
