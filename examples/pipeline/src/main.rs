//! Sales by country, segment and month, from Parquet files: loaded and split in parallel, joined, and reported.
//!
//! ```text
//! cargo run --release --manifest-path examples/pipeline/Cargo.toml -- [FOLDER] [--data DIR] [--mb N] [--slow MS] [--fresh]
//! ```
//!
//! FOLDER has `orders-*.parquet` and `customers-*.parquet`; without one, about N megabytes of orders (300 if it is left out) are
//! made first. Kill it half-way and start it again with the same command: what is done stays done. `--data` is the directory of
//! the store, `.keepstep-pipeline` if it is left out; `--slow` makes each step take so many milliseconds more, to leave time
//! for the kill; `--fresh` forgets an earlier run first.
//!
//! Tables pass between the steps by reference: a step's checkpoint has only their addresses, and the next step reads them
//! from a memory map, without a copy.

mod make;
mod options;
mod steps;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use keepstep::prelude::*;

use crate::options::Options;
use crate::steps::{Report, Worker};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::read()?;
    let worker = Arc::new(Worker::new(options.slow));
    let engine = Engine::builder()
        .resource(Arc::clone(&worker))
        .open(&options.data)
        .await?;

    let (id, workflow) = match &options.folder {
        Some(folder) => {
            let folder = std::fs::canonicalize(folder)
                .with_context(|| format!("cannot read the folder {folder}"))?;
            let folder = folder
                .to_str()
                .context("the folder's name is not Unicode")?;
            ("of a folder".to_owned(), steps::sales_in(folder))
        }
        None => (
            format!("of {} MB made here", options.megabytes),
            steps::made_sales(&options.data, options.megabytes),
        ),
    };
    let id = format!("sales {id}");
    if options.fresh {
        match engine.delete(&id).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let started = Instant::now();
    let handle = match engine.metadata(&id).await {
        Ok(before) => {
            let done = before.progress.done;
            println!("Going on: {done} steps are done and do not run again");
            engine.resume(&id).await?
        }
        Err(Error::NotFound { .. }) => {
            println!("Starting");
            engine.start(&id, workflow).await?
        }
        Err(error) => return Err(error.into()),
    };
    let report = handle.await?;
    println!(
        "Ran {} steps in {:.1?}",
        worker.executed(),
        started.elapsed()
    );
    print_report(&report);
    engine.shutdown().await?;
    Ok(())
}

fn print_report(report: &Report) {
    println!(
        "{:<12} {:<12} {:>9} {:>16}",
        "country", "segment", "orders", "revenue"
    );
    for (group, sum) in &report.top {
        println!(
            "{:<12} {:<12} {:>9} {:>16}",
            group.country,
            group.segment,
            sum.orders,
            euros(sum.cents)
        );
    }
    println!(
        "{} orders of {} groups, {} in all; best in month {}; {} orders of unknown customers",
        report.all.orders,
        report.groups,
        euros(report.all.cents),
        report.best_month,
        report.unknown
    );
}

fn euros(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
