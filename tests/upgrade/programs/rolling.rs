//! What both versions of a program do that are at work side by side.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use keepstep::prelude::*;

/// A workflow of a run's id.
type Make = fn(String) -> Workflow<String>;

/// Takes its time, and writes down that it was done.
pub(crate) async fn work(step: &str, order: &str) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    let path = std::env::var("ROLLING_BOOK").unwrap_or_default();
    let book = OpenOptions::new().append(true).create(true).open(path);
    if let Ok(mut book) = book {
        drop(book.write_all(format!("{step} {order}\n").as_bytes()));
    }
}

#[tokio::main]
pub(crate) async fn drive(version: &str, order: Make, parcel: Make) {
    if let Err(error) = run(version, order, parcel).await {
        println!("error: {error}");
    }
}

async fn run(version: &str, order: Make, parcel: Make) -> keepstep::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [command, url, n] = &args[..] else {
        panic!("{args:?}")
    };
    let is_worker = command == "work";
    let builder = Engine::builder().build_id(version).worker(is_worker);
    let lease = Duration::from_secs(3);
    let engine = builder.max_running_runs(8).lease(lease).open(url).await?;
    if is_worker {
        println!("works");
        // Until it is told to end, or is killed.
        drop(tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await);
        return engine.shutdown().await;
    }
    for n in 0..n.parse().unwrap_or(0) {
        if let Some(of) = command.strip_prefix("send ") {
            let to = format!("parcel-{of}-{n}");
            engine.send_event(to, "go", "by road").await?;
            continue;
        }
        if command.ends_with("parcels") {
            let id = format!("parcel-{version}-{n}");
            let handle = engine.start(&id, parcel(id.clone())).await?;
            if command == "await parcels" {
                match handle.await {
                    Ok(delivered) => println!("{delivered}"),
                    Err(error) => println!("{error}"),
                }
            }
            continue;
        }
        let id = format!("{version}-{n}");
        let handle = engine.start(&id, order(id.clone())).await?;
        if command == "await" {
            println!("{}", handle.await?);
        }
    }
    engine.shutdown().await
}
