//! A run and its children: resuming what a run failed by, and deleting what belongs to it.

use std::collections::BTreeSet;

use keepstep_storage::{RunId, RunRecord, StoredStatus};

use super::Engine;
use crate::error::{Error, Result};
use crate::executor::load_run;
use crate::journal::read_entry;
use crate::status::Status;

/// How much of a journal is read at a time.
const PAGE_BYTES: usize = 4 << 20;

impl Engine {
    /// Resumes what a failed run failed by: its failed children, and theirs, the innermost first. Each of them goes on before the
    /// run that waits for it looks at it.
    pub(super) async fn resume_failed_children(&self, id: &RunId) -> Result<()> {
        let storage = &self.shared.storage;
        let mut families = Vec::new();
        if let Some(record) = storage.record(id).await? {
            families.push((id.clone(), record));
        }
        let mut failed = Vec::new();
        while let Some((id, record)) = families.pop() {
            if record.status != StoredStatus::Failed {
                continue;
            }
            let run = load_run(&**storage, &id, &record).await?;
            for child in run.children_to_retry() {
                if let Some(found) = self.child_record(&child, &id, &record).await?
                    && found.status == StoredStatus::Failed
                {
                    failed.push(child.clone());
                    families.push((child, found));
                }
            }
        }
        // Each stands behind its parent.
        for child in failed.into_iter().rev() {
            let _lock = self.shared.locks.lock(&child).await;
            // Somebody else may have resumed it since.
            let has_failed = |record: RunRecord| record.status == StoredStatus::Failed;
            if self.seat(&child).is_none() && storage.record(&child).await?.is_some_and(has_failed)
            {
                drop(self.take_over(&child).await?);
            }
        }
        Ok(())
    }

    /// Deletes the children of a run that is to be deleted, and theirs, the innermost first: whatever comes in between, a second
    /// attempt finds those that are left.
    ///
    /// # Errors
    /// [`Error::ChildStillActive`] if one of them is active. None is deleted then.
    pub(super) async fn delete_children(&self, id: &RunId) -> Result<()> {
        let Some(record) = self.shared.storage.record(id).await? else {
            return Ok(());
        };
        if self.is_active(id, &record).is_some() {
            // Who deletes it is told so.
            return Ok(());
        }
        let mut families = vec![(id.clone(), record)];
        let mut children = Vec::new();
        while let Some((parent, record)) = families.pop() {
            for child in self.all_children(&parent, &record).await? {
                let Some(found) = self.child_record(&child, &parent, &record).await? else {
                    continue;
                };
                if let Some(status) = self.is_active(&child, &found) {
                    return Err(Error::ChildStillActive {
                        run: id.clone(),
                        child,
                        status,
                    });
                }
                children.push(child.clone());
                families.push((child, found));
            }
        }
        for child in children.into_iter().rev() {
            match self.delete_one(child).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The status of a run that cannot be deleted because of it.
    pub(super) fn is_active(&self, id: &RunId, record: &RunRecord) -> Option<Status> {
        let status = self.shared.status_of(id, record);
        let is_active = matches!(status, Status::Pending | Status::Running);
        (is_active || self.seat(id).is_some()).then_some(status)
    }

    /// The record of a run, if it is a child of this one.
    async fn child_record(
        &self,
        child: &RunId,
        parent: &RunId,
        record: &RunRecord,
    ) -> Result<Option<RunRecord>> {
        let found = self.shared.storage.record(child).await?;
        Ok(found.filter(|found| {
            found.parent.as_ref().is_some_and(|found| {
                found.run == *parent && found.incarnation == record.incarnation
            })
        }))
    }

    /// The ids of all runs that a run's journal names as its children. A journal that is damaged names those before the damage.
    async fn all_children(&self, id: &RunId, record: &RunRecord) -> Result<BTreeSet<RunId>> {
        let mut children = BTreeSet::new();
        let mut next = record.first_entry;
        while next < record.next_entry {
            let page = self.shared.storage.journal(id, next, PAGE_BYTES).await?;
            if page.is_empty() {
                break;
            }
            for entry in page {
                next = entry.position.next();
                match read_entry(entry.position, &entry.bytes) {
                    Ok(events) => events.iter().for_each(|event| {
                        event.for_each_child(&mut |child| {
                            children.insert(child.clone());
                        })
                    }),
                    Err(damage) => {
                        tracing::warn!(run = %id, ?damage, "the children of a deleted run are not all known");
                        return Ok(children);
                    }
                }
            }
        }
        Ok(children)
    }
}
