//! Connections, and trying again what the loss of one made fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::QueueMode;
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::Failure;
use super::url::Settings;
use super::{schema, tls};
use crate::{Result, StorageError};

/// For how long a server may be silent before the connection counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
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
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// The way to the server.
pub(super) struct Sessions {
    pub(super) settings: Settings,
    pub(super) tls: MakeRustlsConnect,
    pool: Pool,
    /// A connection apart: leases are renewed however many wait for the others. It is used in the runtime of the thread that
    /// renews them, and in no other: a connection lives in the runtime that opened it, and stands still with that.
    lease_pool: Pool,
    /// Pins, too, are written however many wait for the others.
    pin_pool: Pool,
    is_closed: AtomicBool,
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
    /// The one that renews leases.
    Lease,
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
        let tls = tls::connector(&settings)?;
        Ok(Self {
            pool: pool(&settings, &tls, settings.connections)?,
            lease_pool: pool(&settings, &tls, 1)?,
            pin_pool: pool(&settings, &tls, 1)?,
            settings,
            tls,
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
            Lane::Lease => &self.lease_pool,
            Lane::Pins => &self.pin_pool,
        };
        let gives_up_at = Instant::now() + self.settings.patience;
        let mut pause = FIRST_PAUSE;
        let mut attempts = Attempts::default();
        loop {
            self.check_open()?;
            let failure = match attempt(pool, sql, params).await {
                Ok(rows) => return Ok((rows, attempts)),
                Err(failure) => failure,
            };
            self.check_open()?;
            attempts.is_unsure |= failure.is_unknown();
            if !failure.passes() || Instant::now() + pause >= gives_up_at {
                return Err(self.error(operation, failure));
            }
            tracing::debug!(operation, error = %failure, "trying again");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes the schema, or brings it up to date. A server that is just starting is waited for; one that is not there is not.
    pub(super) async fn install(&self) -> Result<schema::Found> {
        let gives_up_at = Instant::now() + self.settings.patience;
        loop {
            let attempt = async {
                let mut session = self.pool.get().await?;
                Ok(schema::install(&mut session, &self.settings.schema).await?)
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

async fn attempt(pool: &Pool, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
    let session = pool.get().await?;
    let answer = async {
        let statement = session.prepare_cached(sql).await?;
        session.query(&statement, params).await
    };
    match timeout(ANSWER_WITHIN, answer).await {
        Ok(rows) => Ok(rows?),
        Err(_) => {
            // It still waits for its answer: nobody else can use it.
            drop(Object::take(session));
            Err(Failure::NoAnswer(ANSWER_WITHIN))
        }
    }
}

/// At most so many connections, each opened when it is needed first.
fn pool(settings: &Settings, tls: &MakeRustlsConnect, connections: usize) -> Result<Pool> {
    let manager = Manager::from_config(
        settings.config.clone(),
        tls.clone(),
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    let set_up = Hook::async_fn(|client: &mut deadpool_postgres::ClientWrapper, _| {
        Box::pin(async move {
            client
                .batch_execute(SET_UP)
                .await
                .map_err(HookError::Backend)
        })
    });
    Pool::builder(manager)
        .max_size(connections)
        // The one used last: its process is warm, and a chain of commits stays on it.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(ANSWER_WITHIN))
        .post_create(set_up)
        .build()
        .map_err(|error| super::url::wrong(error.to_string()))
}
