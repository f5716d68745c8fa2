//! Noticing bodies that block the thread they share with others.

#![expect(
    clippy::disallowed_methods,
    reason = "how long a thread was kept is no time of a run's, and is only logged"
)]

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::context::try_context;
use crate::engine::Shared;

/// A body that does not await anything for so long is said to block.
const BLOCKS_AFTER: Duration = Duration::from_secs(1);

/// A body of a step or method. On a store that other engines share, whoever blocks here keeps them waiting, and is
/// logged. A look at the clock is nothing beside a commit to such a store; to one of this process alone it would be
/// something.
pub(crate) struct Watched<F> {
    body: F,
    name: &'static str,
    is_watched: bool,
}

impl<F> Watched<F> {
    pub(crate) fn new(body: F, name: &'static str, shared: &Shared) -> Self {
        Self {
            body,
            name,
            is_watched: shared.is_shared() && !shared.clock.is_tokios(),
        }
    }
}

impl<F: Future + Unpin> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.is_watched {
            return Pin::new(&mut self.body).poll(cx);
        }
        let begun = Instant::now();
        let polled = Pin::new(&mut self.body).poll(cx);
        let kept = begun.elapsed();
        if kept >= BLOCKS_AFTER {
            match try_context() {
                Some(context) => tracing::warn!(
                    step = self.name,
                    run = context.run_id(),
                    "a body blocked its thread for {kept:?}; others that need the thread wait. Make the step a plain `fn`, use \
                     `spawn_blocking`, or await something in between"
                ),
                None => tracing::warn!(
                    method = self.name,
                    "a body blocked its thread for {kept:?}; others that need the thread wait. Use `spawn_blocking` in the \
                     method, or await something in between"
                ),
            }
        }
        polled
    }
}
