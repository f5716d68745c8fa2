//! Winning back space: blobs that no run refers to, and what the map has to give.

use std::ops::{Bound, ControlFlow};

use crate::{BlobId, Maintained, Result};

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
            let removal = {
                // With the writer's lock no commit can come to name the blob between the look and the beginning of its removal,
                // and from then on none can either: so commits need not wait for the disk.
                let _writer = self.writer()?;
                if self.is_referred_to(&blob)? {
                    continue;
                }
                self.blobs.begin_removal(&blob)
            };
            if let Some(removal) = removal {
                done.bytes_freed += self.remove_blob(removal)?;
                done.blobs_removed += 1;
            }
        }
        self.blobs.await_removals();
        let _writer = self.writer()?;
        done.bytes_freed += self.map.compact()?;
        Ok(done)
    }

    pub(super) fn is_referred_to(&self, blob: &BlobId) -> Result<bool> {
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

    /// The first of these blobs that is not there: no run may come to name it.
    pub(super) fn missing_blob(&self, blobs: &[BlobId]) -> Result<Option<BlobId>> {
        for blob in blobs {
            let may_be_named = match self.blobs.may_be_named(blob)? {
                Some(known) => known,
                None => self.is_referred_to(blob)?,
            };
            if !may_be_named {
                return Ok(Some(*blob));
            }
        }
        Ok(None)
    }
}
