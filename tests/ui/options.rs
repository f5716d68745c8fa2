//! What an option may say; all mistakes are reported at once.

use keepstep::{Workflow, step};

#[step(retires = 3)]
async fn misspelled() {}

#[step(time_out = "30s")]
async fn misspelled_too() {}

#[step(parallel = true)]
async fn unknown() {}

#[step(retries = 1, retries = 2)]
async fn twice() {}

#[step(retries)]
async fn without_value() {}

#[step(version = )]
async fn without_value_after_sign() {}

#[step(retries(3))]
async fn like_a_list() {}

#[step("billing")]
async fn without_key() {}

#[step(name = "", version = "2", retries = -1, checkpoint = "no", codec = "json", crate = "keepstep")]
async fn many_at_once() {}

#[step(name = "a\nb", version = 4294967296, codec = bincode, timeout = 30)]
async fn more_at_once() {}

#[step(name = 7, retries = 1.5)]
async fn even_more() {}

#[step(pool = "", priority = 1.5)]
async fn no_pool() {}

#[step(pool = gpu, remote = "yes", priority = 3000000000)]
async fn wrong_kinds() {}

#[step(pool = "gpu", remote = false)]
async fn not_remote_after_all() {}

#[step(checkpoint = false, remote)]
async fn stored_in_any_case() {}

/// A mistake in an option does not make calls wrong, too.
fn still_checked() -> Workflow<()> {
    many_at_once().after(&twice())
}

fn main() {
    still_checked();
}
