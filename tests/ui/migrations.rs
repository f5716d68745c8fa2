//! What may make arguments of older ones, and what `accepts` may say.

use keepstep::step;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Currency(String);

fn from_v1(cents: u64) -> (u64, String) {
    (cents, "EUR".into())
}

/// It returns other types than the parameters.
#[step(version = 2, accepts = 1, migrate = from_v1)]
async fn other_types(cents: u64, currency: Currency) {
    let _ = (cents, currency);
}

/// A single parameter is returned as it is.
#[step(version = 2, accepts = 1, migrate = in_a_tuple)]
async fn single(cents: u64) {
    let _ = cents;
}

fn in_a_tuple(cents: u32) -> (u64,) {
    (cents.into(),)
}

async fn asynchronous(name: String) -> String {
    name
}

#[step(version = 2, accepts = 1, migrate = asynchronous)]
async fn not_async(name: String) {
    let _ = name;
}

const NOT_A_FUNCTION: u64 = 1;

#[step(version = 2, accepts = 1, migrate = NOT_A_FUNCTION)]
async fn no_function(name: String) {
    let _ = name;
}

#[step(version = 2, migrate = from_v1)]
async fn of_which_version() {}

#[step(version = 2, accepts = 2)]
async fn its_own_version() {}

#[step(version = 3, accepts(1), accepts(1, migrate = from_v1))]
async fn twice(cents: u64) {
    let _ = cents;
}

#[step(version = 3, accepts(), accepts("1"), accepts(1, with = from_v1), accepts(2, migrate = from_v1, 3))]
async fn misspelled(cents: u64) {
    let _ = cents;
}

fn main() {}
