//! What both versions of a program do that are at work side by side.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use keepstep::prelude::*;

/// A workflow of a run's id.
type Make = fn(String) -> Workflow<String>;
/// What is done with an actor of an id.
type Use = fn(Engine, String, String) -> Done;
pub(crate) type Done = std::pin::Pin<Box<dyn Future<Output = keepstep::Result<()>>>>;

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
pub(crate) async fn drive(version: &str, order: Make, parcel: Make, stowed: Make, shelf: Use) {
    if let Err(error) = run(version, order, [parcel, stowed], shelf).await {
        println!("error: {error}");
    }
}

async fn run(
    version: &str,
    order: Make,
    [parcel, stowed]: [Make; 2],
    shelf: Use,
) -> keepstep::Result<()> {
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
        if let Some((what, of)) = command.split_once(" shelf ") {
            shelf(engine.clone(), format!("{of}-{n}"), what.to_owned()).await?;
            continue;
        }
        if let Some(of) = command.strip_prefix("send ") {
            let to = format!("parcel-{of}-{n}");
            engine.send_event(to, "go", "by road").await?;
            continue;
        }
        if let Some((what, kind)) = command.split_once(' ') {
            let (name, make) = match kind {
                "parcels" => ("parcel", parcel),
                _ => ("stow", stowed),
            };
            let id = format!("{name}-{version}-{n}");
            let handle = engine.start(&id, make(id.clone())).await?;
            if what == "await" {
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
