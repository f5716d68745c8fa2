//! [`Storage`] on a PostgreSQL server, which several processes may share.
//!
//! A batch is one call of a function in the database, which checks, writes and answers in one transaction. Leases belong to
//! nodes, so that one row is renewed however many runs a node owns. `schema.sql` has the tables, the functions, and what a
//! person may look at.

mod append;
mod backend;
mod blobs;
#[cfg_attr(not(feature = "object_store"), path = "no_bucket.rs")]
mod bucket;
mod commit;
mod error;
mod hosts;
mod listen;
mod names;
mod numbers;
mod own;
mod passfile;
mod pins;
mod read;
mod schema;
mod session;
mod statements;
mod tasks;
mod tls;
mod url;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use self::bucket::Bucket;
use self::commit::{Writer, Writers};
use self::listen::{Heard, Listener};
use self::pins::Pins;
use self::session::{Lane, Param, Sessions};
use self::statements::Statements;
use self::url::Surroundings;
use crate::{
    Batch, BlobId, BlobReader, Blobs, Committed, Description, Durability, Epoch, JournalEntry,
    ListedRun, Maintained, Message, MessageId, NodeId, Notice, Position, ReadRun, Result, RunId,
    RunKind, RunPage, RunQuery, RunRecord, Storage, StorageError, TaskQueue, Timestamp, ValueKey,
};

/// How long the end of a store waits to say that it has nothing pinned.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);

/// A store in a schema of a database.
#[derive(Debug)]
pub(crate) struct Postgres {
    sessions: Arc<Sessions>,
    sql: Statements,
    /// Whether the server syncs.
    durability: Durability,
    writers: Writers,
    pins: Arc<Pins>,
    /// Where blobs are, if they are not in the database.
    bucket: Option<Bucket>,
    /// Writers of claims of which nobody knows whether they were done.
    unsettled: Mutex<Vec<Writer>>,
    /// The ids under which this process owns runs.
    nodes: Arc<Mutex<Vec<i64>>>,
    /// What this process is called in the table of nodes.
    address: String,
    /// Whether somebody removes what deleted runs had.
    collects: Arc<AtomicBool>,
    /// A message was committed here.
    arrived: Notify,
    heard: Arc<Heard>,
    listener: Mutex<Option<Listener>>,
    listens: OnceLock<()>,
}

/// Opens the store that a URL names, and makes it if there is none.
pub(crate) async fn open(url: &str, blobs: Option<Blobs>) -> Result<Postgres> {
    let bucket = match blobs.map(Bucket::of) {
        Some(None) => {
            return Err(url::wrong(
                "several processes share a store in PostgreSQL: its blobs are in the database or in a bucket, not in one's memory or \
                 directory",
            ));
        }
        Some(bucket) => bucket,
        None => None,
    };
    let settings = url::parse(url, &Surroundings::of_process())?;
    let sql = Statements::new(&settings.schema);
    let location = settings.location.clone();
    let sessions = Sessions::new(settings)?;
    let found = sessions.install().await?;
    if !found.is_readable() {
        return Err(url::wrong(format!(
            "the database at {location} has the encoding {}; make one with UTF8",
            found.encoding
        )));
    }
    if found.format != schema::FORMAT {
        return Err(StorageError::UnknownFormat {
            location,
            found: found.format.to_string(),
            supported: schema::FORMAT.to_string(),
        });
    }
    let blobs_in = bucket
        .as_ref()
        .map_or("the database".to_owned(), Bucket::describe);
    let agreed = sessions
        .agree_on_blobs(&sql.agree_on_blobs, &blobs_in)
        .await?;
    if agreed != blobs_in {
        return Err(url::wrong(format!(
            "the store at {location} has its blobs in {agreed}, and is to be opened with them in {blobs_in}; all who open it \
             must name the same place"
        )));
    }
    Ok(Postgres {
        sessions: Arc::new(sessions),
        sql,
        bucket,
        durability: if found.syncs {
            Durability::PowerLoss
        } else {
            Durability::Crash
        },
        writers: Writers::default(),
        pins: Arc::new(Pins::new(commit::random_id())),
        unsettled: Mutex::default(),
        nodes: Arc::default(),
        address: address(),
        collects: Arc::default(),
        arrived: Notify::new(),
        heard: Arc::default(),
        listener: Mutex::default(),
        listens: OnceLock::new(),
    })
}

/// Where this process is, for people.
fn address() -> String {
    let host = std::env::var("HOSTNAME").ok();
    let host = host.or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.as_deref().map_or("?", str::trim).replace('\0', "");
    format!("{host} process {}", std::process::id())
}

impl Postgres {
    fn nodes(&self) -> Vec<i64> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.clone()
    }

    /// Notes that this process owns runs as `node`.
    fn know(&self, node: NodeId) {
        let node = numbers::node(node);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }

    fn unsettled(&self) -> std::sync::MutexGuard<'_, Vec<Writer>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn listener(&self) -> std::sync::MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Postgres {
    fn describe(&self) -> Description {
        Description {
            backend: "postgres",
            location: self.sessions.settings.location.clone(),
            durability: self.durability,
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn commit(&self, batch: Batch) -> Result<Committed> {
        self.commit_batch(&batch).await
    }

    fn commit_blocking(&self, batch: Batch) -> std::result::Result<Result<Committed>, Batch> {
        Err(batch)
    }

    async fn record(&self, run: &RunId) -> Result<Option<RunRecord>> {
        self.read_record(run).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage> {
        self.read_page(query).await
    }

    async fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        self.read_by_id(kind, id_prefix, after, limit).await
    }

    async fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        self.read_journal(run, from, max_bytes).await
    }

    async fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        self.read_value(run, key).await
    }

    async fn read_runs(&self, runs: &[RunId], max_bytes: usize) -> Result<Vec<Option<ReadRun>>> {
        self.read_whole_runs(runs, max_bytes).await
    }

    async fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        self.read_due(kind, after, until, limit).await
    }

    async fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.read_inbox(run, after, limit).await
    }

    async fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        self.read_unread(after, limit).await
    }

    async fn claim(
        &self,
        runs: &[RunId],
        node: NodeId,
        lease: Duration,
    ) -> Result<Vec<Option<RunRecord>>> {
        self.claim_runs(runs, node, lease).await
    }

    async fn claim_free(
        &self,
        kind: RunKind,
        except: &[RunId],
        node: NodeId,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        self.claim_some(kind, except, node, lease, limit).await
    }

    async fn renew(&self, node: NodeId, lease: Duration) -> Result<Timestamp> {
        self.renew_leases(node, lease).await
    }

    async fn release(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.release_runs(runs, false).await
    }

    async fn decline(&self, runs: &[(RunId, Epoch)]) -> Result<()> {
        self.release_runs(runs, true).await
    }

    async fn notified(&self) {
        self.arrived.notified().await;
    }

    async fn watch(&self, runs: &[RunId]) -> Result<Vec<Option<RunRecord>>> {
        let ids: Vec<&str> = runs.iter().map(RunId::as_str).collect();
        let params: &[Param<'_>] = &[&ids];
        let watched = self.sessions.query("watch runs", &self.sql.watch, params);
        watched.await?;
        self.read_records(&ids).await
    }

    async fn want(&self, run: &RunId) -> Result<()> {
        let params: &[Param<'_>] = &[&run.as_str()];
        let wanted = self.sessions.query("ask for a run", &self.sql.want, params);
        wanted.await.map(drop)
    }

    async fn workers(&self) -> Result<Vec<NodeId>> {
        let rows = self
            .sessions
            .query("look for workers", &self.sql.workers, &[]);
        let rows = rows.await?;
        let node = |row: &tokio_postgres::Row| {
            let id: i64 = self.sessions.column(row, 0)?;
            Ok(NodeId(id.cast_unsigned()))
        };
        rows.iter().map(node).collect()
    }

    async fn say_waits(&self, node: NodeId, waits: Bytes) -> Result<()> {
        let (node, waits) = (numbers::node(node), waits.as_ref());
        let what = "say what waits here";
        let said = if waits.is_empty() {
            let params: &[Param<'_>] = &[&node];
            self.sessions
                .query(what, &self.sql.forget_waits, params)
                .await
        } else {
            let params: &[Param<'_>] = &[&node, &waits];
            self.sessions.query(what, &self.sql.say_waits, params).await
        };
        said.map(drop)
    }

    async fn waits(&self) -> Result<Vec<(NodeId, Bytes)>> {
        let rows = self
            .sessions
            .query("look what waits elsewhere", &self.sql.waits, &[]);
        let rows = rows.await?;
        let said = |row: &tokio_postgres::Row| {
            let (id, waits): (i64, Vec<u8>) =
                (self.sessions.column(row, 0)?, self.sessions.column(row, 1)?);
            Ok((NodeId(id.cast_unsigned()), waits.into()))
        };
        rows.iter().map(said).collect()
    }

    async fn notices(&self) -> Vec<Notice> {
        self.listens.get_or_init(|| {
            let nodes = Arc::clone(&self.nodes);
            let nodes = move || nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let listener =
                Listener::start(Arc::clone(&self.sessions), Arc::clone(&self.heard), nodes);
            *self.listener() = Some(listener);
        });
        self.heard.take().await
    }

    fn tasks(&self) -> Option<&dyn TaskQueue> {
        Some(self)
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId> {
        self.put_bytes(bytes).await
    }

    async fn put_blob_from(
        &self,
        reader: &mut (dyn AsyncRead + std::marker::Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        self.put_stream(reader).await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes> {
        self.read_blob(id).await
    }

    async fn blob_reader(&self, id: &BlobId) -> Result<BlobReader> {
        self.stream_blob(id).await
    }

    async fn blob_len(&self, id: &BlobId) -> Result<Option<u64>> {
        self.blob_size(id).await
    }

    fn maps_blobs(&self) -> bool {
        false
    }

    fn pin_blob(&self, id: &BlobId) {
        if self.pins.pin(id)
            && let Ok(runtime) = Handle::try_current()
        {
            let (pins, sessions) = (Arc::clone(&self.pins), Arc::clone(&self.sessions));
            let sql = self.sql.pin.clone();
            // If it fails, it is tried again with the next renewal of a lease.
            runtime.spawn(async move { drop(pins.write(&sessions, Lane::Pins, &sql).await) });
        }
    }

    fn unpin_blob(&self, id: &BlobId) {
        self.pins.unpin(id);
    }

    async fn maintain(&self) -> Result<Maintained> {
        self.sweep().await
    }

    async fn close(&self) -> Result<()> {
        // What cannot be said in time is forgotten in a day, as that of a process that crashed.
        let let_go = self.pins.let_go(&self.sessions, &self.sql.pin);
        drop(tokio::time::timeout(LET_GO_WITHIN, let_go).await);
        self.sessions.close();
        drop(self.listener().take());
        Ok(())
    }
}
