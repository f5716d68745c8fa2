//! Winning back space: blobs that no run refers to, and what the map has to give.

use std::ops::{Bound, ControlFlow};

use crate::{BlobId, Maintained, Result, RunId};

use super::core::Core;
use super::keys;

impl Core {
    pub(super) fn maintain(&self) -> Result<Maintained> {
        let mut done = Maintained::default();
        for blob in self.blobs.list()? {
            self.check_open()?;
            if self.is_referred_to(&blob)? {
                continue;
            }
            // With the writer's lock no commit can come to refer to the blob between the look and the removal.
            let _writer = self.writer()?;
            if self.is_referred_to(&blob)? {
                continue;
            }
            if let Some(bytes) = self.blobs.remove_unless_fresh(&blob)? {
                done.blobs_removed += 1;
                done.bytes_freed += bytes;
            }
        }
        let _writer = self.writer()?;
        done.bytes_freed += self.map.compact()?;
        Ok(done)
    }

    fn is_referred_to(&self, blob: &BlobId) -> Result<bool> {
        let prefix = keys::runs_of_blob(blob);
        let end = keys::end_of(&prefix);
        let mut found = false;
        self.map.range(
            (Bound::Included(&prefix), end.as_ref().map(Vec::as_slice)),
            false,
            &mut |_, _| {
                found = true;
                ControlFlow::Break(())
            },
        )?;
        Ok(found)
    }

    /// A commit must not refer to a blob that is not there.
    pub(super) fn check_blob(&self, run: &RunId, blob: &BlobId) -> Result<()> {
        if self.blobs.contains(blob)? {
            return Ok(());
        }
        Err(self.corrupt(format!(
            "blob {blob}, which run {run} is to refer to, is not stored"
        )))
    }
}
