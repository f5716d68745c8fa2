//! Reads: records, listings, journals, inboxes and timers.

use std::collections::HashMap;
use std::fmt::Write;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio_postgres::Row;

use super::numbers::{bits, node, read, stored};
use super::session::{Param, Sessions};
use super::{Postgres, names, schema};
use crate::{
    BlobId, Build, Epoch, JournalEntry, ListedRun, Message, MessageId, NodeId, Parent, Position,
    ReadRun, Result, RunCursor, RunId, RunKind, RunPage, RunQuery, RunRecord, StepCounts,
    StoredStatus, Timestamp, ValueKey,
};

/// The columns of a record, in the order in which `listed` reads them. An owner whose lease has ended owns nothing any more,
/// unless it is this process, which may not have noticed: `$1` are its nodes.
pub(super) const SELECT: &str = "SELECT r.id, r.kind, r.status, \
    CASE WHEN n.lease_until <= clock_timestamp() AND r.owner <> ALL ($1) THEN NULL ELSE r.owner END AS owner, \
    r.epoch, r.incarnation, r.workflow, r.plan_hash, r.created_at, r.started_at, r.ended_at, r.wake_at, r.first_entry, \
    r.next_entry, r.journal_bytes, r.steps_total, r.steps_done, r.steps_failed, r.parent_run, r.parent_incarnation, \
    r.parent_step, r.build_label, r.build_steps, r.build_executable FROM keepstep.run r LEFT JOIN keepstep.node n ON n.id = r.owner";
/// The same of what a claim returns.
pub(super) const CLAIMED: &str = "SELECT r.id, r.kind, r.status, r.owner, r.epoch, r.incarnation, r.workflow, r.plan_hash, \
    r.created_at, r.started_at, r.ended_at, r.wake_at, r.first_entry, r.next_entry, r.journal_bytes, r.steps_total, \
    r.steps_done, r.steps_failed, r.parent_run, r.parent_incarnation, r.parent_step, \
    r.build_label, r.build_steps, r.build_executable, r.n_orphaned FROM";

/// How many journals are read at a time, where many are.
const JOURNALS_AT_ONCE: usize = 8;
/// How many entries are looked at to fill a page of a journal.
const MAX_PAGE_ENTRIES: i64 = 10_000;

impl Sessions {
    pub(super) fn listed(&self, row: &Row) -> Result<ListedRun> {
        let read = |row: &Row| -> Result<Option<ListedRun>, tokio_postgres::Error> {
            let number = |at: usize| row.try_get::<_, i64>(at).map(read);
            let time = |at: usize| -> Result<_, tokio_postgres::Error> {
                let at: Option<i64> = row.try_get(at)?;
                Ok(at.map(|at| Timestamp(self::read(at))))
            };
            let (Some(kind), Some(status)) = (kind(row.try_get(1)?), status(row.try_get(2)?))
            else {
                return Ok(None);
            };
            let run: &str = row.try_get(0)?;
            let hash: &[u8] = row.try_get(7)?;
            let (Ok(run), Ok(plan_hash)) = (RunId::stored(run), hash.try_into()) else {
                return Ok(None);
            };
            let parent = match row.try_get::<_, Option<&str>>(18)? {
                None => None,
                Some(parent) => {
                    let Ok(parent) = RunId::stored(parent) else {
                        return Ok(None);
                    };
                    Some(Parent {
                        run: parent,
                        incarnation: row.try_get::<_, i64>(19)?.cast_unsigned(),
                        step: number(20)?,
                    })
                }
            };
            let executable: Option<&[u8]> = row.try_get(23)?;
            let Ok(executable) = executable.map(<[u8; 32]>::try_from).transpose() else {
                return Ok(None);
            };
            let owner: Option<i64> = row.try_get(3)?;
            let record = RunRecord {
                kind,
                status,
                owner: owner.map(|owner| NodeId(owner.cast_unsigned())),
                epoch: Epoch(number(4)?),
                incarnation: row.try_get::<_, i64>(5)?.cast_unsigned(),
                workflow: row.try_get(6)?,
                plan_hash,
                created_at: Timestamp(number(8)?),
                started_at: time(9)?,
                ended_at: time(10)?,
                wake_at: time(11)?,
                first_entry: Position(number(12)?),
                next_entry: Position(number(13)?),
                journal_bytes: number(14)?,
                steps: StepCounts {
                    total: number(15)?,
                    done: number(16)?,
                    failed: number(17)?,
                },
                parent,
                build: Build {
                    label: row.try_get(21)?,
                    steps: row.try_get::<_, i64>(22)?.cast_unsigned(),
                    executable: executable.map(BlobId),
                },
                // Only a claim says so.
                n_orphaned: match row.len() {
                    ..=24 => 0,
                    _ => row.try_get::<_, i32>(24)?.unsigned_abs(),
                },
            };
            Ok(Some(ListedRun { run, record }))
        };
        match read(row) {
            Ok(Some(listed)) => Ok(listed),
            Ok(None) => Err(self.corrupt("a row of the catalog is not one that keepstep writes")),
            Err(error) => Err(self.error("read a row of the catalog", error.into())),
        }
    }

    pub(super) fn id(&self, row: &Row, at: usize) -> Result<RunId> {
        let id: &str = self.column(row, at)?;
        RunId::stored(id).map_err(|error| self.corrupt(format!("id {id:?}: {error}")))
    }

    pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
        &self,
        row: &'a Row,
        at: usize,
    ) -> Result<T> {
        row.try_get(at)
            .map_err(|error| self.error("read a row", error.into()))
    }
}

fn kind(number: i16) -> Option<RunKind> {
    [RunKind::Workflow, RunKind::Actor, RunKind::Schedule]
        .into_iter()
        .find(|kind| *kind as i16 == number)
}

fn status(number: i16) -> Option<StoredStatus> {
    StoredStatus::ALL
        .into_iter()
        .find(|status| *status as i16 == number)
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Postgres {
    pub(super) async fn read_record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        let nodes = self.nodes();
        let params: &[Param<'_>] = &[&nodes, &run.as_str()];
        let rows = self
            .sessions
            .query("read a record", &self.sql.record, params);
        let rows = rows.await?;
        let listed = rows
            .first()
            .map(|row| self.sessions.listed(row))
            .transpose()?;
        Ok(listed.map(|listed| listed.record))
    }

    /// What runs are now, in the order in which they are asked for.
    pub(super) async fn read_records(&self, runs: &[&str]) -> Result<Vec<Option<RunRecord>>> {
        let nodes = self.nodes();
        let params: &[Param<'_>] = &[&nodes, &runs];
        let rows = self
            .sessions
            .query("read records", &self.sql.records, params);
        let mut records = HashMap::with_capacity(runs.len());
        for row in &rows.await? {
            let listed = self.sessions.listed(row)?;
            records.insert(listed.run, listed.record);
        }
        Ok(runs.iter().map(|run| records.remove(*run)).collect())
    }

    /// Records and journals: the records with one question, the journals with several at a time.
    pub(super) async fn read_whole_runs(
        &self,
        runs: &[RunId],
        max_bytes: usize,
    ) -> Result<Vec<Option<ReadRun>>> {
        let ids: Vec<&str> = runs.iter().map(RunId::as_str).collect();
        let records = self.read_records(&ids).await?;
        let mut reading = Vec::with_capacity(runs.len());
        for (run, record) in runs.iter().zip(records) {
            reading.push(self.read_with_journal(run, record, max_bytes));
        }
        stream::iter(reading)
            .buffered(JOURNALS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn read_with_journal(
        &self,
        run: &RunId,
        record: Option<RunRecord>,
        max_bytes: usize,
    ) -> Result<Option<ReadRun>> {
        let Some(record) = record else {
            return Ok(None);
        };
        let reading = self.read_journal(run, record.first_entry, max_bytes);
        let journal = reading.await?;
        Ok(Some(ReadRun { record, journal }))
    }

    /// One index serves runs of one status in order, so runs of several statuses are merged from as many scans.
    pub(super) async fn read_page(&self, query: &RunQuery) -> Result<RunPage> {
        let size = query.limit.max(1);
        let mut statuses = query.statuses.clone();
        statuses.sort_unstable();
        statuses.dedup();
        let nodes = self.nodes();
        let (kind, limit) = (query.kind as i16, limit(size.saturating_add(1)));
        let not_owned_by = query.not_owned_by.map(node);
        let from = query.created_from.map(|from| stored(from.0));
        let before = query.created_before.map(|before| stored(before.0));
        let parent = query.children_of.as_ref();
        let parent = parent.map(|(run, incarnation)| (run.as_str(), bits(*incarnation)));
        let after = query.after.as_ref();
        let after_time = after.map(|after| stored(after.created_at.0));
        let after_id = after.map(|after| after.run.as_str());
        let mut params: Vec<Param<'_>> = vec![&nodes, &kind, &limit];
        let mut filter = String::new();
        if let Some(owner) = &not_owned_by {
            params.push(owner);
            let n = params.len();
            let _ = write!(
                filter,
                " AND (CASE WHEN n.lease_until <= clock_timestamp() AND r.owner <> ALL ($1) THEN NULL ELSE r.owner END) \
                 IS DISTINCT FROM ${n}"
            );
        }
        if let Some(from) = &from {
            params.push(from);
            let _ = write!(filter, " AND r.created_at >= ${}", params.len());
        }
        if let Some(before) = &before {
            params.push(before);
            let _ = write!(filter, " AND r.created_at < ${}", params.len());
        }
        if let Some((parent, incarnation)) = &parent {
            params.push(parent);
            params.push(incarnation);
            let n = params.len();
            let _ = write!(
                filter,
                " AND r.parent_run = ${} AND r.parent_incarnation = ${n}",
                n - 1
            );
        }
        if !query.id_prefix.is_empty() {
            params.push(&query.id_prefix);
            let n = params.len();
            let _ = write!(filter, " AND starts_with(r.id, ${n})");
        }
        let (order, beyond) = if query.newest_first {
            ("DESC", "<")
        } else {
            ("ASC", ">")
        };
        if let (Some(time), Some(id)) = (&after_time, &after_id) {
            params.push(time);
            params.push(id);
            let n = params.len();
            let _ = write!(
                filter,
                " AND (r.created_at, r.id) {beyond} (${}, ${n})",
                n - 1
            );
        }
        let scan = |status: String| {
            format!(
                "({SELECT} WHERE r.kind = $2{status}{filter} ORDER BY r.created_at {order}, r.id {order} LIMIT $3)"
            )
        };
        let scans: Vec<String> = match &statuses[..] {
            [] => vec![scan(String::new())],
            some => some
                .iter()
                .map(|status| scan(format!(" AND r.status = {}", *status as i16)))
                .collect(),
        };
        let sql = format!(
            "SELECT * FROM ({}) AS r ORDER BY r.created_at {order}, r.id {order} LIMIT $3",
            scans.join(" UNION ALL ")
        );
        let sql = schema::named(&sql, &self.sessions.settings.schema);
        let rows = self.sessions.query("list runs", &sql, &params).await?;
        let mut runs = Vec::with_capacity(rows.len().min(size));
        for row in rows.iter().take(size) {
            runs.push(self.sessions.listed(row)?);
        }
        let next = runs.last().filter(|_| rows.len() > size);
        let next = next.map(|last| RunCursor {
            created_at: last.record.created_at,
            run: last.run.clone(),
        });
        Ok(RunPage { runs, next })
    }

    pub(super) async fn read_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        size: usize,
    ) -> Result<Vec<ListedRun>> {
        let nodes = self.nodes();
        let after = after.map_or("", RunId::as_str);
        let end = names::end_of(id_prefix);
        let params: &[Param<'_>] = &[
            &nodes,
            &(kind as i16),
            &id_prefix,
            &after,
            &end,
            &limit(size),
        ];
        let rows = self.sessions.query("list records", &self.sql.by_id, params);
        let rows = rows.await?;
        rows.iter().map(|row| self.sessions.listed(row)).collect()
    }

    pub(super) async fn read_journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        let (mut found, mut left) = (Vec::new(), max_bytes);
        let mut next = stored(from.0);
        loop {
            let params: &[Param<'_>] = &[
                &run.as_str(),
                &next,
                &limit(left),
                &found.is_empty(),
                &MAX_PAGE_ENTRIES,
            ];
            let rows = self
                .sessions
                .query("read a journal", &self.sql.journal, params);
            let rows = rows.await?;
            for row in &rows {
                let (position, bytes): (i64, Vec<u8>) =
                    (self.sessions.column(row, 0)?, self.sessions.column(row, 1)?);
                left = left.saturating_sub(bytes.len());
                next = position + 1;
                found.push(JournalEntry {
                    position: Position(read(position)),
                    bytes: bytes.into(),
                });
            }
            // As many as were looked at all fit, so there may be more that do.
            if limit(rows.len()) < MAX_PAGE_ENTRIES {
                return Ok(found);
            }
        }
    }

    pub(super) async fn read_value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        let (kind, name) = names::value(key);
        let params: &[Param<'_>] = &[&run.as_str(), &kind, &name];
        let rows = self.sessions.query("read a value", &self.sql.value, params);
        let rows = rows.await?;
        let value = rows
            .first()
            .map(|row| self.sessions.column::<Vec<u8>>(row, 0));
        Ok(value.transpose()?.map(Bytes::from))
    }

    pub(super) async fn read_due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        size: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        let (after, run) = after.map_or((-1, ""), |(at, run)| (stored(at.0), run.as_str()));
        let params: &[Param<'_>] = &[&(kind as i16), &stored(until.0), &limit(size), &after, &run];
        let rows = self.sessions.query("look up timers", &self.sql.due, params);
        let rows = rows.await?;
        let due = |row: &Row| {
            let at: i64 = self.sessions.column(row, 0)?;
            Ok((Timestamp(read(at)), self.sessions.id(row, 1)?))
        };
        rows.iter().map(due).collect()
    }

    pub(super) async fn read_inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        size: usize,
    ) -> Result<Vec<Message>> {
        let after = after.map_or(-1, |after| stored(after.0));
        let params: &[Param<'_>] = &[&run.as_str(), &after, &limit(size)];
        let rows = self
            .sessions
            .query("read an inbox", &self.sql.inbox, params);
        let rows = rows.await?;
        let message = |row: &Row| {
            let id: i64 = self.sessions.column(row, 0)?;
            let body: Vec<u8> = self.sessions.column(row, 1)?;
            let sent_at: i64 = self.sessions.column(row, 2)?;
            Ok(Message {
                id: MessageId(read(id)),
                sent_at: Timestamp(read(sent_at)),
                body: body.into(),
            })
        };
        rows.iter().map(message).collect()
    }

    pub(super) async fn read_unread(
        &self,
        after: Option<&RunId>,
        size: usize,
    ) -> Result<Vec<RunId>> {
        let after = after.map_or("", RunId::as_str);
        let params: &[Param<'_>] = &[&after, &limit(size)];
        let rows = self
            .sessions
            .query("look up inboxes", &self.sql.unread, params);
        let rows = rows.await?;
        rows.iter().map(|row| self.sessions.id(row, 0)).collect()
    }
}
