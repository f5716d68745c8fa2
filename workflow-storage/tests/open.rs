//! What cannot be opened says why, and is left as it was.

#![cfg(all(feature = "sled", feature = "redb", feature = "fjall"))]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use keepstep_storage::{
    Batch, Build, Epoch, Expect, Position, RunId, RunKind, RunQuery, RunRecord, RunWrite,
    StepCounts, Storage, StorageError, StoredStatus, Timestamp, open,
};

const BACKENDS: [&str; 3] = ["sled", "redb", "fjall"];
const STORE_PATH: &str = "KEEPSTEP_TEST_STORE";

fn url(backend: &str, path: &Path) -> String {
    format!("{backend}:{}", path.display())
}

async fn open_at(backend: &str, path: &Path) -> Result<Arc<dyn Storage>, StorageError> {
    open(&url(backend, path)).await
}

async fn add_run(store: &dyn Storage, run: &str) {
    let write = RunWrite {
        run: RunId::new(run).unwrap(),
        expect: Expect::New,
        record: RunRecord {
            kind: RunKind::Workflow,
            status: StoredStatus::Running,
            owner: None,
            epoch: Epoch::FIRST,
            incarnation: 1,
            workflow: "step".to_owned(),
            plan_hash: [0; 32],
            created_at: Timestamp(1),
            started_at: None,
            ended_at: None,
            wake_at: None,
            first_entry: Position(0),
            next_entry: Position(0),
            journal_bytes: 0,
            steps: StepCounts::default(),
            parent: None,
            build: Build::default(),
            n_orphaned: 0,
        },
        entry: None,
        truncate: false,
        values: Vec::new(),
        blobs: Vec::new(),
        consumed: Vec::new(),
        only_with: None,
    };
    let batch = Batch {
        writes: vec![write],
        ..Batch::default()
    };
    store.commit(batch).await.unwrap();
}

async fn runs(store: &dyn Storage) -> Vec<String> {
    let page = store.list(&RunQuery::default()).await.unwrap();
    page.runs.iter().map(|run| run.run.to_string()).collect()
}

/// A closed store with a run "a".
async fn made_store(backend: &str, path: &Path) {
    let store = open_at(backend, path).await.unwrap();
    add_run(&*store, "a").await;
    store.close().await.unwrap();
}

/// Every file under a path, with what is in it.
fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("LOCK") {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_path_that_is_something_else_is_not_a_store() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        for path in [&file, dir.path()] {
            let error = open_at(backend, path).await.unwrap_err();
            assert!(matches!(error, StorageError::NotAStore { .. }), "{error:?}");
            assert!(error.to_string().contains(&*path.to_string_lossy()));
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    }
}

#[tokio::test]
async fn a_url_without_a_backend_is_not_supported() {
    let mut urls = vec!["", "redb:", "oracle:data"];
    if !cfg!(feature = "postgres") {
        urls.push("postgres://me:secret@host/db");
    }
    for url in urls {
        let error = open(url).await.unwrap_err();
        assert!(
            matches!(error, StorageError::Unsupported { .. }),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[tokio::test]
async fn a_store_of_a_later_format_is_left_alone() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        made_store(backend, dir.path()).await;
        let marker = dir.path().join("STORE");
        let text = fs::read_to_string(&marker).unwrap();
        fs::write(&marker, text.replace("format 1", "format 99")).unwrap();
        let before = files(dir.path());
        match open_at(backend, dir.path()).await.unwrap_err() {
            StorageError::UnknownFormat { found, .. } => assert!(found.contains("99")),
            other => panic!("{other:?}"),
        }
        assert_eq!(files(dir.path()), before);

        fs::write(&marker, text).unwrap();
        let store = open_at(backend, dir.path()).await.unwrap();
        assert_eq!(runs(&*store).await, ["a"]);
    }
}

#[tokio::test]
async fn a_store_of_another_backend_is_left_alone() {
    for made in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        made_store(made, dir.path()).await;
        for other in BACKENDS.into_iter().filter(|&other| other != made) {
            let before = files(dir.path());
            match open_at(other, dir.path()).await.unwrap_err() {
                StorageError::OtherBackend { found, asked, .. } => {
                    assert_eq!((&*found, &*asked), (made, other));
                }
                error => panic!("{error:?}"),
            }
            assert_eq!(files(dir.path()), before);
        }
        // Without a name a path is opened as what it is.
        let store = open(&dir.path().display().to_string()).await.unwrap();
        assert_eq!(store.describe().backend, made);
        assert_eq!(runs(&*store).await, ["a"]);
    }
}

#[tokio::test]
async fn a_damaged_marker_is_an_error_and_no_new_store() {
    let dir = tempfile::tempdir().unwrap();
    made_store("redb", dir.path()).await;
    let marker = dir.path().join("STORE");
    let whole = fs::read(&marker).unwrap();
    let before = files(dir.path());
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        for damaged in [&flipped[..], &whole[..at]] {
            fs::write(&marker, damaged).unwrap();
            let url = dir.path().display().to_string();
            assert!(open(&url).await.is_err(), "damage at {at}: {damaged:?}");
            assert_eq!(fs::read(&marker).unwrap(), damaged);
        }
    }
    fs::write(&marker, &whole).unwrap();
    assert_eq!(files(dir.path()), before);
    let store = open_at("redb", dir.path()).await.unwrap();
    assert_eq!(runs(&*store).await, ["a"]);
}

#[tokio::test]
async fn a_store_whose_map_is_gone_is_damaged_not_empty() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        made_store(backend, dir.path()).await;
        let is_map = |path: &Path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("map")
        };
        let paths = fs::read_dir(dir.path()).unwrap();
        let mut paths = paths.map(|entry| entry.unwrap().path());
        let map = paths.find(|path| is_map(path)).unwrap();

        fs::remove_dir_all(&map).unwrap();
        for _ in 0..2 {
            let error = open_at(backend, dir.path()).await.unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        }
        fs::create_dir(&map).unwrap();
        for _ in 0..2 {
            let error = open_at(backend, dir.path()).await.unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_store_is_open_once_in_a_process() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let first = open_at(backend, dir.path()).await.unwrap();
        let error = open_at(backend, dir.path()).await.unwrap_err();
        let me = std::process::id().to_string();
        match &error {
            StorageError::InUse { holder, .. } => assert!(holder.contains(&me), "{holder}"),
            other => panic!("{other:?}"),
        }
        assert!(error.is_retryable());
        // The one that has it is not disturbed.
        add_run(&*first, "a").await;
        first.close().await.unwrap();

        let second = open_at(backend, dir.path()).await.unwrap();
        assert_eq!(runs(&*second).await, ["a"]);
        drop(second);
        let third = open_at(backend, dir.path()).await.unwrap();
        drop(first);
        let error = open_at(backend, dir.path()).await.unwrap_err();
        assert!(matches!(error, StorageError::InUse { .. }), "{error:?}");
        assert_eq!(runs(&*third).await, ["a"]);
    }
}

/// A process that has a store open until it is killed.
fn holder(url: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_store", "--ignored", "--nocapture"])
        .env(STORE_PATH, url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let open = lines
        .map_while(Result::ok)
        .any(|line| line.contains("holding"));
    assert!(open, "the child did not open the store");
    child
}

#[tokio::test]
#[ignore = "it is what `a_store_is_open_in_one_process` runs in another process"]
async fn hold_a_store() {
    let url = std::env::var(STORE_PATH).unwrap();
    let store = open(&url).await.unwrap();
    add_run(&*store, "of the other process").await;
    println!("\nholding");
    // Until the parent kills this process, or is gone.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[tokio::test]
async fn a_store_is_open_in_one_process() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let mut other = holder(&url(backend, dir.path()));
        match open_at(backend, dir.path()).await.unwrap_err() {
            StorageError::InUse { holder, path } => {
                assert!(holder.contains(&other.id().to_string()), "{holder}");
                assert_eq!(path, dir.path());
            }
            error => panic!("{error:?}"),
        }
        // Its death lets go of the store, which has what it committed.
        other.kill().unwrap();
        other.wait().unwrap();
        let store = open_at(backend, dir.path()).await.unwrap();
        assert_eq!(runs(&*store).await, ["of the other process"]);
    }
}
