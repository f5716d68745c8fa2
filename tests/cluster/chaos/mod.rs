//! Workers that are killed, stopped past their lease and continued, connections that are cut, a server that crashes: from a seed.
//!
//! The workers are this binary again. `KEEPSTEP_CHAOS` says how much happens to them, and `KEEPSTEP_SEED` what; there are a
//! hundred runs to each event.

mod wire;
mod work;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keepstep::Handle;
use keepstep::prelude::*;

use crate::server::Server;
use wire::Wire;
use work::{Book, COUNTERS, Count};

const URL: &str = "KEEPSTEP_TEST_URL";
const BOOK: &str = "KEEPSTEP_TEST_BOOK";
const WORKERS: usize = 5;
/// Started while the workers have their troubles.
const RUNS_TO_AN_EVENT: u64 = 100;
const LEASE: Duration = Duration::from_secs(3);
/// However slow the machine, so long after everything else something has ended.
const STUCK_AFTER: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a worker of the chaos"]
async fn worker() {
    let log = std::sync::Mutex::new(log_file(Path::new(&std::env::var(BOOK).unwrap())));
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log)
        .init();
    let book = Book(std::env::var(BOOK).unwrap().into());
    let engine = loop {
        let builder = Engine::builder().resource(book.clone()).lease(LEASE);
        match builder.open(std::env::var(URL).unwrap()).await {
            Ok(engine) => break engine,
            // The server may be down just now.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    println!("\nbegun");
    std::future::pending::<()>().await;
    drop(engine);
}

/// Where a worker says what it notices.
fn log_file(book: &Path) -> File {
    let path = book.with_file_name(format!("worker-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.append(true).create(true).open(path).unwrap()
}

/// A worker process, killed when the test ends.
struct Worker(Child);

impl Worker {
    fn spawn(url: &str, book: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "chaos::worker", "--nocapture"])
            .env(URL, url)
            .env(BOOK, book)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn until_begun(&mut self) {
        let mut stdout = BufReader::new(self.0.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim_end() != "begun" {
            line.clear();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "a worker ended by itself"
            );
        }
        // What else it says goes nowhere, and it must not be stopped by that.
        self.0.stdout = Some(stdout.into_inner());
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// What the workers run on, and what happens to it.
struct Chaos {
    random: fastrand::Rng,
    server: Option<Server>,
    wire: Wire,
    url: String,
    book: Book,
    workers: Vec<Worker>,
}

impl Chaos {
    async fn event(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(20..400))).await;
        let which = self.random.usize(..self.workers.len());
        match self.random.u8(..4) {
            0 => {
                println!("worker {which} is killed");
                self.workers[which] = Worker::spawn(&self.url, &self.book.0);
            }
            1 => {
                println!("worker {which} is stopped past its lease");
                self.workers[which].signal("-STOP");
                let pause = LEASE + Duration::from_millis(self.random.u64(..1500));
                tokio::time::sleep(pause).await;
                self.workers[which].signal("-CONT");
            }
            2 => {
                println!("connections are cut");
                self.wire.cut_all();
            }
            _ => {
                println!("the server crashes");
                let mut server = self.server.take().unwrap();
                let crashed = tokio::task::spawn_blocking(move || {
                    server.kill();
                    server.restart("-c fsync=on");
                    server
                });
                self.server = Some(crashed.await.unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_nothing_and_uses_one_result_of_each_step() {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: the server of KEEPSTEP_TEST_POSTGRES is not to be killed");
        return;
    }
    // Says that it was skipped if there is none.
    drop(crate::server::url());
    let (seed, events) = (number("KEEPSTEP_SEED", 1), number("KEEPSTEP_CHAOS", 20));
    println!("KEEPSTEP_SEED={seed} KEEPSTEP_CHAOS={events}");
    let server = Server::start("-c fsync=on").unwrap();
    let direct = format!("{}?patience=120", server.url());
    let address = server.address();
    let wire = Wire::to(address.parse().unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut chaos = Chaos {
        random: fastrand::Rng::with_seed(seed),
        server: Some(server),
        url: format!("postgres://postgres@{}/postgres?patience=10", wire.address),
        wire,
        book: Book(folder.path().join("book")),
        workers: Vec::new(),
    };
    chaos.book.write("begin");
    let builder = Engine::builder().resource(chaos.book.clone());
    let engine = builder.worker(false).open(&direct).await.unwrap();
    for _ in 0..WORKERS {
        let mut worker = Worker::spawn(&chaos.url, &chaos.book.0);
        worker.until_begun();
        chaos.workers.push(worker);
    }
    let mut handles = Vec::new();
    for event in 0..events {
        let runs = RUNS_TO_AN_EVENT * event..RUNS_TO_AN_EVENT * (event + 1);
        let starts: Vec<_> = runs
            .map(|run| tokio::spawn(start(engine.clone(), run)))
            .collect();
        chaos.event().await;
        for start in starts {
            handles.push(start.await.unwrap());
        }
    }
    println!("no more happens");
    let runs = handles.len() as u64;
    let mut outputs = Vec::new();
    for handle in handles {
        let id = handle.id().to_string();
        match tokio::time::timeout(STUCK_AFTER, handle).await {
            Ok(output) => outputs.push(output.unwrap()),
            Err(_) => panic!(
                "{id} is stuck: {:?}\n{}",
                engine.metadata(&id).await,
                logs(folder.path())
            ),
        }
    }
    work::judge(&std::fs::read_to_string(&chaos.book.0).unwrap(), &outputs);
    for counter in 0..COUNTERS {
        let id = format!("count-{counter}");
        let count = Count::on(&engine).get_or_create(id).await.unwrap();
        let counted = count.n().await.unwrap();
        let calls = work::calls_of(counter, runs);
        assert_eq!(counted, calls, "a call was lost or made twice");
    }
}

/// Starts a run, and sends it the event that it waits for, which may arrive long before.
async fn start(engine: Engine, run: u64) -> Handle<(u64, u64)> {
    let id = format!("run-{run}");
    let workflow = work::workflow(&engine, run).await;
    let handle = engine.start(&id, workflow).await.unwrap();
    if work::waits_for_event(run) {
        engine.send_event(&id, "go on", &()).await.unwrap();
    }
    handle
}

/// What the workers noticed.
fn logs(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| !path.ends_with("book"));
    let log = |path: &PathBuf| {
        format!(
            "{}:\n{}",
            path.display(),
            std::fs::read_to_string(path).unwrap()
        )
    };
    paths.iter().map(log).collect::<Vec<_>>().join("\n")
}
