//! Hearing of what other processes do: one connection that listens, and is made anew when it is lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;

use super::session::Sessions;
use crate::{Notice, RunId, TaskId};

/// When more wait to be looked at than this, everything is.
const MAX_WAITING: usize = 10_000;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What was heard and not yet looked at.
#[derive(Debug, Default)]
pub(super) struct Heard {
    notices: Mutex<VecDeque<Notice>>,
    arrived: Notify,
}

impl Heard {
    fn notices(&self) -> MutexGuard<'_, VecDeque<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, notice: Notice) {
        {
            let mut notices = self.notices();
            if notices.len() >= MAX_WAITING {
                notices.clear();
                notices.push_back(Notice::Missed);
            } else {
                notices.push_back(notice);
            }
        }
        self.arrived.notify_one();
    }

    /// What was heard since this was asked last; waits until there is something.
    pub(super) async fn take(&self) -> Vec<Notice> {
        loop {
            let taken = std::mem::take(&mut *self.notices());
            if !taken.is_empty() {
                return taken.into();
            }
            self.arrived.notified().await;
        }
    }
}

/// The task that listens, until it is dropped.
#[derive(Debug)]
pub(super) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    /// `nodes` gives the ids under which this process owns runs.
    pub(super) fn start(
        sessions: Arc<Sessions>,
        heard: Arc<Heard>,
        nodes: impl Fn() -> Vec<i64> + Send + Sync + 'static,
    ) -> Self {
        Self(tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                match listen(&sessions, &heard, &nodes).await {
                    Ok(()) => pause = FIRST_PAUSE,
                    Err(error) => {
                        tracing::warn!(location = sessions.settings.location, %error, "cannot hear of what other processes do; trying again");
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
                tokio::time::sleep(pause).await;
            }
        }))
    }
}

/// Listens until the connection is lost.
async fn listen(
    sessions: &Sessions,
    heard: &Heard,
    nodes: &(impl Fn() -> Vec<i64> + Sync),
) -> Result<(), tokio_postgres::Error> {
    let settings = &sessions.settings;
    let (client, mut connection) = settings.config.connect(sessions.tls.clone()).await?;
    let subscribe = format!("LISTEN \"{}\"", settings.schema);
    let mut subscribed = std::pin::pin!(client.batch_execute(&subscribe));
    let mut is_subscribed = false;
    loop {
        let message = std::future::poll_fn(|cx| connection.poll_message(cx));
        tokio::select! {
            answer = &mut subscribed, if !is_subscribed => {
                answer?;
                is_subscribed = true;
                // What happened before was not heard.
                heard.add(Notice::Missed);
            }
            message = message => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    if let Some(notice) = understand(notification.payload(), nodes) {
                        heard.add(notice);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}

/// What a payload says to this process; `None` if it is for another, or from a later version.
fn understand(payload: &str, nodes: impl Fn() -> Vec<i64>) -> Option<Notice> {
    let (word, rest) = payload.split_once(' ').unwrap_or((payload, ""));
    match word {
        "free" => Some(Notice::Free),
        "changed" => Some(Notice::Changed(RunId::stored(rest).ok()?)),
        "mail" | "wanted" => {
            let (owner, run) = rest.split_once(' ')?;
            let is_mine = owner == "*"
                || u64::from_str_radix(owner, 16)
                    .is_ok_and(|owner| nodes().contains(&owner.cast_signed()));
            let run = RunId::stored(run).ok().filter(|_| is_mine)?;
            Some(match word {
                "mail" => Notice::Mail(run),
                _ => Notice::Wanted(run),
            })
        }
        "task" if !rest.is_empty() => Some(Notice::Tasks(rest.to_owned())),
        "done" | "stop" => {
            let (node, tasks) = rest.split_once(' ')?;
            let node = u64::from_str_radix(node, 16).ok()?;
            if !nodes().contains(&node.cast_signed()) {
                return None;
            }
            let task = |task| u64::from_str_radix(task, 16).ok().map(TaskId);
            let tasks = tasks.split(' ').map(task).collect::<Option<Vec<_>>>()?;
            Some(match word {
                "done" => Notice::Done(tasks),
                _ => Notice::Withdrawn(tasks),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_for_this_process_or_not() {
        let run = |id: &str| RunId::new(id).unwrap();
        for (payload, notice) in [
            ("free", Some(Notice::Free)),
            ("changed a b", Some(Notice::Changed(run("a b")))),
            ("mail ff a b", Some(Notice::Mail(run("a b")))),
            ("mail * a", Some(Notice::Mail(run("a")))),
            ("wanted ff a", Some(Notice::Wanted(run("a")))),
            ("mail fe a", None),
            ("task gpu", Some(Notice::Tasks("gpu".to_owned()))),
            (
                "done ff 1 1f",
                Some(Notice::Done(vec![TaskId(1), TaskId(31)])),
            ),
            ("stop ff 7", Some(Notice::Withdrawn(vec![TaskId(7)]))),
            ("done fe 1", None),
            ("done ff 1 x", None),
            ("stop ff", None),
            ("task", None),
            ("mail", None),
            ("later", None),
        ] {
            assert_eq!(understand(payload, || vec![255]), notice, "{payload}");
        }
    }
}
