//! A store that several engines share, with leases and notices, over one in memory: what PostgreSQL does, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepstep::storage::{
    Batch, BlobId, BlobReader, Committed, DeleteOutcome, Description, Epoch, JournalEntry,
    ListedRun, Maintained, Message, MessageId, NodeId, Notice, Position, ReadRun, Result,
    RunDelete, RunId, RunKind, RunPage, RunQuery, RunRecord, SendOutcome, Storage, StoredStatus,
    TaskQueue, Timestamp, ValueKey, WriteOutcome,
};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a flush takes.
const FLUSH: Duration = Duration::from_millis(5);

/// Leases over a store that only one process could open.
#[derive(Debug)]
pub(crate) struct Leases {
    memory: Arc<dyn Storage>,
    began: Instant,
    state: Mutex<State>,
    /// A claim or a commit looks first and writes then: one at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    until: BTreeMap<NodeId, Instant>,
    since: BTreeMap<NodeId, Timestamp>,
    /// Nodes that gave their leases up.
    ended: BTreeSet<NodeId>,
    /// Runs that were taken from nodes whose leases had ended.
    taken: BTreeMap<RunId, Taken>,
    engines: BTreeMap<NodeId, usize>,
    listeners: BTreeMap<usize, mpsc::UnboundedSender<Notice>>,
    watched: BTreeSet<RunId>,
    waits: BTreeMap<NodeId, Bytes>,
    /// Rows that somebody who began to wait for them has locked, until that is flushed.
    locked: BTreeMap<RunId, Instant>,
}

/// How a run was taken from one node after another.
#[derive(Debug, Clone, Copy)]
struct Taken {
    times: u32,
    last_at: Instant,
    /// How many steps had been done or had failed.
    with: u64,
}

impl Leases {
    pub(crate) fn new(memory: Arc<dyn Storage>) -> Self {
        Self {
            memory,
            began: Instant::now(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Where an engine hears of what others do.
    pub(crate) fn listen(&self, engine: usize) -> mpsc::UnboundedReceiver<Notice> {
        let (listener, notices) = mpsc::unbounded_channel();
        self.state().listeners.insert(engine, listener);
        notices
    }

    /// An engine was seen to own runs by this name.
    pub(crate) fn is_node(&self, node: NodeId, engine: usize) {
        self.state().engines.insert(node, engine);
    }

    /// Whether an engine has a lease.
    pub(crate) fn has_lease(&self, engine: usize) -> bool {
        let state = self.state();
        let mut nodes = state.engines.iter().filter(|(_, of)| **of == engine);
        nodes.any(|(node, _)| state.lasts(*node))
    }

    /// Whether a node's lease lasts.
    pub(crate) fn lasts(&self, node: NodeId) -> bool {
        self.state().lasts(node)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, mut record: RunRecord) -> RunRecord {
        record.owner = record.owner.filter(|owner| self.lasts(*owner));
        record
    }

    fn listed(&self, runs: Vec<ListedRun>) -> Vec<ListedRun> {
        let shown = |listed: ListedRun| ListedRun {
            record: self.shown(listed.record),
            ..listed
        };
        runs.into_iter().map(shown).collect()
    }

    /// Until when the runs are locked that nobody owns, if all of them are.
    async fn all_free_are_locked(
        &self,
        kind: RunKind,
        except: &[RunId],
    ) -> Result<Option<Instant>> {
        let query = RunQuery {
            kind,
            statuses: vec![StoredStatus::Pending, StoredStatus::Running],
            limit: 10_000,
            ..RunQuery::default()
        };
        let mut runs = self.memory.list(&query).await?.runs;
        runs.retain(|listed| listed.record.owner.is_none() && !except.contains(&listed.run));
        let state = self.state();
        let until = runs.iter().map(|listed| state.locked.get(&listed.run));
        let until = until.min().flatten().copied();
        Ok(until.filter(|until| *until > Instant::now()))
    }

    /// Whether somebody else has it.
    fn is_taken(&self, record: &RunRecord, node: NodeId) -> bool {
        let is_others = |owner: NodeId| owner != node && self.lasts(owner);
        record.status.is_active()
            && record.kind != RunKind::Schedule
            && record.owner.is_some_and(is_others)
    }
}

impl State {
    /// Whether a run whose owner's lease has ended is left alone: whoever executes it may always be lost by that.
    fn rests(&self, run: &RunId, with: u64, lease: Duration) -> bool {
        self.taken.get(run).is_some_and(|taken| {
            let n_leases = 2_u32.saturating_pow(taken.times.saturating_sub(2)).min(20);
            taken.times >= 3 && taken.with == with && taken.last_at.elapsed() < lease * n_leases
        })
    }

    /// A run is claimed from a node whose lease has ended.
    fn is_taken(&mut self, run: &RunId, with: u64) {
        let before = self.taken.get(run).filter(|taken| taken.with == with);
        let taken = Taken {
            times: before.map_or(1, |taken| taken.times + 1),
            last_at: Instant::now(),
            with,
        };
        self.taken.insert(run.clone(), taken);
    }

    fn is_locked(&self, run: &RunId) -> bool {
        let until = self.locked.get(run);
        until.is_some_and(|until| *until > Instant::now())
    }

    fn lasts(&self, node: NodeId) -> bool {
        self.until
            .get(&node)
            .is_some_and(|until| *until > Instant::now())
    }

    /// Tells the owner of a run, or everybody if nobody owns it.
    fn tell(&self, owner: Option<NodeId>, notice: &Notice) {
        let owner = owner.and_then(|owner| self.engines.get(&owner));
        for (engine, listener) in &self.listeners {
            if owner.is_none_or(|owner| owner == engine) {
                // It may be dead.
                drop(listener.send(notice.clone()));
            }
        }
    }
}

/// The deletes that are refused because these are of runs that others own: these, and their families.
fn refusals(
    deletes: &[RunDelete],
    owned: &BTreeSet<usize>,
) -> impl Iterator<Item = (usize, DeleteOutcome)> {
    let families: BTreeSet<&RunId> = owned
        .iter()
        .filter_map(|at| deletes[*at].family.as_ref())
        .collect();
    deletes.iter().enumerate().filter_map(move |(at, delete)| {
        if owned.contains(&at) {
            return Some((at, DeleteOutcome::Owned));
        }
        let family = delete.family.as_ref()?;
        families
            .contains(family)
            .then_some((at, DeleteOutcome::Skipped))
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Leases {
    fn describe(&self) -> Description {
        self.memory.describe()
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn commit(&self, mut batch: Batch) -> Result<Committed> {
        let _turn = self.turn.lock().await;
        let mut owned = BTreeSet::new();
        for (at, delete) in batch.deletes.iter().enumerate() {
            let record = self.memory.record(&delete.run).await?;
            if record.is_some_and(|record| self.is_taken(&record, delete.node)) {
                owned.insert(at);
            }
        }
        let owned: BTreeMap<usize, DeleteOutcome> = refusals(&batch.deletes, &owned).collect();
        let mut at = 0;
        batch.deletes.retain(|_| {
            at += 1;
            !owned.contains_key(&(at - 1))
        });
        let mut committed = self.memory.commit(batch.clone()).await?;
        for (message, outcome) in batch.messages.iter().zip(&committed.messages) {
            if matches!(outcome, SendOutcome::Accepted(_)) {
                let record = self.memory.record(&message.to).await?;
                let owner = record.and_then(|record| self.shown(record).owner);
                self.state().tell(owner, &Notice::Mail(message.to.clone()));
            }
        }
        let mut state = self.state();
        for (write, outcome) in batch.writes.iter().zip(&committed.writes) {
            if *outcome != WriteOutcome::Written {
                continue;
            }
            let record = &write.record;
            if !record.status.is_active() && state.watched.remove(&write.run) {
                state.tell(None, &Notice::Changed(write.run.clone()));
            }
            if record.status.is_active()
                && record.owner.is_none()
                && record.kind == RunKind::Workflow
            {
                state.tell(None, &Notice::Free);
            }
        }
        for (delete, outcome) in batch.deletes.iter().zip(&committed.deletes) {
            if *outcome == DeleteOutcome::Deleted && state.watched.remove(&delete.run) {
                state.tell(None, &Notice::Changed(delete.run.clone()));
            }
        }
        for (at, outcome) in owned {
            committed.deletes.insert(at, outcome);
        }
        Ok(committed)
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        Err(batch)
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        let record = self.memory.record(run).await?;
        Ok(record.map(|record| self.shown(record)))
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        let page = self.memory.list(query).await?;
        Ok(RunPage {
            runs: self.listed(page.runs),
            ..page
        })
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let listed = self
            .memory
            .list_by_id(kind, id_prefix, after, limit)
            .await?;
        Ok(self.listed(listed))
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        self.memory.unread(after, limit).await
    }

    async fn journal(&self, run: &RunId, from: Position, max: usize) -> Result<Vec<JournalEntry>> {
        self.memory.journal(run, from, max).await
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        self.memory.value(run, key).await
    }

    async fn read_runs(&self, runs: &[RunId], max: usize) -> Result<Vec<Option<ReadRun>>> {
        let mut read = self.memory.read_runs(runs, max).await?;
        for run in read.iter_mut().flatten() {
            run.record = self.shown(run.record.clone());
        }
        Ok(read)
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        self.memory.due(kind, after, until, limit).await
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.memory.inbox(run, after, limit).await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        let _turn = self.turn.lock().await;
        self.renew(node, lease).await?;
        let mut claimed = Vec::with_capacity(runs.len());
        for run in runs {
            let before = self.memory.record(run).await?;
            if before.is_some_and(|record| self.is_taken(&record, node)) {
                claimed.push(None);
                continue;
            }
            let one = std::slice::from_ref(run);
            claimed.extend(self.memory.claim(one, node, lease).await?);
        }
        Ok(claimed)
    }

    async fn claim_free(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let _turn = loop {
            let turn = self.turn.lock().await;
            let Some(until) = self.all_free_are_locked(kind, except).await? else {
                break turn;
            };
            // Others that are free are claimed without those that are locked for a moment. Where there are none, it waits for these.
            drop(turn);
            tokio::time::sleep_until(until).await;
        };
        let (mut released, mut lost) = (Vec::new(), Vec::new());
        for status in [StoredStatus::Pending, StoredStatus::Running] {
            let query = RunQuery {
                kind,
                statuses: vec![status],
                limit: 10_000,
                ..RunQuery::default()
            };
            let runs = self.memory.list(&query).await?.runs;
            let state = self.state();
            for listed in runs {
                if except.contains(&listed.run) || state.is_locked(&listed.run) {
                    continue;
                }
                let with = steps_of(&listed.record);
                let executes = status == StoredStatus::Running;
                match listed.record.owner {
                    None => released.push(listed),
                    Some(owner) if owner == node || state.lasts(owner) => {}
                    Some(owner) if state.ended.contains(&owner) => released.push(listed),
                    Some(_) if executes && state.rests(&listed.run, with, lease) => {}
                    Some(_) => lost.push(listed),
                }
            }
        }
        for free in [&mut released, &mut lost] {
            free.sort_by_key(|listed| (listed.record.created_at, listed.run.clone()));
        }
        released.truncate(limit);
        lost.truncate(limit - released.len());
        if released.is_empty() && lost.is_empty() {
            return Ok(Vec::new());
        }
        self.renew(node, lease).await?;
        let executed = |listed: &&ListedRun| listed.record.status == StoredStatus::Running;
        for listed in lost.iter().filter(executed) {
            let with = steps_of(&listed.record);
            self.state().is_taken(&listed.run, with);
        }
        released.append(&mut lost);
        let runs: Vec<RunId> = released.into_iter().map(|listed| listed.run).collect();
        let claimed = self.memory.claim(&runs, node, lease).await?;
        let listed = |(run, record): (RunId, Option<RunRecord>)| {
            record.map(|record| ListedRun { run, record })
        };
        Ok(runs.into_iter().zip(claimed).filter_map(listed).collect())
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        let now = Instant::now();
        let micros = now.duration_since(self.began).as_micros() as u64;
        let mut state = self.state();
        let lasted = state.lasts(node);
        if lease.is_zero() {
            state.until.insert(node, now);
            state.ended.insert(node);
            state.tell(None, &Notice::Free);
        } else {
            let until = state.until.entry(node).or_insert(now);
            *until = (*until).max(now + lease);
            state.ended.remove(&node);
        }
        let since = state.since.entry(node).or_insert(Timestamp(micros));
        if !lasted {
            *since = Timestamp(micros);
        }
        Ok(*since)
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.memory.release(runs).await?;
        self.state().tell(None, &Notice::Free);
        Ok(())
    }

    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.release(runs).await?;
        for (run, _) in runs {
            self.state().tell(None, &Notice::Declined(run.clone()));
        }
        Ok(())
    }

    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        let until = Instant::now() + FLUSH;
        {
            let mut state = self.state();
            state.watched.extend(runs.iter().cloned());
            let locked = runs.iter().map(|run| (run.clone(), until));
            state.locked.extend(locked);
        }
        tokio::time::sleep_until(until).await;
        let mut records = Vec::with_capacity(runs.len());
        for run in runs {
            records.push(self.record(run).await?);
        }
        Ok(records)
    }

    async fn want(&self, run: &RunId) -> Result<()> {
        let record = self.memory.record(run).await?;
        if let Some(owner) = record.and_then(|record| record.owner) {
            self.state().tell(Some(owner), &Notice::Wanted(run.clone()));
        }
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<NodeId>> {
        let state = self.state();
        let workers = state.until.keys().filter(|node| state.lasts(**node));
        Ok(workers.copied().collect())
    }

    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        let mut state = self.state();
        match waits.is_empty() {
            true => drop(state.waits.remove(&node)),
            false => drop(state.waits.insert(node, waits)),
        }
        Ok(())
    }

    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        let state = self.state();
        let said = state.waits.iter().filter(|(node, _)| state.lasts(**node));
        Ok(said.map(|(node, waits)| (*node, waits.clone())).collect())
    }

    async fn notices(&self) -> Vec<Notice> {
        // Each engine listens by itself.
        std::future::pending().await
    }

    async fn notified(&self) {
        self.memory.notified().await;
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        self.memory.put_blob(bytes).await
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        self.memory.put_blob_from(reader).await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        self.memory.blob(id).await
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        self.memory.blob_reader(id).await
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        self.memory.blob_len(id).await
    }

    fn maps_blobs(&self) -> bool {
        self.memory.maps_blobs()
    }

    fn tasks(&self) -> Option<&dyn TaskQueue> {
        self.memory.tasks()
    }

    fn pin_blob(&self, id: &BlobId) {
        self.memory.pin_blob(id);
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.memory.unpin_blob(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.memory.maintain().await
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// How many steps of a run have come to something.
fn steps_of(record: &RunRecord) -> u64 {
    record.steps.done + record.steps.failed
}
