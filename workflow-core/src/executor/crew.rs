//! Setting bodies going: each in a task of its own, or many that may be short together.
//!
//! A task costs more than a short body does. So where many bodies are to start, they wait in a line, and a few tasks, the hands,
//! poll each of them once; those that are done by then never need a task, and each of the others gets one and is polled there
//! again. As long as a body stands in the line, there is a hand that is not in the middle of a poll. So a body never waits
//! for another, whether that waits or computes.

#![expect(
    clippy::disallowed_methods,
    reason = "bodies are what tasks are spawned for"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_core::future::BoxFuture;
use tracing::{Instrument, Span};

use super::body::{Execution, Report};
use crate::context::Context;

/// How many bodies a hand polls before it lets other tasks of its thread have their turn, such as the run that is to hear of them.
const TURN: usize = 16;
/// Fewer bodies than this get a task each: the run hears of each of them as soon as it is done.
const FEW: usize = 16;

/// An execution that is to begin. It becomes a future where it is polled: the memory for that is then taken and given back
/// on one thread, time and again the same.
pub(super) struct Member {
    pub(super) execution: Execution,
    pub(super) report: Report,
    pub(super) span: Span,
}

/// A body that is to be polled.
pub(crate) struct Body {
    pub(crate) future: BoxFuture<'static, ()>,
    pub(crate) context: Context,
}

/// The bodies of a run that wait for their first poll.
#[derive(Default)]
pub(super) struct Crew(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    bodies: VecDeque<Member>,
    /// Hands that are not in the middle of a poll, and look into the line before they end.
    n_free: usize,
    /// Whether more bodies are to come as soon as some are done.
    is_crowded: bool,
}

impl Line {
    /// Gives back what many bodies at once needed, when none stand here and few follow.
    fn tidy(&mut self) {
        if self.bodies.is_empty() && !self.is_crowded {
            self.bodies = VecDeque::new();
        }
    }
}

impl Crew {
    /// Sets bodies going. `is_crowded` says that more of the run are to start as soon as some are done.
    pub(super) fn set_going(&self, members: Vec<Member>, is_crowded: bool) {
        let n_sharing = members.iter().filter(|member| member.may_share()).count();
        let are_many = n_sharing >= FEW || n_sharing > 0 && is_crowded;
        let mut alone = Vec::new();
        let mut line = lock(&self.0);
        let shares = are_many || line.n_free > 0;
        line.is_crowded = is_crowded;
        for member in members {
            if shares && member.may_share() {
                line.bodies.push_back(member);
            } else {
                alone.push(member);
            }
        }
        line.tidy();
        let needs_hand = line.n_free == 0 && !line.bodies.is_empty();
        line.n_free += usize::from(needs_hand);
        drop(line);
        if needs_hand {
            tokio::spawn(Hand::free(&self.0).work(None));
        }
        alone.into_iter().for_each(|member| member.body().spawn());
    }
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Crew").finish_non_exhaustive()
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // Nothing that holds the lock can panic.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task that polls bodies.
struct Hand {
    line: Arc<Mutex<Line>>,
    /// Whether it is counted as one.
    is_free: bool,
}

/// What a hand finds in the line.
enum Found {
    Nothing,
    /// A body to poll.
    Body(Member),
    /// A body to poll, and more behind it, for which no other hand is free.
    BodyAndMore(Member),
}

impl Hand {
    /// One that is counted already.
    fn free(line: &Arc<Mutex<Line>>) -> Self {
        Self {
            line: Arc::clone(line),
            is_free: true,
        }
    }

    fn busy(line: &Arc<Mutex<Line>>) -> Self {
        Self {
            line: Arc::clone(line),
            is_free: false,
        }
    }

    /// Polls this body, and then those in the line until there are none.
    fn work(mut self, mut first: Option<Member>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                for _ in 0..TURN {
                    let member = match first.take().map_or_else(|| self.next(), Found::Body) {
                        Found::Nothing => return,
                        Found::Body(member) => member,
                        Found::BodyAndMore(member) => {
                            // A thread of the runtime keeps the task that it spawned last to itself and polls it next. So
                            // that one takes the body, whose poll may be long, and this one goes where any thread finds it.
                            tokio::spawn(Self::busy(&self.line).work(Some(member)));
                            break;
                        }
                    };
                    member.body().poll_once().await;
                }
                self.rest().await;
            }
        })
    }

    fn next(&mut self) -> Found {
        let mut line = lock(&self.line);
        line.n_free -= usize::from(std::mem::take(&mut self.is_free));
        match line.bodies.pop_front() {
            None => {
                line.tidy();
                Found::Nothing
            }
            Some(body) if line.n_free == 0 && !line.bodies.is_empty() => Found::BodyAndMore(body),
            Some(body) => Found::Body(body),
        }
    }

    /// Lets other tasks have their turn.
    async fn rest(&mut self) {
        lock(&self.line).n_free += 1;
        self.is_free = true;
        let mut has_rested = false;
        // Not tokio's own way: that looks at timers and sockets each time.
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut has_rested, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Member {
    /// Whether it may be polled in the line: a body on the blocking pool has nothing to gain.
    pub(super) fn may_share(&self) -> bool {
        self.execution.is_async()
    }

    pub(super) fn body(self) -> Body {
        let Self {
            execution,
            report,
            span,
        } = self;
        let context = report.context.clone();
        let body = execution.run(report);
        let future: BoxFuture<'static, ()> = if span.is_disabled() {
            Box::pin(body)
        } else {
            Box::pin(body.instrument(span))
        };
        Body { future, context }
    }
}

impl Body {
    /// Gives it a task of its own.
    pub(crate) fn spawn(self) {
        let Self { future, context } = self;
        context.set_abort(tokio::spawn(future).abort_handle());
    }

    pub(super) async fn poll_once(mut self) {
        if self.context.is_to_be_dropped() {
            return;
        }
        let polled = std::future::poll_fn(|cx| Poll::Ready(self.future.as_mut().poll(cx))).await;
        if polled.is_pending() {
            self.spawn();
        }
    }
}
