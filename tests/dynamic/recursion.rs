//! Steps that return workflows, of themselves too.

use keepstep::prelude::*;

use crate::common::{Lab, grow, join, leaf};

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

#[step]
async fn factorial(n: u64) -> Result<Workflow<u64>, std::fmt::Error> {
    Ok(match n {
        0 => Workflow::value(1),
        n => multiply(n, factorial(n - 1)),
    })
}

#[step]
async fn multiply(a: u64, b: u64) -> u64 {
    a * b
}

#[step]
fn collatz(n: u64, steps: u64) -> Workflow<u64> {
    match n {
        1 => Workflow::value(steps),
        n if n % 2 == 0 => collatz(n / 2, steps + 1),
        n => collatz(add(multiply(n, 3), 1), steps + 1),
    }
}

#[step]
async fn is_even(n: u64) -> Workflow<bool> {
    match n {
        0 => Workflow::value(true),
        n => is_odd(n - 1),
    }
}

#[step]
async fn is_odd(n: u64) -> Workflow<bool> {
    match n {
        0 => Workflow::value(false),
        n => is_even(n - 1),
    }
}

#[tokio::test]
async fn recursion_gives_what_it_does_without_us() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    assert_eq!(engine.run("fib 13", fib(13)).await?, 233);
    assert_eq!(
        engine.run("factorial 20", factorial(20)).await?,
        2_432_902_008_176_640_000
    );
    assert_eq!(engine.run("collatz 27", collatz(27, 0)).await?, 111);
    assert!(!engine.run("even 51", is_even(51)).await?);
    // A fib of n calls itself 2 fib(n + 1) - 1 times, and adds for all but the leaves.
    let progress = engine.metadata("fib 13").await?.progress;
    let (calls, adds) = (2 * 377 - 1, 377 - 1);
    assert_eq!(
        (progress.total, progress.done),
        (calls + adds, calls + adds)
    );
    engine.shutdown().await
}

#[tokio::test]
async fn expansions_are_arguments_like_any() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let deep = grow(
        "g1",
        grow("g2", join("x", [grow("g3", leaf("a")), leaf("b")])),
    );
    let tree = join("root", [deep.clone(), leaf("c")]);
    assert_eq!(engine.run("run", tree.build()).await?, 5);
    let expected = ["a", "b", "c", "g1", "g2", "g3", "root", "x"];
    assert_eq!(lab.world.sorted_log(), expected);
    // One that is used twice expands once.
    let twice = deep.build();
    let pair = crate::common::act("pair", vec![twice.clone(), twice]);
    assert_eq!(engine.run("pair", pair).await?, 7);
    assert_eq!(lab.world.log().len(), 7);
    engine.shutdown().await
}

#[step]
async fn depth(n: u64) -> Workflow<u64> {
    match n {
        0 => Workflow::value(0),
        // Not a tail call: something is left to do at each level.
        n => add(1, depth(n - 1)),
    }
}

#[tokio::test]
async fn recursion_may_be_deep() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    assert_eq!(engine.run("run", depth(2_000)).await?, 2_000);
    assert_eq!(engine.metadata("run").await?.progress.done, 4_001);
    engine.shutdown().await
}

#[step]
async fn wide(n: u64) -> Workflow<u64> {
    sum((0..n).map(|n| add(n, 1)).collect::<Vec<_>>())
}

#[step]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

#[tokio::test]
async fn a_gather_may_be_wide() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let n = 5_000;
    assert_eq!(engine.run("run", wide(n)).await?, n * (n + 1) / 2);
    assert_eq!(engine.metadata("run").await?.progress.done, n + 2);
    engine.shutdown().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_grow_at_once() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let mut handles = Vec::new();
    for run in 0..10 {
        handles.push(engine.start(format!("fib {run}"), fib(8)).await?);
        let nested = add(factorial(5), add(fib(6), depth(10)));
        handles.push(engine.start(format!("nested {run}"), nested).await?);
        let fork = (0..10).map(|n| add(fib(n), n)).collect::<Vec<_>>();
        handles.push(engine.start(format!("fork {run}"), sum(fork)).await?);
        let chain = (0..10).fold(Workflow::value(0), add);
        handles.push(engine.start(format!("chain {run}"), chain).await?);
    }
    for four in handles.chunks(4) {
        for (handle, expected) in four.iter().zip([21, 120 + 8 + 10, 88 + 45, 45]) {
            assert_eq!(handle.clone().await?, expected);
        }
    }
    engine.shutdown().await
}
