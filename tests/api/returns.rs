//! Every form of function that is a step: what it returns, and where it runs.

use std::error::Error as _;
use std::fmt;
use std::num::ParseIntError;
use std::thread;

use keepstep::StepErrorKind;
use keepstep::prelude::*;

mod alias {
    pub(super) type Result<T> = std::result::Result<T, std::num::ParseIntError>;
    pub(super) mod dynamic {
        pub(in super::super) type Result = anyhow::Result<keepstep::Workflow<i64>>;
    }
}

#[derive(Debug)]
struct BadOrder(ParseIntError);

impl fmt::Display for BadOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the order is bad")
    }
}

impl std::error::Error for BadOrder {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[step]
async fn nothing() {}

#[step]
async fn plain(n: i64) -> i64 {
    n
}

#[step(retries = 0)]
async fn parsed(text: &str) -> Result<i64, ParseIntError> {
    text.parse()
}

#[step(retries = 0)]
async fn parsed_by_alias(text: &str) -> alias::Result<i64> {
    text.parse()
}

#[step(retries = 0)]
async fn with_source(text: &str) -> Result<i64, BadOrder> {
    text.parse().map_err(BadOrder)
}

#[step(retries = 0)]
async fn with_context(text: &str) -> anyhow::Result<i64> {
    use anyhow::Context;
    text.parse().context("inner").context("outer")
}

#[step(retries = 0)]
async fn with_text(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "not a number")
}

#[step]
async fn dynamic(n: i64) -> Workflow<i64> {
    plain(plain(n))
}

#[step(retries = 0)]
async fn maybe_dynamic(n: i64) -> anyhow::Result<Workflow<i64>> {
    anyhow::ensure!(n > 0, "not positive");
    Ok(dynamic(n))
}

#[step(retries = 0)]
async fn dynamic_by_alias(n: i64) -> alias::dynamic::Result {
    Ok(dynamic(n))
}

#[step]
fn blocking(n: i64) -> (i64, String) {
    (n, format!("{:?}", thread::current().id()))
}

#[step(retries = 0)]
fn blocking_result(text: &str) -> Result<i64, ParseIntError> {
    text.parse()
}

#[step]
fn blocking_dynamic(n: i64) -> Workflow<i64> {
    dynamic(n)
}

#[step]
fn blocking_maybe_dynamic(n: i64) -> anyhow::Result<Workflow<i64>> {
    Ok(dynamic(n))
}

#[step]
async fn thread_of_async() -> String {
    format!("{:?}", thread::current().id())
}

async fn failure_of(workflow: Workflow<i64>) -> StepError {
    match workflow.eval().await {
        Err(Error::Failed { error, .. }) => *error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_form_of_result_is_the_workflows() -> keepstep::Result<()> {
    nothing().eval().await?;
    assert_eq!(plain(1).eval().await?, 1);
    for workflow in [
        parsed("7"),
        parsed_by_alias("7"),
        with_source("7"),
        with_context("7"),
        with_text("7"),
        dynamic(7),
        maybe_dynamic(7),
        dynamic_by_alias(7),
        blocking_result("7"),
        blocking_dynamic(7),
        blocking_maybe_dynamic(7),
    ] {
        assert_eq!(workflow.eval().await?, 7, "{workflow:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_error_keeps_its_message_and_its_causes() {
    let parse_error = "x".parse::<i64>().unwrap_err().to_string();
    for (workflow, message, causes) in [
        (parsed("x"), &*parse_error, vec![]),
        (parsed_by_alias("x"), &parse_error, vec![]),
        (blocking_result("x"), &parse_error, vec![]),
        (with_text("x"), "not a number", vec![]),
        (
            with_source("x"),
            "the order is bad",
            vec![parse_error.clone()],
        ),
        (
            with_context("x"),
            "outer",
            vec!["inner".to_owned(), parse_error.clone()],
        ),
        (maybe_dynamic(0), "not positive", vec![]),
    ] {
        let error = failure_of(workflow).await;
        assert_eq!(error.kind, StepErrorKind::Error);
        assert_eq!((&*error.message, error.causes), (message, causes));
        assert_eq!(error.attempts, 1);
    }
}

#[tokio::test]
async fn the_failure_of_a_run_is_the_source_of_its_error() {
    let error = with_source("x").eval().await.unwrap_err();
    assert_eq!(error.to_string(), "run \"eval\" failed");
    let step = error.source().unwrap().to_string();
    assert!(
        step.contains("with_source\" failed: the order is bad: "),
        "{step}"
    );
}

#[tokio::test]
async fn a_plain_function_runs_where_it_may_block() -> keepstep::Result<()> {
    let here = format!("{:?}", thread::current().id());
    assert_eq!(thread_of_async().eval().await?, here);
    let (n, there) = blocking(3).eval().await?;
    assert_eq!(n, 3);
    assert_ne!(there, here);
    Ok(())
}
