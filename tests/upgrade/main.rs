//! Programs are built from different sources: the first is killed in the middle of a run, and the others go on with it.
//!
//! They are examples of the package, so that they are built as this test is (`programs/`).

#![cfg(feature = "sled")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/examples.rs"]
mod examples;
#[cfg(all(unix, feature = "postgres"))]
mod rolling;
#[cfg(all(unix, feature = "postgres"))]
#[path = "../../workflow-storage/tests/server/mod.rs"]
mod server;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the programs are.
fn programs() -> PathBuf {
    let mut programs = vec!["upgrade_v1", "upgrade_v2", "upgrade_v2_forgetful"];
    if cfg!(feature = "postgres") {
        programs.extend(["rolling_v1", "rolling_v2"]);
    }
    examples::build(&programs)
}

/// What a program prints.
fn told(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_that_was_begun_by_one_program_is_finished_by_another() {
    let programs = programs();
    let program =
        |name: &str| programs.join(format!("upgrade_{name}{}", std::env::consts::EXE_SUFFIX));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let store = store.to_str().unwrap();

    let mut first = Command::new(program("v1"))
        .args(["start", store])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let held = lines.map(Result::unwrap).find(|line| line == "held");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(held.is_some(), "it ended before it came to the gate");

    // The deploy is checked before anything runs: a step is missing.
    let checked = told(&program("v2_forgetful"), &["check", store]);
    assert!(checked.contains("is ok: false"), "{checked}");
    assert!(checked.contains("\"shop/ship\""), "{checked}");
    assert!(!checked.contains("shop/charge"), "{checked}");
    assert!(!checked.contains("load runs"), "{checked}");

    // Deployed all the same, the run waits for the step, with all that was done before.
    let resumed = told(&program("v2_forgetful"), &["resume", store]);
    for part in [
        "\"order\" is suspended",
        "\"shop/ship\" of version 1",
        "resume it",
    ] {
        assert!(resumed.contains(part), "{resumed}");
    }

    // The step is back.
    let checked = told(&program("v2"), &["check", store]);
    assert!(checked.contains("is ok: true"), "{checked}");
    let resumed = told(&program("v2"), &["resume", store]);
    assert_eq!(
        resumed, "shipped, told as before that Ann paid 500 EUR\n",
        "no step whose result was stored ran again"
    );

    // The program that began it is still known, and can still be run.
    assert_eq!(told(&program("v2"), &["build", store]), "v1\n");
    let kept = dir.path().join("kept");
    let kept = kept.to_str().unwrap();
    assert_eq!(told(&program("v2"), &["executable", store, kept]), "");
    assert_eq!(told(Path::new(kept), &["version"]), "v1\n");
}
