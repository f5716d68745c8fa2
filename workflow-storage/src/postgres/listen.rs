//! Hearing of what other processes do: one connection that listens, and is made anew when it is lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_postgres::{AsyncMessage, SimpleQueryMessage};

use super::error::Failure;
use super::schema::named;
use super::session::Sessions;
use crate::{Notice, RunId, TaskId};

/// When more wait to be looked at than this, everything is.
const MAX_WAITING: usize = 10_000;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often everything is looked at as long as nothing can be heard.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the server is asked whether it is there, which is counted in ticks: a process that was stopped wakes up
/// with all of its times past, and the answer waits to be read.
const TICK: Duration = Duration::from_secs(1);
const TICKS_BETWEEN: u32 = 5;
/// How long after a lease has ended it is looked at what that leaves, by a clock that goes as the server's does.
const AFTER_A_LEASE: Duration = Duration::from_millis(20);

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
            let hears = AtomicBool::new(false);
            let listening = async {
                let mut pause = FIRST_PAUSE;
                loop {
                    let listened = listen(&sessions, &heard, &hears, &nodes).await;
                    if hears.swap(false, Ordering::AcqRel) {
                        pause = FIRST_PAUSE;
                        heard.add(Notice::Missed);
                    }
                    if let Err(error) = listened {
                        tracing::warn!(location = sessions.settings.location, %error, "cannot hear of what other processes do; trying again");
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    tokio::time::sleep(pause).await;
                }
            };
            let looking = async {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    if !hears.load(Ordering::Acquire) {
                        heard.add(Notice::Missed);
                    }
                }
            };
            tokio::join!(listening, looking);
        }))
    }
}

/// Listens until the connection is lost, or is silent.
async fn listen(
    sessions: &Sessions,
    heard: &Heard,
    hears: &AtomicBool,
    nodes: &(impl Fn() -> Vec<i64> + Sync),
) -> Result<(), Failure> {
    let settings = &sessions.settings;
    let connect_within = settings.connect_within();
    let connected = timeout(connect_within, sessions.hosts.connect()).await;
    let (client, mut connection) = connected.map_err(|_| Failure::NoAnswer(connect_within))??;
    let answer_within = settings.silence();
    let ask = async |sql: String| client.simple_query(&sql).await;
    let mut asked = std::pin::pin!(ask(format!("LISTEN \"{}\"", settings.schema)));
    let (mut is_asked, mut asked_at) = (true, std::time::Instant::now());
    // Nobody tells of the end of a lease that its owner does not renew any more.
    let mut lease_ends_at: Option<tokio::time::Instant> = None;
    let mut ticks = 0;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    loop {
        let message = std::future::poll_fn(|cx| connection.poll_message(cx));
        tokio::select! {
            biased;
            message = message => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    if let Some(notice) = understand(notification.payload(), nodes) {
                        heard.add(notice);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            answer = &mut asked, if is_asked => {
                let answer = answer?;
                if only_reads(&answer) {
                    sessions.leave_server(asked_at);
                    return Err(Failure::ReadOnly);
                }
                let ends_after = lease_ends_after(&answer);
                lease_ends_at = ends_after.map(|after| tokio::time::Instant::now() + after);
                (is_asked, ticks) = (false, 0);
                if !hears.swap(true, Ordering::AcqRel) {
                    // What happened before was not heard.
                    heard.add(Notice::Missed);
                }
            }
            () = async { match lease_ends_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            } } => {
                lease_ends_at = None;
                heard.add(Notice::Free);
            }
            _ = tick.tick() => {
                ticks += 1;
                if is_asked && TICK * ticks >= answer_within {
                    return Err(Failure::NoAnswer(answer_within));
                }
                if !is_asked && ticks >= TICKS_BETWEEN {
                    asked.set(ask(heartbeat(&settings.schema, &nodes())));
                    (is_asked, ticks) = (true, 0);
                    asked_at = std::time::Instant::now();
                }
            }
        }
    }
}

/// Sent over the connection that listens, to hear whether it does, whether the server is the one that writes, and after how many
/// milliseconds the first lease of another process ends if nobody renews it.
fn heartbeat(schema: &str, nodes: &[i64]) -> String {
    let nodes: Vec<String> = nodes.iter().map(i64::to_string).collect();
    let sql = format!(
        "SELECT current_setting('transaction_read_only'), \
            ceil(extract(epoch FROM min(n.lease_until) - clock_timestamp()) * 1000)::bigint \
         FROM keepstep.node n WHERE n.lease_until > clock_timestamp() AND n.id <> ALL (ARRAY[{}]::bigint[])",
        nodes.join(", ")
    );
    named(&sql, schema)
}

/// After how long a lease of another process may end, as the answer to a heartbeat says.
fn lease_ends_after(answer: &[SimpleQueryMessage]) -> Option<Duration> {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })?;
    // The answer to the first question has no such column.
    let millis = (row.len() > 1).then(|| row.get(1)).flatten()?;
    Some(Duration::from_millis(millis.parse().ok()?) + AFTER_A_LEASE)
}

/// Whether the answer to a heartbeat comes from a server that does not write.
fn only_reads(answer: &[SimpleQueryMessage]) -> bool {
    answer.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
        _ => false,
    })
}

/// What a payload says to this process; `None` if it is for another, or from a later version.
fn understand(payload: &str, nodes: impl Fn() -> Vec<i64>) -> Option<Notice> {
    let (word, rest) = payload.split_once(' ').unwrap_or((payload, ""));
    match word {
        "free" => Some(Notice::Free),
        "changed" => Some(Notice::Changed(RunId::stored(rest).ok()?)),
        "declined" => Some(Notice::Declined(RunId::stored(rest).ok()?)),
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
            ("declined a b", Some(Notice::Declined(run("a b")))),
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
