//! The design's first program, and small variations of it.

use keepstep::prelude::*;

#[step]
async fn one() -> i64 {
    1
}

#[step]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[step]
async fn fib(n: u64) -> Workflow<u64> {
    if n <= 1 {
        return Workflow::value(n);
    }
    add_u64(fib(n - 1), fib(n - 2))
}

#[step]
async fn add_u64(a: u64, b: u64) -> u64 {
    a + b
}

#[tokio::test]
async fn the_first_program_runs() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let engine = Engine::open(path).await?;
    let output: Workflow<i64> = add(100, one());

    assert_eq!(engine.run("run_1", output.clone()).await?, 101);
    assert_eq!(engine.status("run_1").await?, Status::Successful);
    assert_eq!(engine.output::<i64>("run_1").await?, 101);
    engine.shutdown().await?;

    let engine = Engine::open(path).await?;
    assert_eq!(engine.run("run_1", &output).await?, 101);
    engine.shutdown().await
}

#[tokio::test]
async fn recursion_expands() -> keepstep::Result<()> {
    assert_eq!(fib(10).eval().await?, 55);
    Ok(())
}

#[test]
fn every_call_can_be_made_in_a_task() {
    fn check(_: impl Send) {}

    let _ = |engine: Engine, workflow: Workflow<i64>| {
        check(Engine::open("memory:"));
        check(Engine::builder().build());
        check(workflow.eval());
        check(workflow.run("run"));
        check(workflow.start("run"));
        check(engine.run("run", &workflow));
        check(engine.start("run", &workflow));
        check(engine.status("run"));
        check(engine.output::<i64>("run"));
        check(engine.step_output::<i64>("run", "step"));
        check(engine.metadata("run"));
        check(engine.graph("run"));
        check(engine.list(Status::Running));
        check(engine.resume::<i64>("run"));
        check(engine.resume_all());
        check(engine.suspend("run"));
        check(engine.cancel("run"));
        check(engine.delete("run"));
        check(engine.shutdown());
    };
}
