//! Pools of connections of which it is known which process of the server serves them: whoever waits long for an answer asks
//! what that does.

use std::ops::{Deref, DerefMut};

use deadpool::managed;
use deadpool_postgres::{ClientWrapper, Manager};
use tokio_postgres::{Error, SimpleQueryMessage};

pub(super) type Pool = managed::Pool<Backends>;
pub(super) type Object = managed::Object<Backends>;
pub(super) type Hook = managed::Hook<Backends>;

/// Makes connections.
pub(super) struct Backends(pub(super) Manager);

impl managed::Manager for Backends {
    type Type = Backend;
    type Error = Error;

    async fn create(&self) -> Result<Backend, Error> {
        let client = self.0.create().await?;
        Ok(Backend { client, pid: None })
    }

    async fn recycle(
        &self,
        backend: &mut Backend,
        metrics: &managed::Metrics,
    ) -> managed::RecycleResult<Error> {
        self.0.recycle(&mut backend.client, metrics).await
    }

    fn detach(&self, backend: &mut Backend) {
        self.0.detach(&mut backend.client);
    }
}

/// A connection.
pub(super) struct Backend {
    client: ClientWrapper,
    pid: Option<i32>,
}

impl Backend {
    /// The process of the server, once the session is set up.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub(super) async fn set_up(&mut self, sql: &str) -> Result<(), Error> {
        let sql = format!("{sql}; SELECT pg_backend_pid()");
        let answer = self.client.simple_query(&sql).await?;
        let last = answer.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        self.pid = last.and_then(|pid| pid.parse().ok());
        Ok(())
    }
}

impl Deref for Backend {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Backend {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}
