//! Appends to journals and truncates them for as long as asked, and prints what the store takes on disk: it must
//! stay bounded however long that goes on.
//!
//! `cargo run --release -p keepstep-storage --example disk_use -- sled:/tmp/churn 300000 1 300`: so many commits, of so
//! many runs each, with entries of so many bytes.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keepstep_storage::{
    Batch, Build, Epoch, Expect, NodeId, Position, Result, RunId, RunKind, RunRecord, RunWrite,
    StepCounts, StoredStatus, Timestamp, WriteOutcome, open,
};

fn record(entries: u64) -> RunRecord {
    RunRecord {
        kind: RunKind::Workflow,
        status: StoredStatus::Running,
        owner: Some(NodeId(1)),
        epoch: Epoch::FIRST,
        incarnation: 1,
        workflow: "churn".to_owned(),
        plan_hash: [0; 32],
        created_at: Timestamp(1),
        started_at: Some(Timestamp(2)),
        ended_at: None,
        wake_at: None,
        first_entry: Position(entries.saturating_sub(2)),
        next_entry: Position(entries),
        journal_bytes: 0,
        steps: StepCounts::default(),
        parent: None,
        build: Build::default(),
        n_orphaned: 0,
    }
}

/// Bytes that do not compress, other ones each time.
fn entry(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

fn disk(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        // Removed since it was listed.
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(file) if file.is_file() => file.len(),
            _ => disk(&entry.path()),
        })
        .sum()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "sled:churn".to_owned());
    let mut number = |default| args.next().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (commits, runs, bytes) = (number(300_000), number(1), number(300));
    let path = Path::new(url.split_once(':').map_or(&*url, |(_, path)| path));

    let store = open(&url).await?;
    let begun = Instant::now();
    let (mut peak, mut longest) = (0, Duration::ZERO);
    for n in 0..commits as u64 {
        let write = |run: usize| RunWrite {
            run: RunId::new(format!("run {run}")).expect("a good id"),
            expect: match n {
                0 => Expect::New,
                _ => Expect::Epoch(Epoch::FIRST),
            },
            record: record(n + 1),
            entry: Some(entry(bytes, n * runs as u64 + run as u64)),
            truncate: true,
            values: Vec::new(),
            blobs: Vec::new(),
            consumed: Vec::new(),
            only_with: None,
        };
        let batch = Batch {
            writes: (0..runs).map(write).collect(),
            ..Batch::default()
        };
        let at = Instant::now();
        let done = store.commit(batch).await?;
        longest = longest.max(at.elapsed());
        assert!(done.writes.iter().all(|w| *w == WriteOutcome::Written));
        if n % 256 == 0 {
            peak = peak.max(disk(path));
        }
        if (n + 1) % (commits as u64 / 10).max(1) == 0 {
            println!(
                "{} commits: {:.1} MB on disk, at most {:.1}; {:.0} commits/s, the longest {longest:.1?}",
                n + 1,
                disk(path) as f64 / 1e6,
                peak as f64 / 1e6,
                (n + 1) as f64 / begun.elapsed().as_secs_f64(),
            );
        }
    }
    store.close().await
}
