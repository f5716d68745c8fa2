//! Counts the words of all text files in a folder, on as many processes as are there: start it in three terminals, and kill any
//! of them.
//!
//! ```sh
//! export KEEPSTEP_URL=postgres://postgres@localhost/postgres
//! cargo run --features postgres --example cluster -- work          # as many as you like
//! cargo run --features postgres --example cluster -- submit FOLDER # starts the count, and waits for it
//! ```
//!
//! The steps that count are remote: any worker takes them, whoever owns the run. A worker that is killed is missed when its lease
//! ends, 5 seconds later, and others go on; what it had finished is not counted again. Killed and started again, `submit` attaches to
//! the count of the folder that it began.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepstep::prelude::*;
use walkdir::WalkDir;

/// Files to a step: one is worth its way to another process.
const FILES: usize = 8;

type Words = HashMap<String, u64>;

/// Lists the folder, and returns the rest of the work.
#[step(name = "cluster/folder")]
fn count_folder(folder: &Path) -> Result<Workflow<Vec<(String, u64)>>, walkdir::Error> {
    let mut files = Vec::new();
    let entries = WalkDir::new(folder).sort_by_file_name().into_iter();
    let is_hidden = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().as_encoded_bytes();
        entry.depth() > 0 && (name.starts_with(b".") || entry.path().join("CACHEDIR.TAG").exists())
    };
    for entry in entries.filter_entry(|entry| !is_hidden(entry)) {
        let entry = entry?;
        // Stored paths are text.
        if entry.file_type().is_file() && entry.path().to_str().is_some() {
            files.push(entry.into_path());
        }
    }
    Ok(most_frequent(
        files.chunks(FILES).map(count_files).collect::<Vec<_>>(),
    ))
}

/// Counts some files, at any worker.
#[step(name = "cluster/files", remote)]
fn count_files(files: Vec<PathBuf>) -> Words {
    let mut words = Words::new();
    for file in &files {
        // Slow enough to watch, and to be killed.
        std::thread::sleep(Duration::from_millis(20));
        let bytes = std::fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        for word in text.split(|c: char| !c.is_alphanumeric()) {
            *words.entry(word.to_owned()).or_default() += 1;
        }
    }
    words.remove("");
    println!(
        "process {} counted {} files",
        std::process::id(),
        files.len()
    );
    words
}

#[step(name = "cluster/most-frequent")]
fn most_frequent(parts: Vec<Words>) -> Vec<(String, u64)> {
    let mut sum = Words::new();
    for (word, n) in parts.into_iter().flatten() {
        *sum.entry(word).or_default() += n;
    }
    let mut words: Vec<_> = sum.into_iter().collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    words.truncate(10);
    words
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let url = std::env::var("KEEPSTEP_URL").unwrap_or("postgres://postgres@localhost".into());
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["work"] => {
            let builder = Engine::builder().max_concurrent_steps(2);
            let engine = builder.lease(Duration::from_secs(5)).open(url).await?;
            println!(
                "process {} works; Ctrl-C hands its work over",
                std::process::id()
            );
            drop(tokio::signal::ctrl_c().await);
            engine.shutdown().await
        }
        ["submit", folder] => {
            let engine = Engine::builder().worker(false).open(url).await?;
            // The same id again attaches to the run of that id.
            let run = format!("words of {folder}");
            for (word, n) in engine.run(run, count_folder(PathBuf::from(folder))).await? {
                println!("{n:>8} {word}");
            }
            engine.shutdown().await
        }
        _ => {
            println!("say `work`, or `submit` and a folder");
            Ok(())
        }
    }
}
