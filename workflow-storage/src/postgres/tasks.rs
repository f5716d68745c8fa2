//! The queue of tasks: a row each, in `keepstep.task`. See `tasks.sql`.

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;

use super::numbers::{bits, node as number, read, stored};
use super::session::Param;
use super::{Postgres, commit, names};
use crate::{
    BlobId, FinishOutcome, Held, Limit, NodeId, Offer, Offered, Removal, Result, RunId, Task,
    TaskId, TaskQueue, TaskResult, Wanted,
};

/// The states of a task that has a result.
const DONE: i16 = 2;
const NOT_EXECUTABLE: i16 = 3;
/// Not one of a task: it is not executable unless another worker may execute it.
const DECLINED: i16 = 4;

/// Offers as columns, each of them one parameter.
#[derive(Default)]
struct Columns<'a> {
    run: Vec<&'a str>,
    epoch: Vec<i64>,
    incarnation: Vec<i64>,
    step: Vec<i64>,
    attempt: Vec<i64>,
    name: Vec<Vec<u8>>,
    version: Vec<i64>,
    pool: Vec<&'a str>,
    priority: Vec<i32>,
    key: Vec<Option<Vec<u8>>>,
    payload: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn new(offers: &'a [Offer]) -> Self {
        let mut columns = Self::default();
        for offer in offers {
            columns.run.push(offer.run.as_str());
            columns.epoch.push(stored(offer.epoch.0));
            columns.incarnation.push(bits(offer.incarnation));
            columns.step.push(stored(offer.step));
            columns.attempt.push(i64::from(offer.attempt));
            columns.name.push(names::key(&offer.step_name));
            columns.version.push(i64::from(offer.step_version));
            columns.pool.push(&offer.pool);
            columns.priority.push(offer.priority);
            columns.key.push(offer.key.as_deref().map(names::key));
            columns.payload.push(&offer.payload);
        }
        columns
    }
}

impl Postgres {
    fn task(&self, row: &Row) -> Result<Task> {
        let column = |at| self.sessions.column::<i64>(row, at);
        let run: String = self.sessions.column(row, 2)?;
        let run = RunId::stored(&run).map_err(|_| self.sessions.corrupt("a task of no run"))?;
        let payload: Vec<u8> = self.sessions.column(row, 6)?;
        Ok(Task {
            held: Held {
                task: TaskId(read(column(0)?)),
                claim: read(column(1)?),
            },
            run,
            incarnation: column(3)?.cast_unsigned(),
            step: read(column(4)?),
            attempt: u32::try_from(column(5)?).unwrap_or(u32::MAX),
            payload: payload.into(),
            n_lost: u32::try_from(self.sessions.column::<i32>(row, 7)?).unwrap_or_default(),
        })
    }

    fn offered(&self, row: &Row, at: usize) -> Result<Offered> {
        let task = TaskId(read(self.sessions.column(row, at)?));
        let result: Option<Vec<u8>> = self.sessions.column(row, at + 1)?;
        Ok(Offered {
            task,
            result: result.map(Bytes::from),
        })
    }
}

#[async_trait]
impl TaskQueue for Postgres {
    async fn offer(&self, offers: &[Offer]) -> Result<Vec<Option<Offered>>> {
        self.sessions.check_open()?;
        if offers.is_empty() {
            return Ok(Vec::new());
        }
        let c = Columns::new(offers);
        let params: &[Param<'_>] = &[
            &c.run,
            &c.epoch,
            &c.incarnation,
            &c.step,
            &c.attempt,
            &c.name,
            &c.version,
            &c.pool,
            &c.priority,
            &c.key,
            &c.payload,
        ];
        // Offered once more if the answer was lost: what is there is found.
        let rows = self.sessions.query("offer steps", &self.sql.offer, params);
        let mut offered = vec![None; offers.len()];
        for row in &rows.await? {
            let place: i64 = self.sessions.column(row, 0)?;
            let place = usize::try_from(place - 1).ok();
            if let Some(place) = place.and_then(|place| offered.get_mut(place)) {
                *place = Some(self.offered(row, 1)?);
            }
        }
        Ok(offered)
    }

    async fn take(&self, wanted: &Wanted<'_>) -> Result<Vec<Task>> {
        self.know(wanted.node);
        let step_names: Vec<_> = wanted.steps.iter().map(|(n, _)| names::key(n)).collect();
        let versions: Vec<i64> = wanted.steps.iter().map(|(_, v)| i64::from(*v)).collect();
        let limit = i32::try_from(wanted.limit).unwrap_or(i32::MAX);
        let writer = self.writers.take(commit::random_id);
        let (id, turn) = writer.params();
        let params: &[Param<'_>] = &[
            id,
            turn,
            &number(wanted.node),
            &wanted.lease.as_secs_f64(),
            &self.address,
            &wanted.pools,
            &step_names,
            &versions,
            &limit,
        ];
        // After an error something may have been taken: whoever looks at what is held gives it back.
        let rows = self
            .sessions
            .query("take steps", &self.sql.take, params)
            .await?;
        self.writers.give_back(writer);
        rows.iter().map(|row| self.task(row)).collect()
    }

    async fn begin(&self, node: NodeId, held: Held) -> Result<()> {
        let (task, claim) = (stored(held.task.0), stored(held.claim));
        let params: &[Param<'_>] = &[&number(node), &task, &claim];
        let begun = self.sessions.query("begin a step", &self.sql.begin, params);
        begun.await.map(drop)
    }

    async fn finish(&self, node: NodeId, results: &[TaskResult]) -> Result<Vec<FinishOutcome>> {
        self.sessions.check_open()?;
        if results.is_empty() {
            return Ok(Vec::new());
        }
        let tasks: Vec<i64> = results.iter().map(|r| stored(r.held.task.0)).collect();
        let claims: Vec<i64> = results.iter().map(|r| stored(r.held.claim)).collect();
        let state = |result: &TaskResult| match result {
            TaskResult { stands: true, .. } => DONE,
            TaskResult { declines: true, .. } => DECLINED,
            _ => NOT_EXECUTABLE,
        };
        let states: Vec<i16> = results.iter().map(state).collect();
        let bytes: Vec<&[u8]> = results.iter().map(|result| &*result.bytes).collect();
        let (mut blob_of, mut blob): (Vec<i32>, Vec<&[u8]>) = Default::default();
        for (result, place) in results.iter().zip(1..) {
            for id in &result.blobs {
                blob_of.push(place);
                blob.push(&id.0);
            }
        }
        let params: &[Param<'_>] = &[
            &number(node),
            &tasks,
            &claims,
            &states,
            &bytes,
            &blob_of,
            &blob,
        ];
        let sql = &self.sql.finish;
        let row = self
            .sessions
            .query("finish steps", sql, params)
            .await?
            .pop();
        let row = row.ok_or_else(|| self.sessions.corrupt("no answer to results"))?;
        let outcomes: Vec<i16> = self.sessions.column(&row, 0)?;
        let absent: Vec<Option<Vec<u8>>> = self.sessions.column(&row, 1)?;
        let missing = |n: usize| {
            let blob = absent
                .get(n)
                .and_then(|blob| blob.as_deref()?.try_into().ok());
            BlobId(blob.unwrap_or_default())
        };
        let outcome = |n: usize| match outcomes.get(n) {
            Some(0) => FinishOutcome::Accepted,
            Some(2) => FinishOutcome::BlobMissing { blob: missing(n) },
            Some(3) => FinishOutcome::Declined,
            _ => FinishOutcome::Stale,
        };
        Ok((0..results.len()).map(outcome).collect())
    }

    async fn give_back(&self, node: NodeId, held: &[Held]) -> Result<()> {
        let tasks: Vec<i64> = held.iter().map(|held| stored(held.task.0)).collect();
        let claims: Vec<i64> = held.iter().map(|held| stored(held.claim)).collect();
        let params: &[Param<'_>] = &[&number(node), &tasks, &claims];
        let sql = &self.sql.give_back;
        let given = self.sessions.query("give steps back", sql, params);
        given.await.map(drop)
    }

    async fn held(&self, node: NodeId) -> Result<Vec<Held>> {
        let params: &[Param<'_>] = &[&number(node)];
        let rows = self
            .sessions
            .query("look at what is held", &self.sql.held, params);
        let held = |row: &Row| {
            Ok(Held {
                task: TaskId(read(self.sessions.column(row, 0)?)),
                claim: read(self.sessions.column(row, 1)?),
            })
        };
        rows.await?.iter().map(held).collect()
    }

    async fn look(&self, tasks: &[TaskId]) -> Result<Vec<Offered>> {
        let tasks: Vec<i64> = tasks.iter().map(|task| stored(task.0)).collect();
        let params: &[Param<'_>] = &[&tasks];
        let rows = self.sessions.query("look at steps", &self.sql.look, params);
        rows.await?.iter().map(|row| self.offered(row, 0)).collect()
    }

    async fn remove(&self, removals: &[Removal]) -> Result<()> {
        let tasks: Vec<i64> = removals.iter().map(|r| stored(r.task.0)).collect();
        let epochs: Vec<i64> = removals.iter().map(|r| stored(r.epoch.0)).collect();
        let also_done: Vec<bool> = removals.iter().map(|r| r.also_done).collect();
        let params: &[Param<'_>] = &[&tasks, &epochs, &also_done];
        let sql = &self.sql.remove_tasks;
        let removed = self.sessions.query("remove steps", sql, params);
        removed.await.map(drop)
    }

    async fn set_limit(&self, pool: &str, limit: Limit, at_once: Option<u32>) -> Result<()> {
        let sql = match limit {
            Limit::AtOnce => &self.sql.limit_at_once,
            Limit::AtOncePerKey => &self.sql.limit_per_key,
        };
        let at_once = at_once.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        let params: &[Param<'_>] = &[&pool, &at_once];
        let set = self.sessions.query("limit a pool", sql, params);
        set.await.map(drop)
    }

    async fn unserved(&self, pools: &[String]) -> Result<Vec<String>> {
        let params: &[Param<'_>] = &[&pools];
        let rows = self
            .sessions
            .query("look whether pools are served", &self.sql.unserved, params);
        let names = rows.await?;
        let names = names.iter().map(|row| self.sessions.column(row, 0));
        names.collect()
    }

    async fn limit(&self, pool: &str, limit: Limit) -> Result<Option<u32>> {
        let params: &[Param<'_>] = &[&pool];
        let rows = self
            .sessions
            .query("look at a pool", &self.sql.limits, params);
        let at = match limit {
            Limit::AtOnce => 0,
            Limit::AtOncePerKey => 1,
        };
        let at_once: Option<i32> = match rows.await?.first() {
            Some(row) => self.sessions.column(row, at)?,
            None => None,
        };
        Ok(at_once.map(|n| u32::try_from(n).unwrap_or(0)))
    }
}
