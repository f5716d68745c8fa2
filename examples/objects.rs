//! A large table, stored once and read by many steps, and words that are still being made when their step returns.
//!
//! `cargo run --example objects`

use keepstep::prelude::*;

#[step]
async fn load(rows: u32) -> keepstep::Result<ObjectRef<Vec<f64>>> {
    put(&(0..rows).map(f64::from).collect()).await
}

/// All ten of these share one table in memory.
#[step]
async fn sum_of(table: ObjectRef<Vec<f64>>, part: usize) -> keepstep::Result<f64> {
    let table = table.get().await?;
    let len = table.len() / 10;
    Ok(table[part * len..(part + 1) * len].iter().sum())
}

#[step]
async fn total(sums: Vec<f64>) -> f64 {
    sums.iter().sum()
}

#[step]
async fn words() -> keepstep::Result<Vec<ObjectRef<String>>> {
    Ok(vec![
        ObjectRef::spawn(async { "hello".to_string() }),
        put(&"world".to_string()).await?,
    ])
}

#[step]
async fn joined(words: Vec<ObjectRef<String>>) -> keepstep::Result<String> {
    let mut joined = Vec::new();
    for word in &words {
        joined.push(word.get().await?.to_string());
    }
    Ok(joined.join(" "))
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;

    let table = load(1_000_000);
    let sums: Vec<_> = (0..10).map(|part| sum_of(&table, part)).collect();
    assert_eq!(engine.run("sum", total(sums)).await?, 499_999_500_000.0);

    assert_eq!(
        engine.run("greeting", joined(words())).await?,
        "hello world"
    );

    engine.shutdown().await
}
