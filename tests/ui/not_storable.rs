//! Values between steps are stored: the compiler points at the parameter or the result that cannot be.

use std::rc::Rc;

use keepstep::step;
use serde::{Deserialize, Serialize};

struct Plain;

#[derive(Serialize)]
struct OnlySerialize;

#[derive(Deserialize)]
struct OnlyDeserialize;

#[step]
async fn takes(plain: Plain) {}

#[step]
fn takes_borrowed(plain: &[Plain]) {}

#[step]
async fn takes_halves(one: OnlySerialize, other: OnlyDeserialize) {}

#[step]
async fn takes_not_send(shared: Rc<u64>) {}

#[step]
async fn gives() -> Plain {
    Plain
}

#[step]
async fn gives_result() -> Result<Vec<Plain>, std::io::Error> {
    Ok(vec![])
}

fn main() {}
