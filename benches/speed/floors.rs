//! The floors: the least that has to be done for the same promise.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use keepstep::storage::fault::Mutation;
use keepstep::storage::{Batch, WriteOutcome};

/// The batches of a log.
fn batches(log: &[Mutation]) -> Vec<Batch> {
    let batch = |mutation: &Mutation| match mutation {
        Mutation::Commit(batch, _) => Some(batch.clone()),
        _ => None,
    };
    log.iter().filter_map(batch).collect()
}

async fn commit_all(url: &str, batches: Vec<Batch>) -> anyhow::Result<Duration> {
    let store = keepstep::storage::open(url).await?;
    let writer = std::sync::Arc::clone(&store);
    // All on one thread: nothing has to be woken for a commit.
    let elapsed = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        for batch in batches {
            let Ok(committed) = writer.commit_blocking(batch) else {
                anyhow::bail!("the store cannot commit on the calling thread");
            };
            let is_written = |outcome: &WriteOutcome| *outcome == WriteOutcome::Written;
            assert!(committed?.writes.iter().all(is_written));
        }
        Ok(start.elapsed())
    });
    let elapsed = elapsed.await??;
    store.close().await?;
    Ok(elapsed)
}

/// The store alone: the same batches, one after the other.
pub(super) async fn commits_one_by_one(url: &str, log: &[Mutation]) -> anyhow::Result<Duration> {
    commit_all(url, batches(log)).await
}

/// The store alone: the same writes, in batches of a thousand.
pub(super) async fn commits_batched(url: &str, log: &[Mutation]) -> anyhow::Result<Duration> {
    let mut batched: Vec<Batch> = Vec::new();
    let mut last = std::collections::HashSet::new();
    for write in batches(log).into_iter().flat_map(|batch| batch.writes) {
        // A batch has one write a run.
        let is_full = batched
            .last()
            .is_none_or(|batch| batch.writes.len() == 1_000);
        if is_full || !last.insert(write.run.clone()) {
            batched.push(Batch::default());
            last.clear();
            last.insert(write.run.clone());
        }
        if let Some(batch) = batched.last_mut() {
            batch.writes.push(write);
        }
    }
    commit_all(url, batched).await
}

/// A raw file: each entry of the log appended and synced.
pub(super) fn appends_one_by_one(path: &Path, log: &[Mutation]) -> anyhow::Result<Duration> {
    let writes = batches(log).into_iter().flat_map(|batch| batch.writes);
    appends(path, writes.filter_map(|write| write.entry).collect())
}

/// A raw file: each value of the log appended and synced.
pub(super) fn values_one_by_one(path: &Path, log: &[Mutation]) -> anyhow::Result<Duration> {
    let writes = batches(log).into_iter().flat_map(|batch| batch.writes);
    let values = writes.flat_map(|write| write.values);
    appends(path, values.filter_map(|(_, value)| value).collect())
}

fn appends(path: &Path, entries: Vec<bytes::Bytes>) -> anyhow::Result<Duration> {
    std::fs::create_dir_all(path)?;
    let mut file = File::create(path.join("log"))?;
    let start = Instant::now();
    for entry in entries {
        file.write_all(&entry)?;
        file.sync_data()?;
    }
    Ok(start.elapsed())
}

/// A tokio task a step; their results go through a channel to one writer, which appends what has gathered and syncs it.
pub(super) async fn tasks_group_committed(path: &Path, width: u64) -> anyhow::Result<Duration> {
    std::fs::create_dir_all(path)?;
    let mut file = File::create(path.join("log"))?;
    let start = Instant::now();
    let (results, mut gathered) = tokio::sync::mpsc::unbounded_channel::<(u64, u64)>();
    let writer = tokio::task::spawn_blocking(move || {
        let (mut batch, mut bytes, mut sum) = (Vec::new(), Vec::new(), 0u64);
        while let Some(first) = gathered.blocking_recv() {
            batch.push(first);
            while let Ok(next) = gathered.try_recv() {
                batch.push(next);
            }
            bytes.clear();
            for (index, result) in batch.drain(..) {
                bytes.extend_from_slice(&index.to_le_bytes());
                bytes.extend_from_slice(&result.to_le_bytes());
                sum += result;
            }
            file.write_all(&bytes)?;
            file.sync_data()?;
        }
        Ok::<_, std::io::Error>(sum)
    });
    for index in 0..width {
        let results = results.clone();
        tokio::spawn(async move { assert!(results.send((index, index * index)).is_ok()) });
    }
    drop(results);
    assert_eq!(writer.await??, (0..width).map(|n| n * n).sum::<u64>());
    Ok(start.elapsed())
}

/// What a step of [`fib_group_committed`] hands to the writer: a record of its length, and who waits for it to be durable.
type Record = (usize, tokio::sync::oneshot::Sender<()>);

/// `fib` as tasks: a call is a task, and so is an addition. What each comes to is appended to a file and synced, with what else
/// has gathered, before anything that depends on it begins.
pub(super) async fn fib_group_committed(path: &Path, n: u64) -> anyhow::Result<Duration> {
    std::fs::create_dir_all(path)?;
    let mut file = File::create(path.join("log"))?;
    let start = Instant::now();
    let (records, mut gathered) = tokio::sync::mpsc::unbounded_channel::<Record>();
    let writer = tokio::task::spawn_blocking(move || {
        let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
        while let Some(first) = gathered.blocking_recv() {
            bytes.clear();
            let mut next = Some(first);
            while let Some((len, durable)) = next {
                bytes.resize(bytes.len() + len, 1);
                waiting.push(durable);
                next = gathered.try_recv().ok();
            }
            file.write_all(&bytes)?;
            file.sync_data()?;
            for durable in waiting.drain(..) {
                // Who waited may have been dropped with its runtime.
                let _ = durable.send(());
            }
        }
        Ok::<_, std::io::Error>(())
    });
    let output = tokio::spawn(fib_task(records, n)).await??;
    let elapsed = start.elapsed();
    writer.await??;
    assert_eq!(output, super::work::fibonacci(n));
    Ok(elapsed)
}

fn fib_task(
    records: tokio::sync::mpsc::UnboundedSender<Record>,
    n: u64,
) -> Pin<Box<dyn Future<Output = anyhow::Result<u64>> + Send>> {
    /// An expansion names a step, its literals and its edges; a result is a number.
    const EXPANSION_BYTES: usize = 48;
    const RESULT_BYTES: usize = 16;
    Box::pin(async move {
        let durable = |len| {
            let (durable, is_durable) = tokio::sync::oneshot::channel();
            assert!(records.send((len, durable)).is_ok());
            is_durable
        };
        if n <= 1 {
            durable(RESULT_BYTES).await?;
            return Ok(n);
        }
        durable(EXPANSION_BYTES).await?;
        let a = tokio::spawn(fib_task(records.clone(), n - 1));
        let b = tokio::spawn(fib_task(records.clone(), n - 2));
        let (a, b) = (a.await??, b.await??);
        let sum = tokio::spawn(async move { a + b }).await?;
        durable(RESULT_BYTES).await?;
        Ok(sum)
    })
}
