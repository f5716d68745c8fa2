//! What code that runs inside of a method or a step finds without being given it: its engine, and which calls wait for it.

use std::sync::Arc;

use super::waits::Waiters;
use crate::context::try_context;
use crate::engine::Shared;

tokio::task_local! {
    static CURRENT: Current;
}

/// The call that this code runs in.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(super) shared: Arc<Shared>,
    /// The method, as people see it.
    pub(crate) method: &'static str,
    /// Who waits for this code: the actor whose call it is. Nobody's call is waited for by whoever made it.
    pub(super) waiters: Waiters,
}

impl Current {
    pub(crate) async fn scope<F: Future>(self, body: F) -> F::Output {
        CURRENT.scope(self, body).await
    }
}

/// The call of an actor that this code runs in.
pub(crate) fn current_call() -> Option<Current> {
    CURRENT.try_with(Clone::clone).ok()
}

/// The engine whose step or method this code runs in.
pub(crate) fn current_engine() -> Option<Arc<Shared>> {
    let of_step = || try_context().map(|context| Arc::clone(&context.link().shared));
    current_call().map(|call| call.shared).or_else(of_step)
}
