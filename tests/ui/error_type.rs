//! The error of a step must be one that can be reported.

use keepstep::{Workflow, step};

struct Failed;

#[step]
async fn fails() -> Result<u64, Failed> {
    Err(Failed)
}

#[step]
fn fails_dynamically() -> Result<Workflow<u64>, u64> {
    Err(1)
}

mod aliased {
    pub type Result = std::result::Result<u64, super::Failed>;
}

#[step]
async fn fails_behind_an_alias() -> aliased::Result {
    Err(Failed)
}

fn main() {}
