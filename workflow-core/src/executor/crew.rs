//! Setting bodies going: each in a task of its own, or many that may be short together.
//!
//! A task costs more than a short body does. So where many bodies start at once, one task polls each of them once;
//! those that are done by then never need a task, and each of the others gets one and is polled there again. A body that
//! waits therefore never waits for another.

#![expect(
    clippy::disallowed_methods,
    reason = "bodies are what tasks are spawned for"
)]

use std::task::Poll;

use futures_core::future::BoxFuture;

use crate::context::Context;

/// How many bodies are polled by one task at most: a body that computes for long in its first poll delays the others of its
/// crew, so it is small.
const MAX_CREW: usize = 16;
/// Into how many crews bodies that start at once are spread at least.
const MIN_CREWS: usize = 8;

/// A body that is to be set going.
pub(crate) struct Member {
    pub(crate) body: BoxFuture<'static, ()>,
    pub(crate) context: Context,
    /// Whether it may share its first poll with others; a body on the blocking pool has nothing to gain.
    pub(crate) may_share: bool,
}

/// Sets bodies going.
pub(crate) fn set_going(members: Vec<Member>) {
    let (mut sharing, alone): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|member| member.may_share);
    alone.into_iter().for_each(Member::spawn);
    let size = (sharing.len() / MIN_CREWS).clamp(1, MAX_CREW);
    if size == 1 {
        sharing.into_iter().for_each(Member::spawn);
        return;
    }
    while !sharing.is_empty() {
        let crew = sharing.split_off(sharing.len().saturating_sub(size));
        tokio::spawn(async move {
            for member in crew {
                member.poll_once().await;
            }
        });
    }
}

impl Member {
    pub(super) fn spawn(self) {
        let Self { body, context, .. } = self;
        context.set_abort(tokio::spawn(body).abort_handle());
    }

    pub(super) async fn poll_once(mut self) {
        if self.context.is_to_be_dropped() {
            return;
        }
        let polled = std::future::poll_fn(|cx| Poll::Ready(self.body.as_mut().poll(cx))).await;
        if polled.is_pending() {
            self.spawn();
        }
    }
}
