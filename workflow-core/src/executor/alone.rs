//! A run that has nothing to do but wait for one body polls it where it is itself polled: a chain of steps then needs no
//! other task and no other thread.
//!
//! A run that does so time and again, and commits in between, does it where it may block: its thread's other tasks are given to
//! another thread once for many steps, not once for each commit.
//!
//! While a body is being polled its run's task is out of the way, in its berth, so that the run still hears what it is told:
//! whoever sends it a message while it is there takes it out and sets it going elsewhere. So a body that computes for
//! long in a poll delays no cancellation.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tracing::{Instrument, Span};

use super::crew::Body;
use super::{Next, RunMessage, RunTask};

/// Whether another thread takes over what one leaves undone while it blocks.
pub(super) fn may_block_on(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::MultiThread
}

/// Where a run's task stays while it waits for a body that is polled in its place.
#[derive(Default)]
pub(super) struct Berth(Mutex<Option<(Box<RunTask>, Span)>>);

impl Berth {
    fn place(&self) -> MutexGuard<'_, Option<(Box<RunTask>, Span)>> {
        // Nothing that holds the lock can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Berth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Berth").finish_non_exhaustive()
    }
}

/// Tells a run something, wherever its task is.
#[derive(Debug, Clone)]
pub(crate) struct RunSender {
    pub(super) messages: mpsc::UnboundedSender<RunMessage>,
    pub(super) berth: Arc<Berth>,
}

/// The way to a run's task, for a task that is yet to be made.
pub(crate) fn run_channel() -> (RunSender, mpsc::UnboundedReceiver<RunMessage>) {
    let (messages, received) = mpsc::unbounded_channel();
    let berth = Arc::default();
    (RunSender { messages, berth }, received)
}

impl RunSender {
    /// Sends a message.
    ///
    /// # Errors
    /// The message, if the run's task is over.
    pub(crate) fn send(&self, message: RunMessage) -> Result<(), SendError<RunMessage>> {
        self.messages.send(message)?;
        // After sending: a task that goes into its berth looks for messages with the berth in its hands.
        let berthed = self.berth.place().take();
        if let Some((task, span)) = berthed {
            let shared = Arc::clone(&task.shared);
            shared.spawn(task.drive().instrument(span));
        }
        Ok(())
    }
}

impl RunTask {
    /// Polls a body and goes on on this thread, which blocks in commits, for as long as there is nothing else to wait for. `None` if
    /// the run went on elsewhere meanwhile.
    pub(super) fn go_on_in_place(mut self: Box<Self>, body: Body) -> Option<(Box<Self>, Next)> {
        self.is_in_place = true;
        let runtime = self.shared.home.runtime().clone();
        let stretch = async move {
            let mut task = self.wait_in_berth(body).await?;
            loop {
                match task.until_next().await {
                    Next::Lone(body) => task = task.wait_in_berth(body).await?,
                    next => {
                        task.is_in_place = false;
                        return Some((task, next));
                    }
                }
            }
        };
        tokio::task::block_in_place(|| runtime.block_on(stretch))
    }

    /// Polls a body once; one that is not done by then gets a task. `None` if the run went on elsewhere meanwhile.
    pub(super) async fn wait_in_berth(self: Box<Self>, body: Body) -> Option<Box<Self>> {
        let berth = Arc::clone(&self.sender.berth);
        {
            let mut place = berth.place();
            if !self.messages.is_empty() {
                drop(place);
                body.spawn();
                return Some(self);
            }
            *place = Some((self, Span::current()));
        }
        // A body catches its own panics; whatever else may panic must not leave the run where it is.
        if AssertUnwindSafe(body.poll_once())
            .catch_unwind()
            .await
            .is_err()
        {
            tracing::warn!("polling a body panicked");
        }
        let back = berth.place().take();
        back.map(|(task, _)| task)
    }
}
