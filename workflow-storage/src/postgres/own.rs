//! Ownership: claims, leases and releases.

use std::time::Duration;

use tokio_postgres::Row;

use super::numbers::{node as number, read, stored};
use super::session::{Lane, Param};
use super::{Postgres, commit};
use crate::{Epoch, ListedRun, NodeId, Result, RunId, RunKind, RunRecord, Timestamp};

/// For how long a renewal of leases waits until pins are written.
const PINS_WITHIN: Duration = Duration::from_secs(2);

impl Postgres {
    pub(super) async fn claim_runs(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        self.sessions.check_open()?;
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        self.know(node);
        let ids: Vec<&str> = runs.iter().map(RunId::as_str).collect();
        let params: &[Param<'_>] = &[&ids, &number(node), &lease.as_secs_f64(), &self.address];
        // Claimed once more if the answer was lost, which is as good.
        let rows = self.sessions.query("claim runs", &self.sql.claim, params);
        let claimed = self.all_listed(&rows.await?)?;
        let record = |run: &RunId| {
            let listed = claimed.iter().find(|listed| listed.run == *run);
            listed.map(|listed| listed.record.clone())
        };
        if runs.len() < 16 {
            return Ok(runs.iter().map(record).collect());
        }
        let claimed: std::collections::HashMap<_, _> = claimed
            .into_iter()
            .map(|listed| (listed.run, listed.record))
            .collect();
        Ok(runs.iter().map(|run| claimed.get(run).cloned()).collect())
    }

    pub(super) async fn claim_some(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        self.know(node);
        let except: Vec<&str> = except.iter().map(RunId::as_str).collect();
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let unsettled = self.unsettled().pop();
        let writer = unsettled.unwrap_or_else(|| self.writers.take(commit::random_id));
        let (id, turn) = writer.params();
        let params: &[Param<'_>] = &[
            id,
            turn,
            &(kind as i16),
            &except,
            &number(node),
            &lease.as_secs_f64(),
            &self.address,
            &limit,
        ];
        let rows = self
            .sessions
            .query("claim runs", &self.sql.claim_free, params);
        let rows = match rows.await {
            Ok(rows) => rows,
            Err(error) => {
                // It may have been done; the next claim asks for it again.
                self.unsettled().push(writer);
                return Err(error);
            }
        };
        self.writers.give_back(writer);
        let mut claimed = self.all_listed(&rows)?;
        claimed.sort_by(|a, b| {
            let of = |listed: &ListedRun| (listed.record.created_at, listed.run.clone());
            of(a).cmp(&of(b))
        });
        Ok(claimed)
    }

    fn all_listed(&self, rows: &[Row]) -> Result<Vec<ListedRun>> {
        rows.iter().map(|row| self.sessions.listed(row)).collect()
    }

    pub(super) async fn renew_leases(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.know(node);
        let params: &[Param<'_>] = &[&number(node), &lease.as_secs_f64(), &self.address];
        let sessions = &self.sessions;
        let renewed =
            sessions.query_on(Lane::Lease(lease), "renew leases", &self.sql.renew, params);
        let (rows, _) = renewed.await?;
        let since = match rows.first() {
            Some(row) => Timestamp(read(sessions.column(row, 0)?)),
            None => return Err(sessions.refused("a renewal of leases had no answer".to_owned())),
        };
        // The leases are renewed whatever becomes of the pins, which last for a day and are said again with the next
        // renewal.
        match tokio::time::timeout(PINS_WITHIN, self.keep_pins(lease)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not pin blobs; trying again"),
            Err(_) => {
                // The next renewal is not to wait behind it.
                sessions.leave_lease_connection();
                tracing::warn!("could not pin blobs within {PINS_WITHIN:?}; trying again");
            }
        }
        Ok(since)
    }

    pub(super) async fn release_runs(
        &self,
        runs: &[(RunId, Epoch)],
        are_declined: bool,
    ) -> Result<()> {
        let ids: Vec<&str> = runs.iter().map(|(run, _)| run.as_str()).collect();
        let epochs: Vec<i64> = runs.iter().map(|(_, epoch)| stored(epoch.0)).collect();
        let params: &[Param<'_>] = &[&ids, &epochs, &are_declined];
        let released = self
            .sessions
            .query("release runs", &self.sql.release, params);
        released.await.map(drop)
    }
}
