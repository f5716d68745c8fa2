//! The first program: two steps, one run, its result kept in the directory `data`.
//!
//! Run it twice: the second time no step runs, because the result is stored.

use keepstep::prelude::*;

#[step]
async fn one() -> i64 {
    println!("`one` runs");
    1
}

#[step(retries = 3, timeout = "30s")]
async fn add(a: i64, b: i64) -> i64 {
    println!("`add` runs");
    a + b
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let engine = Engine::open("data").await?; // a directory: embedded sled
    let output: Workflow<i64> = add(100, one()); // arguments are values or workflows

    assert_eq!(engine.run("run_1", output.clone()).await?, 101);
    assert_eq!(engine.status("run_1").await?, Status::Successful);
    assert_eq!(engine.output::<i64>("run_1").await?, 101);

    keepstep::init(engine); // the process's default engine
    assert_eq!(output.run("run_1").await?, 101); // same id, same plan: the stored result
    println!("run_1 = 101");
    Ok(())
}
