//! Durations are checked when the program is compiled.

use keepstep::step;

#[step(timeout = "30")]
async fn no_unit() {}

#[step(timeout = "30 seconds")]
async fn unknown_unit() {}

#[step(timeout = "soon")]
async fn no_number() {}

#[step(timeout = "0s")]
async fn zero() {}

#[step(timeout = "-1s")]
async fn negative() {}

#[step(timeout = "0.5ns")]
async fn too_fine() {}

#[step(timeout = "1000000d")]
async fn too_long() {}

#[step(backoff = "30s..100ms")]
async fn reversed() {}

#[step(backoff = "100ms..")]
async fn open_end() {}

#[step(backoff = "0ms..1s")]
async fn from_zero() {}

fn main() {}
