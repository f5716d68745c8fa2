//! Connections, and trying again what the loss of one made fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::QueueMode;
use deadpool_postgres::{HookError, Manager, ManagerConfig, RecyclingMethod, Runtime};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::backend::{Backend, Backends, Hook, Object, Pool};
use super::error::Failure;
use super::hosts::Hosts;
use super::url::Settings;
use super::{schema, tls};
use crate::{Result, StorageError};

/// For how long a server may be silent before its connection counts as lost. One that was made earlier may have been cut
/// off since: after [`Settings::silence`] the server is asked, over another, whether it works on the statement.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// An answer that was given while the server was asked is there within this time.
const AT_HAND: Duration = Duration::from_millis(250);
/// For how long it is tried to cancel a statement that nobody waits for any more.
const CANCEL_WITHIN: Duration = Duration::from_secs(5);
const LEAST_SILENCE: Duration = Duration::from_secs(1);
/// The pauses before further attempts: they double.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What every session is set to. The statements are few and each is served by an index, so their plans are made once; and what
/// was committed must be on disk, whatever is usual for the database.
const SET_UP: &str = "
    SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET jit = off;
    SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
    SELECT set_config('client_connection_check_interval', '5s', false)
        WHERE current_setting('server_version_num')::int >= 140000 AND version() LIKE '%linux%'";

pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// The way to the server.
pub(super) struct Sessions {
    pub(super) settings: Settings,
    pub(super) hosts: Hosts,
    pool: Pool,
    /// A connection apart: leases are renewed however many wait for the others. It is used in the runtime of the
    /// thread that renews them, and in no other: a connection lives in the runtime that opened it, and stands still
    /// with that.
    lease_pool: Pool,
    /// Pins, too, are written however many wait for the others.
    pin_pool: Pool,
    stale: Arc<Stale>,
    /// Held by who asks what a statement does: many that take long at once do not ask over as many connections.
    asking: tokio::sync::Mutex<()>,
    is_closed: AtomicBool,
}

/// Which connections lead to a server that others took the place of.
#[derive(Debug)]
struct Stale {
    opened_at: std::time::Instant,
    /// Those that were made within so many microseconds of then.
    micros: AtomicU64,
}

impl Stale {
    fn micros(&self, at: std::time::Instant) -> u64 {
        let since = at.saturating_duration_since(self.opened_at);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn is_stale(&self, made_at: std::time::Instant) -> bool {
        self.micros(made_at) < self.micros.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// Which connections a call takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Those that most calls share.
    Work,
    /// The one that renews leases, which last for so long.
    Lease(Duration),
    /// The one that writes pins.
    Pins,
}

/// Which calls of another attempt may have been done by an earlier one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempts {
    /// An earlier attempt may have been done.
    pub(super) is_unsure: bool,
}

impl Sessions {
    pub(super) fn new(settings: Settings) -> Result<Self> {
        let hosts = Hosts::new(&settings, tls::connector(&settings)?);
        let stale = Arc::new(Stale {
            opened_at: std::time::Instant::now(),
            micros: AtomicU64::new(0),
        });
        Ok(Self {
            pool: pool(&settings, &hosts, &stale, settings.connections)?,
            lease_pool: pool(&settings, &hosts, &stale, 1)?,
            pin_pool: pool(&settings, &hosts, &stale, 1)?,
            stale,
            asking: tokio::sync::Mutex::new(()),
            settings,
            hosts,
            is_closed: AtomicBool::new(false),
        })
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(StorageError::Closed {
                location: self.settings.location.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.pool.close();
        self.lease_pool.close();
        self.pin_pool.close();
    }

    fn pools(&self) -> [&Pool; 3] {
        [&self.pool, &self.lease_pool, &self.pin_pool]
    }

    /// Has the next renewal of leases made over another connection: this one is busy with what nobody waits for any more.
    pub(super) fn leave_lease_connection(&self) {
        drop(self.lease_pool.retain(|_, _| false));
    }

    /// Has no connection used again that was made before this time: they lead to a server that only reads. What is
    /// stored there may be old, too. The next ones look for the server that writes.
    pub(super) fn leave_server(&self, made_before: std::time::Instant) {
        let made_before = self.stale.micros(made_before);
        if self.stale.micros.fetch_max(made_before, Ordering::AcqRel) < made_before {
            let location = &self.settings.location;
            tracing::warn!(
                location,
                "the server takes no more writes; looking for one that does"
            );
        }
        for pool in self.pools() {
            drop(pool.retain(|_, metrics| !self.stale.is_stale(metrics.created)));
        }
    }

    /// Rows of a statement that may be run again if nobody knows whether it was.
    pub(super) async fn query(
        &self,
        operation: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>> {
        let (rows, _) = self.query_unsure(operation, sql, params).await?;
        Ok(rows)
    }

    /// As [`query`](Self::query), and whether an earlier attempt may have been done.
    pub(super) async fn query_unsure(
        &self,
        operation: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<(Vec<Row>, Attempts)> {
        self.query_on(Lane::Work, operation, sql, params).await
    }

    /// As [`query_unsure`](Self::query_unsure), over a connection of a lane.
    pub(super) async fn query_on(
        &self,
        lane: Lane,
        operation: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<(Vec<Row>, Attempts)> {
        let pool = match lane {
            Lane::Work => &self.pool,
            Lane::Lease(_) => &self.lease_pool,
            Lane::Pins => &self.pin_pool,
        };
        let gives_up_at = Instant::now() + self.settings.patience;
        let silence = match lane {
            // In time for another attempt, if leases last for some seconds.
            Lane::Lease(lease) => self.settings.silence().min(lease / 4).max(LEAST_SILENCE),
            Lane::Work | Lane::Pins => self.settings.silence(),
        };
        let mut pause = FIRST_PAUSE;
        let mut attempts = Attempts::default();
        loop {
            self.check_open()?;
            let mut session = Session::default();
            let begun = std::time::Instant::now();
            let attempt = session.attempt(self, lane, pool, silence, sql, params);
            let failure = match attempt.await {
                Ok(rows) => return Ok((rows, attempts)),
                Err(failure) => failure,
            };
            self.check_open()?;
            attempts.is_unsure |= failure.is_unknown();
            if failure.is_of_a_reader() {
                self.leave_server(begun);
            }
            if failure.is_silence() {
                // What cut one connection off has done so to others.
                drop(pool.retain(|_, _| false));
            }
            // A connection that was there before says nothing about the server: it is asked once more at least.
            let is_over = Instant::now() + pause >= gives_up_at;
            if !failure.passes() || is_over && !(failure.is_silence() && session.is_used) {
                return Err(self.error(operation, failure));
            }
            tracing::debug!(operation, error = %failure, "trying again");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether a server works on the statement of a process of its own, asked over a new connection.
    async fn works(&self, lane: Lane, pid: Option<i32>, answer_within: Duration) -> bool {
        let Some(pid) = pid else { return false };
        let asking = async {
            let _turn = match lane {
                // Those who have it may be in a runtime that stands still.
                Lane::Lease(_) => None,
                Lane::Work | Lane::Pins => Some(self.asking.lock().await),
            };
            let (client, connection) = match self.hosts.connect().await {
                Ok(connected) => connected,
                // It is there, and one connection more would make that worse.
                Err(error) => return error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS),
            };
            let sql =
                format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
            let answer = tokio::select! {
                answer = client.simple_query(&sql) => answer,
                _ = connection => return false,
            };
            answer.is_ok_and(|answer| {
                let is_row =
                    |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(_));
                answer.iter().any(is_row)
            })
        };
        timeout(answer_within, asking).await.unwrap_or(false)
    }

    /// Drops a connection whose answer nobody waits for any more, and has the server leave off.
    fn abandon(&self, session: Object) {
        let cancel = session.cancel_token();
        drop(Object::take(session));
        let tls = self.hosts.tls();
        tokio::spawn(async move {
            drop(timeout(CANCEL_WITHIN, cancel.cancel_query(tls)).await);
        });
    }

    /// Makes the schema, or brings it up to date. A server that is just starting is waited for; one that is not there is not.
    pub(super) async fn install(&self) -> Result<schema::Found> {
        let gives_up_at = Instant::now() + self.settings.patience;
        loop {
            let attempt = async {
                let mut session = self.pool.get().await?;
                let installed = schema::install(&mut session, &self.settings.schema);
                match timeout(ANSWER_WITHIN, installed).await {
                    Ok(installed) => Ok(installed?),
                    Err(_) => {
                        self.abandon(session);
                        Err(Failure::NoAnswer(ANSWER_WITHIN))
                    }
                }
            };
            let failure: Failure = match attempt.await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            if !failure.passes_soon() || Instant::now() + LONGEST_PAUSE >= gives_up_at {
                return Err(self.error("open the store", failure));
            }
            sleep(LONGEST_PAUSE / 4).await;
        }
    }

    /// Where the store's blobs are, which the first says that opens it.
    pub(super) async fn agree_on_blobs(&self, sql: &str, blobs_in: &str) -> Result<String> {
        loop {
            let rows = self.query("open the store", sql, &[&blobs_in]).await?;
            // There is none for whoever waited for the first.
            if let Some(row) = rows.first() {
                return self.column(row, 0);
            }
        }
    }

    pub(super) fn error(&self, operation: &'static str, failure: Failure) -> StorageError {
        failure.into_error(&self.settings.location, operation)
    }

    pub(super) fn corrupt(&self, what: impl Into<String>) -> StorageError {
        StorageError::Corrupt {
            location: self.settings.location.clone(),
            what: what.into(),
        }
    }

    pub(super) fn refused(&self, what: String) -> StorageError {
        StorageError::Backend {
            backend: super::error::BACKEND,
            operation: "commit",
            source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(what)),
        }
    }
}

/// The connection of an attempt.
#[derive(Default)]
struct Session {
    /// It was there before.
    is_used: bool,
}

impl Session {
    async fn attempt(
        &mut self,
        sessions: &Sessions,
        lane: Lane,
        pool: &Pool,
        silence: Duration,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let session = pool.get().await?;
        self.is_used = Object::metrics(&session).recycle_count > 0;
        let failure = {
            let answer = async {
                let statement = session.prepare_cached(sql).await?;
                session.query(&statement, params).await
            };
            let mut answer = std::pin::pin!(answer);
            let asks_after = if self.is_used { silence } else { ANSWER_WITHIN };
            match timeout(asks_after, &mut answer).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) => Failure::from(error),
                Err(_) if !self.is_used => Failure::NoAnswer(ANSWER_WITHIN),
                Err(_) => {
                    let works = || sessions.works(lane, session.pid(), silence);
                    match wait_on(answer, works, silence).await {
                        Ok(Some(rows)) => return Ok(rows),
                        Ok(None) => Failure::NoAnswer(silence),
                        Err(error) => Failure::from(error),
                    }
                }
            }
        };
        if failure.is_silence() {
            // It still waits for its answer: nobody else can use it.
            sessions.abandon(session);
        } else if failure.is_of_a_reader() {
            // It leads to the wrong server.
            drop(Object::take(session));
        }
        Err(failure)
    }
}

/// Waits for an answer as long as the server works on it. What takes long is not lost: asked for once more, it would be worked
/// on twice.
async fn wait_on<W: Future<Output = bool>>(
    mut answer: std::pin::Pin<&mut impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>>,
    works: impl Fn() -> W,
    silence: Duration,
) -> Result<Option<Vec<Row>>, tokio_postgres::Error> {
    let gives_up_at = Instant::now() + ANSWER_WITHIN;
    loop {
        let works = tokio::select! {
            biased;
            answer = &mut answer => return answer.map(Some),
            works = works() => works,
        };
        let more = match works {
            true => silence,
            false => AT_HAND,
        };
        if let Ok(answer) = timeout(more, &mut answer).await {
            return answer.map(Some);
        }
        if !works || Instant::now() >= gives_up_at {
            return Ok(None);
        }
    }
}

/// At most so many connections, each opened when it is needed first.
fn pool(
    settings: &Settings,
    hosts: &Hosts,
    stale: &Arc<Stale>,
    connections: usize,
) -> Result<Pool> {
    let manager = Manager::from_connect(
        settings.config.clone(),
        hosts.clone(),
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    let connect_within = settings.connect_within();
    let set_up = Hook::async_fn(move |backend: &mut Backend, _| {
        Box::pin(async move {
            match timeout(connect_within, backend.set_up(SET_UP)).await {
                Ok(set_up) => set_up.map_err(HookError::Backend),
                Err(_) => Err(HookError::message("the server does not answer")),
            }
        })
    });
    let stale = Arc::clone(stale);
    let is_good = Hook::sync_fn(
        move |_: &mut Backend, metrics: &deadpool::managed::Metrics| match stale
            .is_stale(metrics.created)
        {
            true => Err(HookError::message("it leads to a server that only reads")),
            false => Ok(()),
        },
    );
    Pool::builder(Backends(manager))
        .max_size(connections)
        // The one used last: its process is warm, and a chain of commits stays on it.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(connect_within))
        .post_create(set_up)
        .pre_recycle(is_good)
        .build()
        .map_err(|error| super::url::wrong(error.to_string()))
}
