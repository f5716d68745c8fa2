//! Generated code keeps the strictest of lints.

#![deny(warnings, missing_docs, unused, nonstandard_style, rust_2018_idioms)]
#![deny(
    missing_debug_implementations,
    unreachable_pub,
    single_use_lifetimes,
    trivial_casts,
    unused_qualifications
)]
#![deny(
    unused_results,
    unused_lifetimes,
    unused_import_braces,
    elided_lifetimes_in_paths,
    variant_size_differences
)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]
#![deny(
    clippy::unwrap_used,
    clippy::impl_trait_in_params,
    clippy::absolute_paths,
    clippy::default_numeric_fallback
)]
#![deny(
    clippy::missing_docs_in_private_items,
    clippy::as_conversions,
    clippy::shadow_unrelated,
    clippy::min_ident_chars
)]
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use keepstep::{Workflow, step};

/// A resource.
#[derive(Debug)]
pub struct Db;

/// Does nothing.
#[step]
pub async fn nothing() {}

/// Does nothing, blocking.
#[step]
pub fn nothing_blocking() {}

/// Adds numbers, without awaiting anything.
#[step(
    retries = 1,
    backoff = "1s",
    timeout = "1s",
    checkpoint = true,
    codec = "msgpack",
    name = "add",
    version = 3
)]
pub async fn add(left: i64, right: i64) -> i64 {
    left + right
}

/// Never called: a run of an earlier version may have stored it.
#[step]
async fn unused(_text: String) {
    helper();
}

/// Used by what nothing uses.
const fn helper() {}

/// Takes much.
#[step]
pub async fn many(
    /// The first number,
    /// of many.
    one: i64,
    two: i64,
    three: i64,
    four: i64,
    five: i64,
    six: i64,
    seven: i64,
    eight: &str,
    #[resource] db: &Db,
    #[resource] shared: Arc<Db>,
    #[allow(unused_variables)] ignored: u8,
) -> Result<Workflow<i64>, fmt::Error> {
    let _: (&Db, Arc<Db>) = (db, shared);
    if eight.is_empty() {
        return Err(fmt::Error);
    }
    Ok(add(one + two + three + four, five + six + seven))
}

/// Fails.
#[step]
#[deprecated = "for a reason"]
#[must_use = "for another"]
pub async fn deprecated() -> Result<(), String> {
    Err(String::new())
}

/// Uses what a lint is about.
#[step]
#[expect(unused_variables, reason = "attributes reach the body")]
pub fn expected(text: String) {
    let unused = 'x';
}

/// Calls what is there to be called.
pub fn main() {
    let sum = add(1, 2);
    drop(
        many(sum.clone(), 1, 2, 3, 4, 5, 6, "text", 7)
            .after(&sum)
            .after(&nothing())
            .after(&nothing_blocking()),
    );
    drop(expected("text"));
}
