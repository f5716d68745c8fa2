//! Objects: one that many steps read, many that are small, and one that is larger than what memory is to be used for.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use keepstep::Bytes;
use keepstep::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::table::{Place, Row, print_figure};

const READERS: u64 = 10;

#[step]
async fn first_and_last(object: ObjectRef<Bytes>) -> keepstep::Result<u64> {
    let bytes = object.get().await?;
    Ok(u64::from(bytes[0]) + u64::from(bytes[bytes.len() - 1]))
}

#[step]
async fn sum(of: Vec<u64>) -> u64 {
    of.iter().sum()
}

/// One object to ten steps, beside one synced write of a file and one read of it.
pub(super) async fn readers_row(place: &mut Place, bytes: usize) -> anyhow::Result<()> {
    let mut pairs = Vec::new();
    for round in 0..place.rounds {
        let content = Bytes::from(vec![u8::try_from(round % 100)? + 1; bytes]);
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let start = Instant::now();
        let object = engine.put(&content).await?;
        let readers: Vec<_> = (0..READERS).map(|_| first_and_last(&object)).collect();
        let output = engine.run("read", sum(readers)).await?;
        let ours = start.elapsed();
        assert_eq!(output, READERS * 2 * u64::from(content[0]));
        // No copy for any reader.
        let (one, other) = (object.get().await?, object.get().await?);
        assert_eq!(one.as_ptr(), other.as_ptr());
        engine.shutdown().await?;
        pairs.push((ours, write_and_read(&place.fresh(), &content)?));
    }
    let row = Row {
        work: "objects: one to 10 steps, MB",
        floor: "synced write + one read of a file",
        at_least: "0.8",
        units: bytes as u64 / 1_000_000,
        pairs,
    };
    row.print();
    Ok(())
}

fn write_and_read(path: &Path, content: &[u8]) -> anyhow::Result<Duration> {
    std::fs::create_dir_all(path)?;
    let start = Instant::now();
    let mut file = File::create(path.join("file"))?;
    file.write_all(content)?;
    file.sync_data()?;
    let mut read = Vec::with_capacity(content.len());
    File::open(path.join("file"))?.read_to_end(&mut read)?;
    assert!(read.len() == content.len());
    Ok(start.elapsed())
}

#[step]
async fn store_many(n: u64, bytes: u64) -> anyhow::Result<Vec<ObjectRef<Bytes>>> {
    let mut objects = Vec::new();
    for n in 0..n {
        objects.push(put(&distinct(n, bytes)).await?);
    }
    Ok(objects)
}

fn distinct(n: u64, bytes: u64) -> Bytes {
    let mut content = vec![7; bytes as usize];
    content[..8].copy_from_slice(&n.to_le_bytes());
    content.into()
}

#[step]
async fn count_many(objects: Vec<ObjectRef<Bytes>>) -> keepstep::Result<u64> {
    let mut bytes = 0;
    for object in &objects {
        bytes += object.get().await?.len() as u64;
    }
    Ok(bytes)
}

/// Many objects that one step puts one after the other and another reads, beside the same files.
pub(super) async fn many_row(place: &mut Place, n: u64) -> anyhow::Result<()> {
    const BYTES: u64 = 1 << 20;
    let mut pairs = Vec::new();
    for _ in 0..place.rounds.min(3) {
        let path = place.fresh();
        let engine = Engine::open(place.url(&path)).await?;
        let start = Instant::now();
        let output = engine.run("many", count_many(store_many(n, BYTES))).await?;
        let ours = start.elapsed();
        assert_eq!(output, n * BYTES);
        engine.shutdown().await?;
        drop(std::fs::remove_dir_all(path));
        let path = place.fresh();
        std::fs::create_dir_all(&path)?;
        let start = Instant::now();
        for n in 0..n {
            let mut file = File::create(path.join(n.to_string()))?;
            file.write_all(&distinct(n, BYTES))?;
            file.sync_data()?;
        }
        for n in 0..n {
            std::hint::black_box(std::fs::read(path.join(n.to_string()))?);
        }
        pairs.push((ours, start.elapsed()));
        drop(std::fs::remove_dir_all(path));
    }
    let row = Row {
        work: "objects: of 1 MiB, one by one",
        floor: "a synced file each, and one read",
        at_least: "",
        units: n,
        pairs,
    };
    row.print();
    Ok(())
}

/// Nothing but zeros, and different from the object of another length.
fn zeros(bytes: u64) -> impl AsyncRead + Send + Unpin {
    tokio::io::repeat(0).take(bytes)
}

#[step]
async fn count_streamed(object: ObjectRef<Bytes>) -> anyhow::Result<u64> {
    let mut reader = object.reader().await?;
    let mut piece = vec![0; 1 << 20];
    let mut n = 0;
    loop {
        match reader.read(&mut piece).await? {
            0 => return Ok(n),
            read => n += read as u64,
        }
    }
}

/// An object that streams in and out, after a restart in between, and how much memory that takes.
pub(super) async fn stream_rows(place: &mut Place, bytes: u64) -> anyhow::Result<()> {
    let work = format!("objects: {} MB as a stream", bytes / 1_000_000);
    let path = place.fresh();
    let url = place.url(&path);
    let before = resident()?;
    let engine = Engine::open(&url).await?;
    let start = Instant::now();
    let object = engine.put_reader(zeros(bytes)).await?;
    let into = start.elapsed();
    engine.run("kept", Workflow::value(object)).await?;
    engine.shutdown().await?;
    let engine = Engine::open(&url).await?;
    let object: ObjectRef<Bytes> = engine.output("kept").await?;
    let start = Instant::now();
    assert_eq!(engine.run("read", count_streamed(object)).await?, bytes);
    let out = start.elapsed();
    engine.shutdown().await?;
    let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
    let peak = peak()?.saturating_sub(before);
    print_figure(&work, "in, MB/s", &format!("{:.0}", rate(into)), "");
    print_figure(
        &work,
        "out, checked, MB/s",
        &format!("{:.0}", rate(out)),
        "",
    );
    let peak = format!("{:.0}", peak as f64 / 1e6);
    print_figure(
        &work,
        "peak memory, MB",
        &peak,
        "does not grow with the object",
    );
    Ok(())
}

/// How much memory this process has.
fn resident() -> anyhow::Result<u64> {
    // From here on the peak counts.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
    in_status("VmRSS:")
}

fn peak() -> anyhow::Result<u64> {
    in_status("VmHWM:")
}

fn in_status(name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.unwrap_or("0").parse::<u64>()? * 1024)
}
