//! A process that is killed while it puts objects: what it said was there is there, and what is left of the rest is swept.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use keepstep::Bytes;
use keepstep::prelude::*;
use keepstep::storage::Durability;

const STORE: &str = "KEEPSTEP_TEST_OBJECTS";
const SIZE: usize = 1 << 20;

fn content(run: u32, n: u8) -> Bytes {
    let mut bytes = vec![n; SIZE];
    bytes[..4].copy_from_slice(&run.to_le_bytes());
    bytes.into()
}

#[step]
async fn store(run: u32) -> keepstep::Result<Vec<ObjectRef<Bytes>>> {
    let whole = put(&content(run, 1)).await?;
    let streamed = keepstep::put_reader(&content(run, 2)[..]).await?;
    Ok(vec![whole, streamed])
}

/// What the process does that is killed: one run after the other, each said to be there once it is.
#[tokio::test]
#[ignore = "it is what `what_a_killed_process_put_is_there_or_is_swept` runs in another process"]
async fn process() {
    let Ok(url) = std::env::var(STORE) else {
        return;
    };
    let engine = Engine::open(url).await.unwrap();
    for run in 0.. {
        let id = run.to_string();
        engine.run(&id, store(run)).await.unwrap();
        println!("\ndone {run}");
    }
}

#[tokio::test]
async fn what_a_killed_process_put_is_there_or_is_swept() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().to_str().unwrap();
    let mut next = 0;
    for kill in 0..6u32 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "killed::process", "--nocapture"])
            .env(STORE, url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut done = None;
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        while done < Some(next) {
            let line = lines.next().unwrap().unwrap();
            let run = line.strip_prefix("done ");
            done = run.map_or(done, |run| run.parse().ok());
        }
        // Somewhere in the next run.
        for _ in 0..kill * 200 {
            std::thread::yield_now();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            let run = line.strip_prefix("done ").and_then(|run| run.parse().ok());
            done = done.max(run);
        }
        let done = done.unwrap();
        next = done + 1;

        let engine = Engine::open(url).await?;
        assert_eq!(engine.storage().durability, Durability::PowerLoss);
        engine.maintain().await?;
        let blobs = || {
            let blobs = std::fs::read_dir(dir.path().join("blobs")).unwrap();
            let files = blobs.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
            files.count() as u32
        };
        // The runs that are said to be done; one that was not may be there, resumable or even done.
        assert!(
            (2 * (done + 1)..=2 * (done + 2)).contains(&blobs()),
            "{}",
            blobs()
        );
        for run in 0..=done + 1 {
            let output = engine.run(run.to_string(), store(run)).await?;
            assert!(*output[0].get().await? == content(run, 1));
            assert!(*output[1].get().await? == content(run, 2));
        }
        engine.maintain().await?;
        assert_eq!(blobs(), 2 * (done + 2));
        engine.shutdown().await?;
    }
    Ok(())
}
