//! Programs that are not the one that stored a run: what goes on, what waits, and what is said of it beforehand.
//!
//! Another program is simulated by the store, which reads journals with names of steps changed. `tests/upgrade` builds two.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod builds;
mod check;
mod check_actors;
mod migrations;
mod others;

use std::sync::Arc;

use common::{Lab, Tampered, rewritten};
use keepstep::storage::memory;

/// A lab, and its store as it can be made to read otherwise.
fn lab() -> (Arc<Tampered>, Lab) {
    let store = Arc::new(Tampered::new(memory()));
    let lab = Lab::on(store.clone());
    (store, lab)
}

/// From now on the program is one in which the steps have these other names.
fn rename(store: &Tampered, names: &[(&'static str, &'static str)]) {
    let names = names.to_vec();
    store.with(move |_, entry| {
        let renamed = names
            .iter()
            .fold(entry, |entry, (from, to)| rewritten(entry, from, to));
        Some(renamed)
    });
}

/// Lets what was begun become durable: time is paused.
async fn a_moment() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}
