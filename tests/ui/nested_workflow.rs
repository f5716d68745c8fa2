//! A workflow is a plan for one run, not a value: it cannot be stored in another.

use keepstep::Workflow;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    total: Workflow<u64>,
}

fn main() {}
