//! A process is killed in the middle of a run, and another one goes on with it: only the step that was executing runs again.
//!
//! This program starts itself as a child, twice, and kills the first one with `SIGKILL` while `train` is executing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keepstep::prelude::*;

#[step]
async fn download() -> Vec<f64> {
    println!("download");
    vec![2.0, 3.0, 5.0]
}

#[step]
async fn clean(data: &[f64]) -> Vec<f64> {
    println!("clean");
    data.iter().map(|x| x * 2.0).collect()
}

#[step]
async fn train(data: Vec<f64>) -> f64 {
    println!("train");
    tokio::time::sleep(Duration::from_secs(1)).await;
    data.iter().sum()
}

#[step]
async fn publish(model: f64) -> String {
    println!("publish");
    format!("model {model}")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1) {
        Some(data) => child(&data).await?,
        None => parent()?,
    }
    Ok(())
}

/// What a user would write: it does not know whether it is the first to run.
async fn child(data: &str) -> keepstep::Result<()> {
    let engine = Engine::open(data).await?;
    let model = engine
        .run("model", publish(train(clean(download()))))
        .await?;
    println!("{model}");
    engine.shutdown().await
}

fn parent() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let first = lines_of_child(data.path(), Some("train"))?;
    println!("the first process was killed; it ran {}", first.join(", "));
    let second = lines_of_child(data.path(), None)?;
    println!("the second one ran {}", second.join(", "));

    assert_eq!(first, ["download", "clean", "train"]);
    assert_eq!(second, ["train", "publish", "model 20"]);
    Ok(())
}

/// What the child printed, until it ended or was killed because it printed `kill_at`.
fn lines_of_child(data: &Path, kill_at: Option<&str>) -> anyhow::Result<Vec<String>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = Vec::new();
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        lines.push(line?);
        if lines.last().map(String::as_str) == kill_at {
            child.kill()?;
        }
    }
    child.wait()?;
    Ok(lines)
}
