//! What a step cannot return.

use std::borrow::Cow;
use std::fmt::Display;
use std::future::Future;

use keepstep::{Workflow, step};

#[step]
async fn reference(text: &str) -> &str {
    text
}

#[step]
async fn nested_reference() -> Result<Option<&'static str>, std::io::Error> {
    Ok(None)
}

#[step]
async fn lifetime(text: &str) -> Cow<'_, str> {
    text.into()
}

#[step]
fn future(n: u64) -> impl Future<Output = u64> {
    async move { n }
}

#[step]
async fn open_type() -> impl Display {
    1
}

#[step]
async fn workflow_of_workflow() -> Workflow<Workflow<u64>> {
    todo!()
}

#[step]
async fn result_of_workflow_of_workflow() -> Result<Workflow<Workflow<u64>>, std::io::Error> {
    todo!()
}

#[step]
async fn workflows() -> Vec<Workflow<u64>> {
    vec![]
}

#[step]
fn never() -> ! {
    loop {}
}

/// Calls are checked against what was probably meant.
fn main() {
    let _: Workflow<String> = reference("text");
    let _: Workflow<Option<String>> = nested_reference();
    let _: Workflow<u64> = future(1);
    let _: Workflow<u64> = workflow_of_workflow();
    let _: Workflow<Vec<u64>> = workflows();
    let _: Workflow<()> = never();
}
