//! The floors: the least that has to be done for the same promise.

use std::fs::File;
use std::io::Write;
use std::path::Path;
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
    let start = Instant::now();
    for batch in batches {
        let committed = store.commit(batch).await?;
        assert!(
            committed
                .writes
                .iter()
                .all(|outcome| *outcome == WriteOutcome::Written)
        );
    }
    let elapsed = start.elapsed();
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
