//! A crate that knows keepstep by another name.

mod library {
    pub mod workflows {
        pub use keepstep::*;
    }
}

// What an absolute path would find instead.
mod keepstep_is_not_here {}

use library::workflows::{Workflow, step};

#[step(crate = crate::library::workflows)]
async fn renamed(a: i64, path: &std::path::Path, #[resource] db: &String) -> crate::alias::Result {
    let _ = (path, db);
    Ok(a)
}

mod alias {
    pub type Result = std::result::Result<i64, std::fmt::Error>;
}

fn main() {
    let _: Workflow<i64> = renamed(1, "path");
}
