//! A handle on a run: await it for the output, watch its progress, cancel it.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_core::future::BoxFuture;
use keepstep_storage::RunId;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::shared::{Ended, Seat};
use super::{Engine, decode};
use crate::error::{Error, Result};
use crate::status::{Progress, Status};

/// A run that was started. Awaiting it gives the run's output; dropping it leaves the run alone.
///
/// ```
/// # use keepstep_core::{Engine, Workflow};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// let engine = Engine::open("memory:").await?;
/// let handle = engine.start("answer", Workflow::value(42)).await?;
/// assert_eq!(handle.id(), "answer");
/// assert_eq!(handle.await?, 42);
/// # engine.shutdown().await
/// # }
/// ```
#[must_use = "a run goes on without its handle; await it for the output"]
pub struct Handle<T> {
    engine: Engine,
    id: RunId,
    run: Attached,
    yields: PhantomData<fn() -> T>,
}

/// Where the outcome of a run comes from.
#[derive(Debug, Clone)]
pub(super) enum Attached {
    /// It is still to come.
    Seat {
        ended: watch::Receiver<Option<Ended>>,
        progress: watch::Receiver<Progress>,
    },
    /// It was there.
    Ended(Ended, Progress),
}

impl Attached {
    pub(super) fn to(seat: &Seat) -> Self {
        Self::Seat {
            ended: seat.ended.subscribe(),
            progress: seat.progress.subscribe(),
        }
    }

    /// Waits until the run leaves the engine.
    pub(super) async fn ended(self) -> Ended {
        match self {
            Self::Ended(ended, _) => ended,
            Self::Seat { mut ended, .. } => match ended.wait_for(Option::is_some).await {
                Ok(ended) => ended.clone().unwrap_or(Ended::ShutDown),
                // The engine was dropped.
                Err(_) => Ended::ShutDown,
            },
        }
    }
}

impl<T> Handle<T> {
    pub(super) fn new(engine: Engine, id: RunId, run: Attached) -> Self {
        Self {
            engine,
            id,
            run,
            yields: PhantomData,
        }
    }

    /// The workflow id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// The run's status.
    ///
    /// # Errors
    /// As [`Engine::status`].
    pub async fn status(&self) -> Result<Status> {
        self.engine.status(&self.id).await
    }

    /// Cancels the run.
    ///
    /// # Errors
    /// As [`Engine::cancel`].
    pub async fn cancel(&self) -> Result<()> {
        self.engine.cancel(&self.id).await
    }

    /// How far the run is: the counts now, then each time they have changed. Ends with the run.
    #[must_use]
    pub fn progress(&self) -> ProgressStream {
        let run = self.run.clone();
        ProgressStream(Box::pin(futures_util::stream::unfold(
            Some((run, true)),
            |state| async move {
                let (run, is_first) = state?;
                match run {
                    Attached::Ended(_, progress) => Some((progress, None)),
                    Attached::Seat {
                        mut progress,
                        mut ended,
                    } => {
                        let has_ended = if is_first {
                            progress.mark_unchanged();
                            ended.borrow().is_some()
                        } else {
                            tokio::select! {
                                biased;
                                changed = progress.changed() => changed.is_err(),
                                _ = ended.wait_for(Option::is_some) => true,
                            }
                        };
                        let shown = *progress.borrow_and_update();
                        Some((
                            shown,
                            (!has_ended).then_some((Attached::Seat { ended, progress }, false)),
                        ))
                    }
                }
            },
        )))
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self::new(self.engine.clone(), self.id.clone(), self.run.clone())
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.id)
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for Handle<T> {
    type Output = Result<T>;
    type IntoFuture = BoxFuture<'static, Result<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let ended = self.run.ended().await;
            self.engine.outcome(&self.id, ended).await
        })
    }
}

impl Engine {
    /// What a run's end is to its caller.
    pub(super) async fn outcome<T: DeserializeOwned>(&self, id: &RunId, ended: Ended) -> Result<T> {
        let run = id.clone();
        Err(match ended {
            Ended::Successful(value) => {
                let value = self.shared.load_value(value).await?;
                return decode(&self.shared, value, || format!("the output of run {run:?}"));
            }
            ended => self.no_output(id, ended),
        })
    }

    /// Why a run has no output.
    pub(super) fn no_output(&self, id: &RunId, ended: Ended) -> Error {
        let run = id.clone();
        match ended {
            Ended::Interrupted(_) | Ended::ShutDown if self.shared.is_runtime_gone() => {
                Error::RuntimeEnded
            }
            Ended::Failed(error) => Error::Failed {
                run,
                error: Box::new((*error).clone()),
            },
            Ended::Canceled => Error::Canceled { run },
            Ended::Suspended(reason) => Error::Suspended { run, reason },
            Ended::Interrupted(source) => Error::Interrupted { run, source },
            Ended::Fenced => Error::Fenced { run },
            Ended::Unreadable(error) => error,
            Ended::NoRuntime => Error::RuntimeEnded,
            Ended::Successful(_) | Ended::LeaseLost | Ended::LeftToOthers | Ended::ShutDown => {
                Error::ShutDown
            }
        }
    }
}

/// How far a run is, as a stream of [`Progress`].
pub struct ProgressStream(Pin<Box<dyn Stream<Item = Progress> + Send>>);

impl ProgressStream {
    /// The counts, when they have changed; `None` when the run has left the engine.
    pub async fn next(&mut self) -> Option<Progress> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ProgressStream {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for ProgressStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressStream")
    }
}
