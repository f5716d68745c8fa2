//! An argument is a value of the parameter's type, or a workflow that yields it.

use keepstep::{Workflow, step};

#[step]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[step]
async fn greet(name: &str) -> String {
    name.into()
}

#[step]
async fn sum(numbers: &[i64]) -> i64 {
    numbers.iter().sum()
}

fn main() {
    let _ = add("1", 2);
    let _ = add(1, greet("you"));
    let _ = greet(7);
    let _ = sum(vec![greet("you")]);
    let _ = add(1);
    let _: Workflow<String> = add(1, 2);
}
