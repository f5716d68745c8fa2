//! A workflow is not a future: inside of a step, too, it is passed on or returned.

use keepstep::step;

#[step]
async fn one() -> i64 {
    1
}

#[step]
async fn two() -> i64 {
    one().await + one().await
}

fn main() {}
