//! What the runs of the chaos do, and the book from which it is judged.
//!
//! Each step draws a number and writes down what it was given and what it drew; so it shows if two results of one step were ever
//! used.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::virtual_actor;
use serde::{Deserialize, Serialize};

/// Steps of each layer of a run's graph; each takes the results of all of the layer before.
const LAYERS: [u64; 4] = [2, 3, 2, 1];
/// Each is called by as many runs as every other.
pub(super) const COUNTERS: u64 = 20;

/// Where steps write down what they did: a line at a time, whoever writes.
#[derive(Debug, Clone)]
pub(super) struct Book(pub(super) PathBuf);

impl Book {
    pub(super) fn write(&self, line: &str) {
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
    drawn(run, who, given, book).await
}

#[step(retries = 100, remote)]
async fn draw_anywhere(run: u64, who: u64, given: Vec<u64>, #[resource] book: &Book) -> u64 {
    drawn(run, who, given, book).await
}

async fn drawn(run: u64, who: u64, given: Vec<u64>, book: &Book) -> u64 {
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
pub(super) struct Count {
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

/// Layers of draws with a wait between two of them, which every other run waits out of memory, then a call of an actor.
pub(super) async fn workflow(engine: &Engine, run: u64) -> Workflow<(u64, u64)> {
    let name = format!("count-{}", run % COUNTERS);
    let count = Count::on(engine).get_or_create(name).await.unwrap();
    let mut who = 0;
    let mut layer: Vec<Workflow<u64>> = Vec::new();
    for (at, width) in LAYERS.into_iter().enumerate() {
        let pause = (at == 2).then(|| match run % 4 {
            0 => sleep(Duration::from_millis(20 * (run % 100))).after(&layer[0]),
            2 => keepstep::event::<()>("go on"),
            _ => Workflow::value(()),
        });
        layer = (0..width)
            .map(|_| {
                who += 1;
                // Every fourth run leaves its steps to whoever has a place.
                let step = match run % 4 {
                    3 => draw_anywhere(run, who, layer.clone()),
                    _ => draw(run, who, layer.clone()),
                };
                match &pause {
                    Some(pause) => step.after(pause),
                    None => step,
                }
            })
            .collect();
    }
    let last = layer.pop().unwrap();
    second(&last, count.one_more(&last).step())
}

/// Whether a run waits for an event.
pub(super) fn waits_for_event(run: u64) -> bool {
    run % 4 == 2
}

/// Every result that was used of a step is the same, and was drawn by it. `outputs` are those of the runs from 0 on.
pub(super) fn judge(book: &str, outputs: &[(u64, u64)]) {
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
    let runs = outputs.len() as u64;
    let mut counted: HashMap<u64, Vec<u64>> = HashMap::new();
    for (run, (output, count)) in (0..).zip(outputs) {
        used.insert((run, last), *output);
        counted.entry(run % COUNTERS).or_default().push(*count);
    }
    for (counter, mut counted) in counted {
        counted.sort_unstable();
        let calls = calls_of(counter, runs);
        assert_eq!(counted, (1..=calls).collect::<Vec<_>>());
    }
    let all = runs * last;
    assert_eq!(used.len() as u64, all);
    for (step, result) in &used {
        assert!(
            drawn[step].contains(result),
            "nobody drew the result of {step:?}"
        );
    }
    println!("{n} executions of {all} steps of {runs} runs");
}

/// How often so many runs call a counter.
pub(super) fn calls_of(counter: u64, runs: u64) -> u64 {
    (runs + COUNTERS - 1 - counter) / COUNTERS
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
