//! Deleting a run: all of its pairs, in one batch, and then the blobs that only it named.

use std::ops::ControlFlow;

use tracing::warn;

use crate::{BlobId, Epoch, Op, Result, RunId};

use super::commit::index;
use super::core::Core;
use super::keys::{self, Space};

impl Core {
    pub(super) fn delete(&self, run: RunId, epoch: Epoch) -> Result<bool> {
        let writer = self.writer()?;
        let Some(head) = self.head(&run)?.filter(|head| head.record.epoch == epoch) else {
            return Ok(false);
        };
        let mut ops = Vec::new();
        let mut blobs = Vec::new();
        self.blobs_of(&run, &mut |blob| {
            ops.push(Op::Remove(keys::blob_run(&blob, &run)));
            blobs.push(blob);
        })?;
        for space in Space::OF_RUNS {
            self.remove_prefix(&mut ops, &keys::of_run(space, &run))?;
        }
        index(&mut ops, &run, Some(&head.record), None);
        ops.push(Op::Remove(keys::record(&run)));
        self.apply(&writer, ops, [(run.clone(), None)])?;
        // From here on the run is deleted: what cannot be removed now is for the next sweep.
        let removals: Vec<_> = blobs
            .iter()
            .filter(|blob| matches!(self.is_referred_to(blob), Ok(false)))
            .filter_map(|blob| self.blobs.begin_removal(blob))
            .collect();
        // Nothing can come to name them any more, so commits need not wait for their removal.
        drop(writer);
        for removal in removals {
            if let Err(error) = self.blobs.remove(removal) {
                warn!(%run, %error, "a blob of a deleted run stays until the next sweep");
            }
        }
        Ok(true)
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
