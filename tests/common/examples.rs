//! Examples as programs of their own, for tests that start and kill them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds examples, and says where they are.
pub(crate) fn build(examples: &[&str]) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--offline", "--quiet", "--no-default-features"])
        .arg("--target-dir")
        .arg(profile.parent().unwrap());
    if !profile.ends_with("debug") {
        build.arg("--release");
    }
    for example in examples {
        build.args(["--example", example]);
    }
    // As this test was built, so that nothing is built twice.
    for (feature, is_on) in [
        ("sled", cfg!(feature = "sled")),
        ("redb", cfg!(feature = "redb")),
        ("fjall", cfg!(feature = "fjall")),
        ("object_store", cfg!(feature = "object_store")),
        ("postgres", cfg!(feature = "postgres")),
        ("schedules", cfg!(feature = "schedules")),
    ] {
        if is_on {
            build.args(["--features", feature]);
        }
    }
    assert!(build.status().unwrap().success());
    profile.join("examples")
}
