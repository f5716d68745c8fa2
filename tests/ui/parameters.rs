//! What a parameter of a step cannot be.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use keepstep::{Workflow, step};

#[step]
async fn open_type(value: impl Display) -> String {
    value.to_string()
}

#[step]
async fn mutable(values: &mut Vec<u64>, text: &mut str) {
    values.clear();
    text.make_ascii_lowercase();
}

#[step]
async fn with_lifetime(text: &'static str) -> usize {
    text.len()
}

#[step]
async fn nested_reference(names: Vec<&str>, pair: &(u8, &[u8])) -> usize {
    names.len() + pair.1.len()
}

#[step]
async fn nested_lifetime(text: Cow<'_, str>) -> usize {
    text.len()
}

#[step]
async fn dynamic(text: &dyn Display) -> String {
    text.to_string()
}

#[step]
async fn workflow(number: Workflow<u64>, more: Vec<Workflow<u64>>, other: &keepstep::Workflow<u64>) -> u64 {
    0
}

#[step]
async fn conditional(#[cfg(unix)] number: u64) {}

#[step]
async fn resources(
    #[resource] by_value: String,
    #[resource] mutable: &mut u64,
    #[resource] hidden: &dyn Display,
    #[resource] shared: Arc<dyn Display>,
    #[resource] text: &str,
    #[resource] list: &[u8],
    #[resource] open: &impl Display,
    #[resource(name = "db")] named: &u64,
    #[resource] with_lifetime: &'static u64,
) {
}

/// Calls are checked against what was probably meant.
fn main() {
    let _: Workflow<String> = open_type(1);
    let _: Workflow<()> = mutable(vec![1], "text");
    let _: Workflow<usize> = with_lifetime("text");
    let _: Workflow<usize> = nested_reference(vec![String::new()], (1, vec![2]));
    let _: Workflow<u64> = workflow(1, vec![workflow(1, vec![2], 3)], 3);
    let _: Workflow<()> = resources();
}
