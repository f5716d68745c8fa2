//! Several workers on one PostgreSQL database: started in one terminal each, they share the runs, and killed, they are missed by
//! nobody for longer than their lease.
//!
//! ```sh
//! export KEEPSTEP_URL=postgres://postgres@localhost/postgres
//! cargo run --features postgres --example cluster -- work      # as many as you like
//! cargo run --features postgres --example cluster -- submit 20 # starts runs, and waits for them
//! ```

use std::time::Duration;

use keepstep::prelude::*;

#[step]
async fn measure(city: String, hour: u32) -> f64 {
    tokio::time::sleep(Duration::from_millis(200)).await;
    println!("process {}: {city} at {hour}", std::process::id());
    10.0 + f64::from(hour) / 2.0
}

#[step]
async fn mean(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let url = std::env::var("KEEPSTEP_URL").unwrap_or("postgres://postgres@localhost".into());
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["work"] => {
            let builder = Engine::builder().max_running_runs(4);
            let engine = builder.lease(Duration::from_secs(5)).open(url).await?;
            println!(
                "process {} works; Ctrl-C hands its runs over",
                std::process::id()
            );
            drop(tokio::signal::ctrl_c().await);
            engine.shutdown().await
        }
        ["submit", n] => {
            let engine = Engine::builder().worker(false).open(url).await?;
            let mut runs = Vec::new();
            for n in 0..n.parse().unwrap_or(1) {
                let city = format!("city {n}");
                let values: Vec<_> = (0..24).step_by(6).map(|h| measure(&city, h)).collect();
                // The same id again attaches to the run of that id.
                runs.push(engine.start(format!("weather/{n}"), mean(values)).await?);
            }
            for run in runs {
                let id = run.id().to_owned();
                let value = run.await?;
                assert_eq!(value, 14.5);
                println!("{id} = {value}");
            }
            engine.shutdown().await
        }
        _ => {
            println!("say `work`, or `submit` and how many");
            Ok(())
        }
    }
}
