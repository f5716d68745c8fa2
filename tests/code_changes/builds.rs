//! Which program a run was started by, and keeping that program.

use keepstep::prelude::*;
use keepstep::storage::{BlobId, RunId, Storage, memory};

use super::a_moment;
use crate::common::{Do, Lab, World};

#[step(name = "build/work")]
async fn work(#[resource] world: &World) -> Result<(), String> {
    world.act("work").await
}

#[step(name = "build/grow")]
async fn grow(#[resource] _world: &World) -> Workflow<()> {
    child("build/child", work())
}

#[tokio::test(start_paused = true)]
async fn a_run_says_what_program_started_it_and_so_do_those_that_it_starts() {
    let lab = Lab::new();
    lab.world.tell("work", Do::Hold);
    let long = "ü".repeat(100);
    let engine = lab.builder().build_id(&long).build().await.unwrap();
    drop(engine.start("run", grow()).await.unwrap());
    lab.world.until("work").await;
    a_moment().await;
    lab.crash(engine).await;
    lab.world.tell("work", Do::Succeed);

    let engine = lab.builder().build_id("v2").build().await.unwrap();
    engine.run("run", grow()).await.unwrap();
    // Who goes on with a run does not change who started it. What is too long is cut between characters.
    let first = engine.metadata("run").await.unwrap().build;
    let child = engine.metadata("build/child").await.unwrap().build;
    assert_eq!((&first, first.id.as_str()), (&child, &*"ü".repeat(32)));
    assert!(!first.has_executable);
    engine.run("new", work()).await.unwrap();
    let second = engine.metadata("new").await.unwrap().build;
    assert_eq!((&*second.id, &second.steps), ("v2", &first.steps));
    assert_eq!(second.steps.len(), 16);
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_executable_that_was_not_kept_is_an_error_that_says_how_to_keep_it() {
    let lab = Lab::new();
    let engine = lab.builder().build_id("v1").build().await.unwrap();
    engine.run("run", work()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    let error = engine.executable_of("run", &path).await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, Error::NoExecutable { .. }), "{error:?}");
    assert!(
        told.contains("\"v1\"") && told.contains("keep_executable(true)"),
        "{told}"
    );
    assert!(!path.exists());
    let error = engine.executable_of("none", &path).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    engine.shutdown().await.unwrap();
}

async fn executable(store: &dyn Storage, run: &str) -> Option<BlobId> {
    let run = RunId::new(run).unwrap();
    store.record(&run).await.unwrap().unwrap().build.executable
}

#[tokio::test]
async fn the_executable_is_kept_as_long_as_a_run_or_the_engine_needs_it() {
    let lab = Lab::on(memory());
    let keeping = || lab.builder().keep_executable(true);
    let engine = keeping().build().await.unwrap();
    engine.run("run", grow()).await.unwrap();
    let blob = executable(&*lab.store, "run").await.unwrap();
    assert_eq!(executable(&*lab.store, "build/child").await, Some(blob));
    assert!(engine.metadata("run").await.unwrap().build.has_executable);

    // Deleting all of its runs takes it not from those that the engine is still to start.
    engine.delete("run").await.unwrap();
    let child = engine.metadata("build/child").await;
    assert!(matches!(child, Err(Error::NotFound { .. })), "{child:?}");
    engine.maintain().await.unwrap();
    engine.run("run", work()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    engine.executable_of("run", &path).await.unwrap();
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(std::fs::read(&path).unwrap() == own, "another executable");
    // It runs: this is a test program, which lists its tests.
    let listed = std::process::Command::new(&path)
        .args(["--list", "builds"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("the_executable_is_kept"), "{listed}");

    // A place that cannot be written to is an error that names it, and leaves nothing.
    let nowhere = dir.path().join("no/such/directory");
    let error = engine.executable_of("run", &nowhere).await.unwrap_err();
    assert!(error.to_string().contains("no/such/directory"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    lab.crash(engine).await;

    // An engine that keeps none leaves what there is.
    let engine = lab.engine().await;
    engine.run("other", work()).await.unwrap();
    assert_eq!(executable(&*lab.store, "other").await, None);
    engine.executable_of("run", &path).await.unwrap();
    engine.shutdown().await.unwrap();
}
