//! Workers that are killed, stopped past their lease and continued, connections that are cut, a server that crashes: from a seed.
//!
//! The workers are this binary again. `KEEPSTEP_CHAOS` says how much happens to them, and `KEEPSTEP_SEED` what. Each step draws a
//! number and writes down what it was given and what it drew; so it shows if two results of one step were ever used.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::virtual_actor;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::server::Server;
use crate::soon;

const URL: &str = "KEEPSTEP_TEST_URL";
const BOOK: &str = "KEEPSTEP_TEST_BOOK";
/// Started while the workers have their troubles.
const RUNS: u64 = 40;
const WORKERS: usize = 3;
const LEASE: Duration = Duration::from_secs(2);
/// Steps of each layer of a run's graph; each takes the results of all of the layer before.
const LAYERS: [u64; 4] = [2, 3, 2, 1];

/// Where steps write down what they did: a line at a time, whoever writes.
#[derive(Debug, Clone)]
struct Book(PathBuf);

impl Book {
    fn write(&self, line: &str) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.0)
            .unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[step(retries = 100)]
async fn draw(run: u64, who: u64, given: Vec<u64>, #[resource] book: &Book) -> u64 {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(20..500))).await;
    let drawn = fastrand::u64(1..u64::MAX >> 1);
    let given: Vec<String> = given.iter().map(u64::to_string).collect();
    book.write(&format!("{run} {who} {drawn} {}", given.join(",")));
    drawn
}

#[step(retries = 100)]
async fn second(first: u64, counted: u64) -> (u64, u64) {
    (first, counted)
}

#[derive(Debug, Serialize, Deserialize)]
struct Count {
    n: u64,
}

#[virtual_actor]
impl Count {
    pub fn new() -> Self {
        Self { n: 0 }
    }

    pub async fn one_more(&mut self, _after: u64) -> u64 {
        self.n += 1;
        self.n
    }

    pub async fn n(&self) -> u64 {
        self.n
    }
}

/// Layers of draws, then a call of an actor.
async fn workflow(engine: &Engine, run: u64) -> Workflow<(u64, u64)> {
    let count = Count::on(engine).get_or_create("count").await.unwrap();
    let mut who = 0;
    let mut layer: Vec<Workflow<u64>> = Vec::new();
    for width in LAYERS {
        layer = (0..width)
            .map(|_| {
                who += 1;
                draw(run, who, layer.clone())
            })
            .collect();
    }
    let last = layer.pop().unwrap();
    second(&last, count.one_more(&last).step())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a worker of the chaos"]
async fn worker() {
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

/// Stands between workers and the server, so that their connections can be cut.
struct Wire {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl Wire {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let told = cuts.subscribe();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut told = told.clone();
                told.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(server).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = told.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn cut_all(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_nothing_and_uses_one_result_of_each_step() {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: the server of KEEPSTEP_TEST_POSTGRES is not to be killed");
        return;
    }
    // Says that it was skipped if there is none.
    drop(crate::server::url());
    let (seed, events) = (number("KEEPSTEP_SEED", 1), number("KEEPSTEP_CHAOS", 8));
    println!("KEEPSTEP_SEED={seed} KEEPSTEP_CHAOS={events}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Server::start("-c fsync=on").unwrap();
    let direct = format!("{}?patience=120", server.url());
    let address = server.url();
    let address = address
        .split('@')
        .next_back()
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let wire = Wire::to(address.parse().unwrap()).await;
    let wired = format!("postgres://postgres@{}/postgres?patience=10", wire.address);

    let folder = tempfile::tempdir().unwrap();
    let book = Book(folder.path().join("book"));
    book.write("begin");
    let builder = Engine::builder().resource(book.clone()).worker(false);
    let engine = builder.open(&direct).await.unwrap();
    let mut workers: Vec<Worker> = Vec::new();
    for _ in 0..WORKERS {
        let mut worker = Worker::spawn(&wired, &book.0);
        worker.until_begun();
        workers.push(worker);
    }
    let mut handles = Vec::new();
    for event in 0..events {
        for run in RUNS * event / events..RUNS * (event + 1) / events {
            let workflow = workflow(&engine, run).await;
            handles.push(engine.start(format!("run-{run}"), workflow).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
        let which = random.usize(..workers.len());
        match random.u8(..4) {
            0 => {
                println!("worker {which} is killed");
                workers[which] = Worker::spawn(&wired, &book.0);
            }
            1 => {
                println!("worker {which} is stopped past its lease");
                workers[which].signal("-STOP");
                tokio::time::sleep(LEASE + Duration::from_millis(random.u64(..1500))).await;
                workers[which].signal("-CONT");
            }
            2 => {
                println!("connections are cut");
                wire.cut_all();
            }
            _ => {
                println!("the server crashes");
                server = tokio::task::spawn_blocking(move || {
                    server.kill();
                    server.restart("-c fsync=on");
                    server
                })
                .await
                .unwrap();
            }
        }
    }
    println!("no more happens");
    let mut outputs = Vec::new();
    for handle in handles {
        outputs.push(soon(handle).await.unwrap());
    }
    judge(&std::fs::read_to_string(&book.0).unwrap(), &outputs);
    let count = Count::on(&engine).get_or_create("count").await.unwrap();
    assert_eq!(
        count.n().await.unwrap(),
        RUNS,
        "a call was lost or made twice"
    );
    drop(workers);
}

/// Every result that was used of a step is the same, and was drawn by it.
fn judge(book: &str, outputs: &[(u64, u64)]) {
    let mut drawn: HashMap<(u64, u64), Vec<u64>> = HashMap::new();
    let mut used: HashMap<(u64, u64), u64> = HashMap::new();
    let mut n = 0;
    for line in book.lines().skip(1) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [run, who, number, given] = fields[..] else {
            panic!("{line:?}")
        };
        let (run, who): (u64, u64) = (run.parse().unwrap(), who.parse().unwrap());
        drawn
            .entry((run, who))
            .or_default()
            .push(number.parse().unwrap());
        n += 1;
        let given: Vec<u64> = given
            .split(',')
            .filter_map(|one| one.parse().ok())
            .collect();
        for (given, of) in given.into_iter().zip(first_before(who)..) {
            let first = *used.entry((run, of)).or_insert(given);
            assert_eq!(
                first, given,
                "two results of step {of} of run {run} were used"
            );
        }
    }
    let last: u64 = LAYERS.iter().sum();
    let mut counted = Vec::new();
    for (run, (output, count)) in (0..).zip(outputs) {
        used.insert((run, last), *output);
        counted.push(*count);
    }
    counted.sort_unstable();
    assert_eq!(counted, (1..=RUNS).collect::<Vec<_>>());
    let all = RUNS * last;
    assert_eq!(used.len() as u64, all);
    for (step, result) in &used {
        assert!(
            drawn[step].contains(result),
            "nobody drew the result of {step:?}"
        );
    }
    println!("{n} executions of {all} steps");
}

/// The number of the first step of the layer before that of a step.
fn first_before(who: u64) -> u64 {
    let mut first = 1;
    let mut before = 1;
    for width in LAYERS {
        if who < first + width {
            return before;
        }
        before = first;
        first += width;
    }
    before
}
