//! Steps that return workflows: what they return runs in their place, however deep it goes.

use keepstep::prelude::*;

#[step]
async fn fib(n: u64) -> Workflow<u64> {
    if n <= 1 {
        return Workflow::value(n);
    }
    add(fib(n - 1), fib(n - 2))
}

#[step]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

/// Ends in a call of another step: a loop. Each round replaces the one before, so nothing piles up.
#[step]
async fn count_down(n: u64, rounds: u64) -> Workflow<u64> {
    if n == 0 {
        return Workflow::value(rounds);
    }
    count_down(n - 1, rounds + 1)
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;

    assert_eq!(engine.run("fib_10", fib(10)).await?, 55);
    let steps = engine.metadata("fib_10").await?.progress;
    println!("fib(10) = 55: one step grew into {}", steps.total);

    assert_eq!(engine.run("loop", count_down(2_000, 0)).await?, 2_000);
    println!("a loop of 2000 rounds");

    engine.run("fib_3", fib(3)).await?;
    println!("\n{}", engine.graph("fib_3").await?.to_mermaid());
    engine.shutdown().await
}
