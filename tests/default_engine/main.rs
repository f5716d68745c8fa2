//! The process's default engine. Each test is a process of its own: this binary again, told which part to play.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::process::Command;

use keepstep::storage::Blobs;

use keepstep::prelude::*;

#[step]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Runs a part of this binary as a process of its own.
fn play(part: &str, dir: &Path, url: Option<&str>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", part, "--nocapture"]);
    command.current_dir(dir).env_remove("KEEPSTEP_URL");
    if let Some(url) = url {
        command.env("KEEPSTEP_URL", url);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{failed}");
    assert!(told.contains("1 passed"), "{told}");
}

#[test]
fn the_default_engine_opens_the_url_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    play("functions", dir.path(), Some("memory:"));
    assert!(!dir.path().join(".keepstep").exists());
    play("first", dir.path(), Some("elsewhere"));
    assert!(dir.path().join("elsewhere").is_dir());
    play("again", dir.path(), Some("elsewhere"));
}

#[test]
fn the_default_engine_opens_a_directory_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    play("first", dir.path(), None);
    assert!(dir.path().join(".keepstep").is_dir());
    play("again", dir.path(), None);
}

#[test]
fn a_store_stays_the_same_when_the_working_directory_changes() {
    for backend in ["sled", "redb", "fjall"] {
        let dir = tempfile::tempdir().unwrap();
        for service in ["mine", "theirs"] {
            std::fs::create_dir(dir.path().join(service)).unwrap();
        }
        play("moved", dir.path(), Some(&format!("{backend}:data")));
    }
}

#[test]
fn an_engine_becomes_the_default_once() {
    let dir = tempfile::tempdir().unwrap();
    play("once", dir.path(), None);
    assert!(!dir.path().join(".keepstep").exists());
}

#[test]
fn a_default_engine_that_cannot_be_opened_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    play("unopened", dir.path(), Some("nothing-like-it:x"));
}

#[tokio::test]
#[ignore = "a part that others play"]
async fn functions() -> keepstep::Result<()> {
    assert_eq!(add(1, add(2, 3)).run("a").await?, 6);
    assert_eq!(keepstep::run("b", add(1, 1)).await?, 2);
    assert_eq!(keepstep::start("c", add(1, 2)).await?.await?, 3);
    assert_eq!(add(1, 3).start("d").await?.await?, 4);
    assert_eq!(keepstep::status("a").await?, Status::Successful);
    assert_eq!(keepstep::output::<i64>("a").await?, 6);
    assert_eq!(keepstep::step_output::<i64>("a", "add").await?, 6);
    assert_eq!(keepstep::metadata("a").await?.progress.done, 2);
    assert_eq!(keepstep::list(Status::Successful).await?.runs.len(), 4);
    assert_eq!(keepstep::resume::<i64>("a").await?.await?, 6);
    assert!(keepstep::resume_all().await?.is_empty());
    for error in [
        keepstep::cancel("a").await.err(),
        keepstep::suspend("a").await.err(),
    ] {
        assert!(
            matches!(error, Some(Error::AlreadyEnded { .. })),
            "{error:?}"
        );
    }
    keepstep::delete("a").await?;
    let error = keepstep::status("a").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    // What is opened by use is the default like any other.
    let late = keepstep::try_init(Engine::open("memory:").await?);
    assert!(matches!(late, Err(Error::AlreadyInitialized)), "{late:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "a part that others play"]
async fn first() -> keepstep::Result<()> {
    add(1, 2).run("kept").await?;
    keepstep::default_engine().await?.shutdown().await
}

#[tokio::test]
#[ignore = "a part that others play"]
async fn again() -> keepstep::Result<()> {
    assert_eq!(keepstep::output::<i64>("kept").await?, 3);
    keepstep::default_engine().await?.shutdown().await
}

#[step]
async fn large(of: String) -> String {
    of.repeat(100_000)
}

/// Two services have a `data` and a `large` each in their directories. One of them goes to the other's.
#[tokio::test]
#[ignore = "a part that others play"]
async fn moved() -> keepstep::Result<()> {
    let root = std::env::current_dir().unwrap();
    let (mine, theirs) = (root.join("mine"), root.join("theirs"));
    let url = std::env::var("KEEPSTEP_URL").unwrap();
    let beside = async || {
        let blobs = Blobs::in_directory("large")?;
        Engine::builder().blobs(blobs).open("beside").await
    };

    std::env::set_current_dir(&theirs).unwrap();
    for engine in [Engine::open(&url).await?, beside().await?] {
        engine.run("kept", large("theirs".to_owned())).await?;
        engine.shutdown().await?;
    }

    std::env::set_current_dir(&mine).unwrap();
    large("mine".to_owned()).run("kept").await?;
    let default = keepstep::default_engine().await?.clone();
    let engines = [default, beside().await?];
    engines[1].run("kept", large("mine".to_owned())).await?;
    std::env::set_current_dir(&theirs).unwrap();
    for engine in engines {
        engine.maintain().await?;
        engine.run("later", large("later".to_owned())).await?;
        assert!(engine.output::<String>("kept").await?.starts_with("mine"));
        engine.shutdown().await?;
    }

    for engine in [Engine::open(&url).await?, beside().await?] {
        assert!(engine.output::<String>("kept").await?.starts_with("theirs"));
        let later = engine.status("later").await;
        assert!(matches!(later, Err(Error::NotFound { .. })), "{later:?}");
        engine.shutdown().await?;
    }
    std::env::set_current_dir(&mine).unwrap();
    for engine in [Engine::open(&url).await?, beside().await?] {
        assert!(engine.output::<String>("later").await?.starts_with("later"));
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "a part that others play"]
async fn once() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    keepstep::init(engine.clone());
    assert_eq!(add(1, 2).run("run").await?, 3);
    assert_eq!(engine.output::<i64>("run").await?, 3);
    let second = keepstep::try_init(engine);
    assert!(
        matches!(second, Err(Error::AlreadyInitialized)),
        "{second:?}"
    );
    Ok(())
}

#[tokio::test]
#[ignore = "a part that others play"]
async fn unopened() {
    for _ in 0..2 {
        let error = add(1, 2).run("run").await.unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{error:?}");
    }
}
