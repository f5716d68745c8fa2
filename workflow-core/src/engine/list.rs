//! Listing runs, a page at a time.

use std::time::SystemTime;

use keepstep_storage::{RunCursor, RunQuery, StoredStatus};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::read::progress_of;
use crate::error::Result;
use crate::status::{Progress, Status};

/// Which runs a listing has.
///
/// ```
/// # use keepstep_core::{Engine, Filter, Status, Workflow};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::open("memory:").await?;
/// for id in ["order/1", "order/2", "invoice/1"] {
///     engine.run(id, Workflow::value(())).await?;
/// }
/// let page = engine.list(Filter::all().status(Status::Successful).id_prefix("order/").limit(1)).await?;
/// assert_eq!(page.runs[0].id, "order/1");
/// let cursor = page.next.expect("there is another");
/// let page = engine.list(Filter::all().status(Status::Successful).id_prefix("order/").after(cursor)).await?;
/// assert_eq!(page.runs[0].id, "order/2");
/// assert!(page.next.is_none());
/// # engine.shutdown().await
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Filter {
    statuses: Vec<Status>,
    query: RunQuery,
}

impl Filter {
    /// Every run, oldest first, 100 to a page.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only runs of this status; called again, of that one too.
    pub fn status(mut self, status: Status) -> Self {
        self.statuses.push(status);
        self
    }

    /// Only runs whose id starts so.
    pub fn id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.query.id_prefix = prefix.into();
        self
    }

    /// Only runs created at this time or later.
    pub fn created_from(mut self, time: SystemTime) -> Self {
        self.query.created_from = Some(time.into());
        self
    }

    /// Only runs created before this time.
    pub fn created_before(mut self, time: SystemTime) -> Self {
        self.query.created_before = Some(time.into());
        self
    }

    /// Newest first.
    pub fn newest_first(mut self) -> Self {
        self.query.newest_first = true;
        self
    }

    /// At most so many runs to a page; at least 1.
    pub fn limit(mut self, limit: usize) -> Self {
        self.query.limit = limit.max(1);
        self
    }

    /// Goes on where a page ended.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.query.after = Some(cursor.0);
        self
    }
}

impl From<Status> for Filter {
    fn from(status: Status) -> Self {
        Self::all().status(status)
    }
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(RunCursor);

/// A page of runs.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Page {
    /// The runs.
    pub runs: Vec<RunSummary>,
    /// Where to go on; `None` when there is nothing more.
    pub next: Option<Cursor>,
}

/// A run in a listing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunSummary {
    /// The workflow id.
    pub id: String,
    /// The status.
    pub status: Status,
    /// The name of the step the workflow ends in.
    pub workflow: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
    /// How far it is, as of its last commit; bodies that are executing count as waiting.
    pub progress: Progress,
}

impl Engine {
    /// A page of runs, in order of their creation.
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage).
    pub async fn list(&self, filter: impl Into<Filter>) -> Result<Page> {
        self.shared.check_runtime()?;
        let Filter {
            statuses,
            mut query,
        } = filter.into();
        query.statuses = stored(&statuses);
        if statuses == [Status::Resumable] && self.shared.roster().lost.is_empty() {
            query.not_owned_by = Some(self.shared.node);
        }
        let limit = query.limit;
        let mut page = Page::default();
        // Whether a run is resumable is not in the index, so a page of the store may have fewer runs than were asked for.
        loop {
            query.limit = limit - page.runs.len();
            let stored = self.shared.storage.list(&query).await?;
            for listed in stored.runs {
                let status = self.shared.status_of(&listed.run, &listed.record);
                if statuses.is_empty() || statuses.contains(&status) {
                    page.runs.push(RunSummary {
                        id: listed.run.to_string(),
                        status,
                        progress: progress_of(&listed.record),
                        workflow: listed.record.workflow,
                        created_at: listed.record.created_at.into(),
                        ended_at: listed.record.ended_at.map(Into::into),
                    });
                }
            }
            page.next = stored.next.clone().map(Cursor);
            match stored.next {
                Some(next) if page.runs.len() < limit => query.after = Some(next),
                _ => return Ok(page),
            }
        }
    }
}

/// The stored statuses among which these are found.
fn stored(statuses: &[Status]) -> Vec<StoredStatus> {
    let mut stored: Vec<StoredStatus> = statuses
        .iter()
        .flat_map(|status| match status {
            Status::Pending => &[StoredStatus::Pending][..],
            Status::Running => &[StoredStatus::Running],
            Status::Resumable => &[StoredStatus::Pending, StoredStatus::Running],
            Status::Suspended => &[StoredStatus::Suspended],
            Status::Successful => &[StoredStatus::Successful],
            Status::Failed => &[StoredStatus::Failed],
            Status::Canceled => &[StoredStatus::Canceled],
        })
        .copied()
        .collect();
    stored.sort_unstable();
    stored.dedup();
    stored
}
