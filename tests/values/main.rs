//! What a value is after it was stored: what it was before, or an error before anything was stored.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod changed;
mod long_errors;
mod refused;
mod sets;
mod ways;
