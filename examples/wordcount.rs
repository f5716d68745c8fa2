//! Counts the words of all text files in a folder: one step a file, a tree of merges, a report.
//!
//! ```text
//! cargo run --release --example wordcount [FOLDER] [--data DIR] [--slow MS] [--fresh]
//! ```
//!
//! Kill it half-way (Ctrl-C, `kill -9`, a power cut) and start it again with the same command: it goes on where it was. Without a
//! folder it counts the sources of keepstep. `--data` is the directory of the store, `.keepstep` if it is left out; `--slow`
//! makes each file take so many milliseconds, to leave time for the kill; `--fresh` forgets an earlier run first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use keepstep::prelude::*;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

/// Files to an expansion: the listing returns a step for each so many, and each of those a step a file.
const CHUNK: usize = 256;
/// Results to a merge: no step gets ten thousand maps at once.
const FAN_IN: usize = 16;

/// What was found in some files.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counts {
    files: u64,
    /// Files that are not text, or could not be read.
    skipped: u64,
    bytes: u64,
    words: HashMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    files: u64,
    skipped: u64,
    bytes: u64,
    words: u64,
    distinct: u64,
    top: Vec<(String, u64)>,
}

/// What this process brings along. Resources are not part of a run: the next process may bring others.
#[derive(Debug, Default)]
struct Worker {
    slow: Duration,
    executed: AtomicU64,
}

impl Worker {
    fn executes(&self) {
        self.executed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lists the folder and returns the rest of the work: the size of a workflow may depend on what its steps find.
#[step(name = "wordcount/folder")]
fn count_folder(
    folder: &Path,
    #[resource] worker: &Arc<Worker>,
) -> anyhow::Result<Workflow<Report>> {
    worker.executes();
    let mut files = Vec::new();
    let mut nameless = 0;
    let entries = WalkDir::new(folder).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || !is_left_out(entry)) {
        match entry {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) if entry.path().to_str().is_some() => files.push(entry.into_path()),
            // Stored paths are text.
            Ok(_) => nameless += 1,
            Err(error) if error.depth() == 0 => return Err(error.into()),
            Err(_) => nameless += 1,
        }
    }
    let mut parts: Vec<_> = files.chunks(CHUNK).map(count_files).collect();
    parts.push(Workflow::value(Counts {
        skipped: nameless,
        ..Counts::default()
    }));
    Ok(report(merged(parts)))
}

/// Hidden files and folders, and folders that say of themselves that they are caches, such as `target`.
fn is_left_out(entry: &walkdir::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
        || entry.path().join("CACHEDIR.TAG").exists()
}

#[step(name = "wordcount/files")]
async fn count_files(files: Vec<PathBuf>, #[resource] worker: &Arc<Worker>) -> Workflow<Counts> {
    worker.executes();
    merged(files.into_iter().map(count_file).collect())
}

/// Counts one file. A plain function may block. What cannot be read is no failure of the job: it is counted as skipped.
#[step(name = "wordcount/file")]
fn count_file(path: &Path, #[resource] worker: &Arc<Worker>) -> Counts {
    worker.executes();
    std::thread::sleep(worker.slow);
    let mut counts = Counts::default();
    match std::fs::read(path) {
        Ok(bytes) if !bytes.contains(&0) => {
            counts.files = 1;
            counts.bytes = bytes.len() as u64;
            // Bytes that are not UTF-8 stand between words.
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            for word in text
                .split(|c: char| !c.is_alphanumeric())
                .filter(|word| !word.is_empty())
            {
                match counts.words.get_mut(word) {
                    Some(n) => *n += 1,
                    None => drop(counts.words.insert(word.to_owned(), 1)),
                }
            }
        }
        _ => counts.skipped = 1,
    }
    counts
}

/// A tree of merges over these parts.
fn merged(mut parts: Vec<Workflow<Counts>>) -> Workflow<Counts> {
    while parts.len() > 1 {
        parts = parts
            .chunks(FAN_IN)
            .map(|some| merge(some.to_vec()))
            .collect();
    }
    parts
        .pop()
        .unwrap_or_else(|| Workflow::value(Counts::default()))
}

#[step(name = "wordcount/merge")]
fn merge(parts: Vec<Counts>, #[resource] worker: &Arc<Worker>) -> Counts {
    worker.executes();
    let mut sum = Counts::default();
    for part in parts {
        sum.files += part.files;
        sum.skipped += part.skipped;
        sum.bytes += part.bytes;
        for (word, n) in part.words {
            *sum.words.entry(word).or_default() += n;
        }
    }
    sum
}

#[step(name = "wordcount/report")]
fn report(counts: Counts, #[resource] worker: &Arc<Worker>) -> Report {
    worker.executes();
    let (words, distinct) = (counts.words.values().sum(), counts.words.len() as u64);
    let mut top: Vec<_> = counts.words.into_iter().collect();
    top.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    top.truncate(15);
    Report {
        files: counts.files,
        skipped: counts.skipped,
        bytes: counts.bytes,
        words,
        distinct,
        top,
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::read()?;
    let folder = std::fs::canonicalize(&options.folder)
        .with_context(|| format!("cannot read the folder {}", options.folder))?;
    let folder = folder
        .to_str()
        .context("the folder's name is not Unicode")?;
    let id = run_id(folder);
    let worker = Arc::new(Worker {
        slow: options.slow,
        ..Worker::default()
    });
    let engine = Engine::builder()
        .resource(Arc::clone(&worker))
        .max_concurrent_steps(4 * std::thread::available_parallelism()?.get())
        .open(&options.data)
        .await?;

    if options.fresh {
        match engine.delete(&id).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let before = match engine.metadata(&id).await {
        Ok(metadata) => Some(metadata),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    match &before {
        None => println!("Counting words in {folder}"),
        Some(before) if before.status == Status::Successful => println!(
            "{folder} was counted before, and the result was kept; --fresh counts it again"
        ),
        Some(before) => println!(
            "Going on with {folder}: {} steps are done and do not run again",
            before.progress.done
        ),
    }

    let started = Instant::now();
    let handle = if before.is_some_and(|before| before.status == Status::Failed) {
        engine.resume(&id).await?
    } else {
        engine.start(&id, count_folder(folder)).await?
    };
    let bar = tokio::spawn(show_progress(handle.clone()));
    let report = handle.await?;
    bar.await?;

    let executed = worker.executed.load(Ordering::Relaxed);
    let total = engine.metadata(&id).await?.progress.total;
    println!(
        "Ran {executed} of {total} steps in {:.1?}; {} did not have to run again",
        started.elapsed(),
        total.saturating_sub(executed)
    );
    print_report(&report);
    engine.shutdown().await?;
    Ok(())
}

async fn show_progress(handle: Handle<Report>) {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} steps, {msg} {eta}");
    let bar =
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut progress = handle.progress();
    while let Some(now) = progress.next().await {
        bar.set_length(now.total);
        bar.set_position(now.done);
        bar.set_message(format!("{} running", now.running));
    }
    bar.finish_and_clear();
}

fn print_report(report: &Report) {
    for (word, n) in &report.top {
        println!("{n:>10}  {word}");
    }
    println!(
        "{} words, {} of them distinct, in {} files of {} bytes; {} files were skipped",
        report.words, report.distinct, report.files, report.bytes, report.skipped
    );
}

/// The same folder, the same run. An id has at most 255 bytes, so of a long path only the end is taken.
fn run_id(folder: &str) -> String {
    let mut start = folder.len().saturating_sub(200);
    while !folder.is_char_boundary(start) {
        start += 1;
    }
    format!(
        "wordcount {}",
        folder[start..].replace(char::is_control, "?")
    )
}

struct Options {
    folder: String,
    data: String,
    slow: Duration,
    fresh: bool,
}

impl Options {
    fn read() -> anyhow::Result<Self> {
        let mut options = Self {
            folder: env!("CARGO_MANIFEST_DIR").to_owned(),
            data: ".keepstep".to_owned(),
            slow: Duration::ZERO,
            fresh: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match &*arg {
                "--data" => options.data = args.next().context("--data needs a directory")?,
                "--slow" => {
                    let ms = args
                        .next()
                        .context("--slow needs a number of milliseconds")?;
                    options.slow = Duration::from_millis(ms.parse().context("--slow")?);
                }
                "--fresh" => options.fresh = true,
                "--help" | "-h" => {
                    println!("wordcount [FOLDER] [--data DIR] [--slow MS] [--fresh]");
                    std::process::exit(0);
                }
                option if option.starts_with('-') => anyhow::bail!("there is no option {option}"),
                _ => options.folder = arg,
            }
        }
        Ok(options)
    }
}
