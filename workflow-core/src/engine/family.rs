//! A run and its children: resuming what a run failed by, and deleting what belongs to it.

use futures_util::stream::{self, StreamExt};
use keepstep_storage::{DeleteOutcome, Epoch, RunDelete, RunId, RunQuery, RunRecord, StoredStatus};

use super::Engine;
use crate::error::{Error, Result};
use crate::executor::{MAX_BATCH_BYTES, deleted_bytes, load_run};
use crate::run::Event;
use crate::status::Status;

/// How many children are listed at a time.
const PAGE: usize = 256;
/// How many children of a large family are canceled at a time.
const CANCELED_AT_ONCE: usize = 64;

/// A run that is to be deleted with others.
struct Member {
    run: RunId,
    incarnation: u64,
    epoch: Epoch,
    status: StoredStatus,
    /// What its removal adds to a batch.
    bytes: usize,
}

impl Member {
    fn new(run: RunId, record: &RunRecord) -> Self {
        Self {
            run,
            incarnation: record.incarnation,
            epoch: record.epoch,
            status: record.status,
            bytes: deleted_bytes(record),
        }
    }
}

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

    /// Removes a run with all that is stored of it; its id can then be used again. A run that has ended, is suspended or
    /// resumable can be deleted. Its [children](crate::child), and theirs, are deleted with it, unless one of them is active.
    ///
    /// All of them go in one commit: after a crash, they are all there or all gone. A very large family (several hundred runs)
    /// goes in several commits, and its runs are made final before: those that have not ended are canceled, and so is the
    /// run itself if it has failed. What a crash leaves of it can do nothing any more, and `delete` can be called again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::StillActive`] if it is pending or running, and [`Error::ChildStillActive`] if a child is:
    /// cancel it first. Nothing is deleted then.
    pub async fn delete(&self, id: impl AsRef<str>) -> Result<()> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        let _lock = self.shared.locks.lock(&id).await;
        self.delete_locked(&id).await
    }

    /// Deletes a run, whose lock the caller holds, and its children.
    pub(super) async fn delete_locked(&self, id: &RunId) -> Result<()> {
        loop {
            let record = self.record(id).await?;
            let family = self.family_of(id, record).await?;
            let bytes = family.iter().map(|member| member.bytes);
            let is_large = bytes.fold(0, usize::saturating_add) > MAX_BATCH_BYTES;
            if is_large && self.make_final(&family).await? {
                // Their epochs are others now.
                continue;
            }
            if self.delete_family(id, family).await? {
                return Ok(());
            }
        }
    }

    /// A run and its children, and theirs, each behind the one that started it.
    ///
    /// # Errors
    /// [`Error::StillActive`] and [`Error::ChildStillActive`] if one of them is active.
    async fn family_of(&self, id: &RunId, record: RunRecord) -> Result<Vec<Member>> {
        if let Some(status) = self.is_active(id, &record) {
            let run = id.clone();
            return Err(Error::StillActive { run, status });
        }
        let mut family = vec![Member::new(id.clone(), &record)];
        let mut at = 0;
        while let Some(parent) = family.get(at) {
            at += 1;
            let mut query = RunQuery {
                children_of: Some((parent.run.clone(), parent.incarnation)),
                limit: PAGE,
                ..RunQuery::default()
            };
            loop {
                let page = self.shared.storage.list(&query).await?;
                for listed in page.runs {
                    if let Some(status) = self.is_active(&listed.run, &listed.record) {
                        return Err(Error::ChildStillActive {
                            run: id.clone(),
                            child: listed.run,
                            status,
                        });
                    }
                    family.push(Member::new(listed.run, &listed.record));
                }
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
        Ok(family)
    }

    /// Cancels what nobody is to go on with once a part of the family is gone, the first of it before the others. Whether there
    /// was anything to cancel.
    async fn make_final(&self, family: &[Member]) -> Result<bool> {
        let mut members = family.iter();
        let Some(first) = members.next() else {
            return Ok(false);
        };
        let mut is_changed = false;
        if !matches!(
            first.status,
            StoredStatus::Successful | StoredStatus::Canceled
        ) {
            is_changed = true;
            self.cancel_for_good(&first.run).await?;
        }
        let others: Vec<RunId> = members
            .filter(|member| !member.status.is_final())
            .map(|member| member.run.clone())
            .collect();
        is_changed |= !others.is_empty();
        let mut canceling = stream::iter(others)
            .map(|run| async move { self.cancel(run.as_str()).await })
            .buffer_unordered(CANCELED_AT_ONCE);
        while let Some(canceled) = canceling.next().await {
            match canceled {
                Ok(()) | Err(Error::AlreadyEnded { .. } | Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(is_changed)
    }

    /// Cancels a run that is not active, also one that has failed, which could be resumed.
    async fn cancel_for_good(&self, id: &RunId) -> Result<()> {
        let Some(claimed) = self.claim(id).await? else {
            // Another engine has it: whoever looks again finds it active.
            return Ok(());
        };
        let appended = self
            .append(
                id,
                &claimed.record,
                Event::RunCanceled,
                StoredStatus::Canceled,
            )
            .await;
        match appended {
            Ok(_) | Err(Error::Fenced { .. }) => {
                self.shared.roster().lost.remove(id);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes a family, the innermost first, in one commit if it is not too large for that. `false`: some of it has changed
    /// since it was looked at.
    async fn delete_family(&self, id: &RunId, mut family: Vec<Member>) -> Result<bool> {
        while !family.is_empty() {
            let mut bytes = 0_usize;
            let fits = |member: &&Member| {
                bytes = bytes.saturating_add(member.bytes);
                bytes <= MAX_BATCH_BYTES
            };
            let n = family.iter().rev().take_while(fits).count().max(1);
            let portion = family.split_off(family.len() - n);
            let bytes = portion.iter().map(|member| member.bytes);
            let bytes = bytes.fold(0, usize::saturating_add);
            let deletes = portion.iter().map(|member| RunDelete {
                run: member.run.clone(),
                epoch: member.epoch,
                node: self.shared.node,
                family: Some(id.clone()),
            });
            // Whoever else believes to own one finds it gone, and a new run of its id at another epoch.
            let outcomes = self.shared.delete_all(deletes.collect(), bytes).await?;
            let is_taken = |outcome: &DeleteOutcome| *outcome == DeleteOutcome::Deleted;
            if outcomes.len() != n || !outcomes.iter().all(is_taken) {
                return Ok(false);
            }
            let mut roster = self.shared.roster();
            for member in &portion {
                roster.lost.remove(&member.run);
            }
            drop(roster);
            self.shared.resumed.notify_waiters();
        }
        Ok(true)
    }

    /// The status of a run that cannot be deleted because of it.
    fn is_active(&self, id: &RunId, record: &RunRecord) -> Option<Status> {
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
}
