//! The processes that make a store and that use a damaged one. They are this binary again, told by the environment what to
//! do, because a process may be killed that hangs.

use std::fmt::Display;
use std::future;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstep::Filter;
use keepstep::prelude::*;
use tokio::sync::Semaphore;

use crate::ledger::Ledger;
use crate::workflow::{OUTPUT, workflow};

const STORE: &str = "KEEPSTEP_TEST_STORE";
const DIRECTORY: &str = "KEEPSTEP_TEST_DIRECTORY";
const ENDS: &str = "KEEPSTEP_TEST_ENDS";

/// A process that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The runs of the store.
pub(crate) const IDS: &[&str] = &[
    "finished",
    "failed",
    "suspended",
    "half-way",
    "half-way-too",
];

/// How the process ends that makes the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Closed,
    Killed,
}

/// What a process is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Build(End),
    Use,
}

/// What is said of a run of an undamaged store: its status, in ten letters, and its end.
pub(crate) fn expected(id: &str) -> String {
    let (status, end) = match id {
        "finished" => (Status::Successful, Ok(OUTPUT)),
        "failed" => (Status::Failed, Err("refused")),
        "suspended" => (Status::Suspended, Ok(OUTPUT)),
        _ => (Status::Resumable, Ok(OUTPUT)),
    };
    said(status, end)
}

fn said(status: Status, end: Result<u64, impl Display>) -> String {
    let status = status.to_string();
    match end {
        Ok(output) => format!("{status:10} and then yields {output}"),
        Err(error) => format!("{status:10} and then fails: {error}"),
    }
}

/// Runs a process to its end, and gives what it wrote down; an error if it did not end well.
pub(crate) fn run(role: Role, store: &str, directory: &Path) -> Result<Vec<String>, String> {
    let report = directory.join("report");
    let name = match role {
        Role::Build(_) => "process::build",
        Role::Use => "process::use_damaged",
    };
    let is_killed = matches!(role, Role::Build(End::Killed));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name, "--nocapture"])
        .env(STORE, store)
        .env(DIRECTORY, directory)
        .env(ENDS, if is_killed { "killed" } else { "closed" })
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let given_up = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let lines = || crate::read_lines(&report);
        if is_killed && lines().iter().any(|line| line == "ready") {
            child.kill().unwrap();
        }
        if Instant::now() > given_up {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("it hangs after {:?}", lines()));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let lines = crate::read_lines(&report);
    match status.signal() {
        Some(9) if is_killed => Ok(lines),
        None if status.success() => Ok(lines),
        _ => Err(format!("{status} after {lines:?}")),
    }
}

/// A resource: whether steps may go on, and how many may not.
#[derive(Debug, Clone)]
struct Gate {
    is_open: bool,
    waiting: Arc<Semaphore>,
}

impl Gate {
    fn new(is_open: bool) -> Self {
        let waiting = Arc::new(Semaphore::new(0));
        Self { is_open, waiting }
    }
}

#[step]
async fn last(output: u64, #[resource] gate: &Gate) -> u64 {
    if !gate.is_open {
        gate.waiting.add_permits(1);
        future::pending::<()>().await;
    }
    output
}

#[step(retries = 0)]
async fn refuse(_output: u64) -> Result<u64, String> {
    Err("refused".to_owned())
}

struct Place {
    engine: keepstep::Result<Engine>,
    report: Ledger,
    gate: Gate,
}

impl Place {
    async fn new(is_open: bool) -> Self {
        let directory = std::env::var(DIRECTORY).unwrap();
        let directory = Path::new(&directory);
        let report = Ledger::append_to(&directory.join("report"));
        let panics = report.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let at = panic.location().unwrap();
            panics.write(&format!("panic {}:{}", at.file(), at.line()));
        }));
        let gate = Gate::new(is_open);
        let name = if is_open { "ledger" } else { "first ledger" };
        let engine = Engine::builder()
            .resource(Ledger::append_to(&directory.join(name)))
            .resource(gate.clone())
            .open(std::env::var(STORE).unwrap())
            .await;
        Self {
            engine,
            report,
            gate,
        }
    }

    fn error(&self, of: &str, call: &str, error: &dyn std::error::Error) {
        let mut text = format!("error {of} {call}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        self.report.write(&text.replace('\n', " "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that makes a store"]
async fn build() -> keepstep::Result<()> {
    let place = Place::new(false).await;
    let engine = place.engine.clone()?;
    let mut handles = Vec::new();
    for id in &IDS[2..] {
        let workflow = last(workflow()).name("last");
        handles.push(engine.start(id, workflow).await?);
    }
    assert_eq!(engine.run("finished", workflow()).await?, OUTPUT);
    let failed = engine.run("failed", refuse(workflow())).await;
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    let all = place.gate.waiting.acquire_many(handles.len() as u32);
    all.await.unwrap().forget();
    engine.suspend("suspended").await?;
    if std::env::var(ENDS).unwrap() == "killed" {
        place.report.write("ready");
        future::pending::<()>().await;
    }
    engine.shutdown().await
}

/// Looks at everything, and goes on with everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that uses a damaged store"]
async fn use_damaged() {
    let place = Place::new(true).await;
    let engine = match &place.engine {
        Ok(engine) => engine.clone(),
        Err(error) => return place.error("store", "open", error),
    };
    match engine.list(Filter::all()).await {
        Ok(page) => assert!(page.runs.len() <= IDS.len()),
        Err(error) => place.error("store", "list", &error),
    }
    let mut statuses = Vec::new();
    for id in IDS {
        if let Err(error) = engine.metadata(id).await
            && !matches!(error, Error::NotFound { .. })
        {
            place.error(id, "metadata", &error);
        }
        if let Err(error) = engine.graph(id).await
            && !matches!(error, Error::NotFound { .. })
        {
            place.error(id, "graph", &error);
        }
        let large = engine.step_output::<String>(id, "large").await;
        match large {
            Ok(text) => assert!(text.starts_with(id) && text.len() == 100_000),
            Err(Error::NotFound { .. } | Error::StepNotFound { .. }) => {}
            Err(error) => place.error(id, "output of \"large\"", &error),
        }
        statuses.push(engine.status(id).await);
    }
    match engine.resume_all().await {
        Ok(resumed) => {
            for (id, handle) in resumed {
                let end = match handle {
                    Ok(handle) => handle.await,
                    Err(error) => Err(error),
                };
                match end {
                    // Gone on with, from an earlier state.
                    Ok(_) | Err(Error::Failed { .. }) => {}
                    Err(error) => place.error(&id, "resume_all", &error),
                }
            }
        }
        Err(error) => place.error("store", "resume_all", &error),
    }
    for (id, status) in IDS.iter().zip(statuses) {
        let status = match status {
            Ok(status) => status,
            Err(Error::NotFound { .. }) => {
                place.report.write(&format!("run {id} missing"));
                continue;
            }
            Err(error) => {
                place.error(id, "status", &error);
                continue;
            }
        };
        let end = match status {
            // Resuming it would be to try again what failed.
            Status::Failed => engine.output(id).await,
            _ => match engine.resume::<u64>(id).await {
                Ok(handle) => handle.await,
                Err(error) => Err(error),
            },
        };
        let end = match end {
            Ok(output) => said(status, Ok::<_, String>(output)),
            Err(Error::Failed { error, .. }) => said(status, Err(error.message)),
            Err(error) => {
                place.error(id, "end", &error);
                continue;
            }
        };
        place.report.write(&format!("run {id} {end}"));
    }
    if let Err(error) = engine.shutdown().await {
        place.error("store", "shutdown", &error);
    }
}
