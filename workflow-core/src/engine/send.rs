//! Sending events to runs.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use keepstep_storage::{RunId, Send, SendOutcome};
use serde::Serialize;

use super::Engine;
use crate::error::{Error, Result};
use crate::executor::Mail;
use crate::value::{Codec, Value};

impl Engine {
    /// Sends an event to a run, which waits for it with [`event`](crate::event), or will. Await it: the message is durable when that
    /// returns.
    ///
    /// The value is not looked at until the run uses it. If it is of another type than the run expects, the run is suspended with
    /// an error that names the step and the parameter; the message is not lost, and a program that can read it goes on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AlreadyEnded`], [`Error::Unencodable`], [`Error::InvalidRunId`], [`Error::ObjectNotFound`],
    /// [`Error::SpawnFailed`], [`Error::ShutDown`], [`Error::Storage`]. Nothing is stored then.
    ///
    /// ```
    /// # use keepstep_core::{Engine, event};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// # let engine = Engine::open("memory:").await?;
    /// let run = engine.start("order", event::<u32>("paid")).await?;
    /// // Of two messages of one name with one id, the second is dropped: whoever is not sure that it was sent sends it again.
    /// engine.send_event("order", "paid", &100).id("payment-7").await?;
    /// engine.send_event("order", "paid", &100).id("payment-7").await?;
    /// assert_eq!(run.await?, 100);
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn send_event<T: Serialize + ?Sized>(
        &self,
        id: impl AsRef<str>,
        name: impl AsRef<str>,
        value: &T,
    ) -> SendEvent {
        let name = name.as_ref();
        let value = Value::encode(value, Codec::MessagePack);
        let value = value.map_err(|error| unencodable(name, error.to_string()));
        let to = RunId::new(id).map_err(Error::from);
        SendEvent {
            engine: self.clone(),
            event: to.and_then(|to| {
                Ok(Event {
                    to,
                    name: name.into(),
                    key: None,
                    value: value?,
                })
            }),
        }
    }
}

fn unencodable(name: &str, message: String) -> Error {
    Error::Unencodable {
        step: format!("event {name}"),
        param: "value".to_owned(),
        message,
    }
}

struct Event {
    to: RunId,
    name: Arc<str>,
    key: Option<String>,
    value: Value,
}

/// An event on its way: see [`Engine::send_event`].
#[must_use = "an event is sent when it is awaited"]
pub struct SendEvent {
    engine: Engine,
    event: Result<Event>,
}

impl SendEvent {
    /// Gives the message an id: a second one of this name and this id to this run is dropped, also after the first was used. Events
    /// of different names have ids of their own.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        if let Ok(event) = &mut self.event {
            event.key = Some(id.into());
        }
        self
    }

    async fn send(self) -> Result<()> {
        let Event {
            to,
            name,
            key,
            value,
        } = self.event?;
        self.engine.shared.check_runtime()?;
        // It keeps what it names until the message does.
        let value = self.engine.shared.objects.settle(value).await?;
        let mut blobs = Vec::new();
        value.for_each_blob(&mut |blob| blobs.push(blob));
        let mail = Mail::Event {
            name: Arc::clone(&name),
            value: value.clone(),
        };
        let too_long = || unencodable(&name, "it has more than 4 GiB".to_owned());
        let mut message = Send {
            to,
            // Messages of two names may have one id.
            key: key.map(|key| format!("{}:{name}{key}", name.len())),
            sent_at: self.engine.shared.clock.timestamp(),
            body: mail.encode().ok_or_else(too_long)?,
            blobs,
            only_with: None,
        };
        loop {
            let to = message.to.clone();
            match self.engine.shared.send(message.clone()).await? {
                SendOutcome::Accepted(_) | SendOutcome::Duplicate => return Ok(()),
                SendOutcome::BlobMissing { blob: object } => {
                    return Err(Error::ObjectNotFound { object });
                }
                SendOutcome::NotFound | SendOutcome::Skipped => {
                    return Err(Error::NotFound { run: to });
                }
                SendOutcome::Ended => {
                    let record = self.engine.record(&to).await?;
                    let status = self.engine.shared.status_of(&to, &record);
                    if status.is_final() {
                        return Err(Error::AlreadyEnded { run: to, status });
                    }
                    // It had failed, and somebody has resumed it since.
                    message.sent_at = self.engine.shared.clock.timestamp();
                }
            }
        }
    }
}

impl fmt::Debug for SendEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.event.as_ref();
        f.debug_struct("SendEvent")
            .field("to", &event.map(|event| &event.to))
            .finish_non_exhaustive()
    }
}

impl IntoFuture for SendEvent {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'static, Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
