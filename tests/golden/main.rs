//! Stores that each released version wrote are opened and gone on with, for ever.
//!
//! `stores/<version>/<backend>` is a store as that version left it, with runs in every status. A new one is made, before a
//! release, and again while nothing of that version is released, by
//!
//! ```text
//! cargo test --all-features --test golden -- --ignored write_the_stores_of_this_version
//! ```
//!
//! A store that was released is never written again; what new versions can store is added to `contents` under new ids.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod archive;
mod contents;

use std::fs;
use std::path::{Path, PathBuf};

use contents::Scene;
use keepstep::prelude::*;

fn stores() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stores")
}

/// The backends that this test is built with.
fn backends() -> impl Iterator<Item = &'static str> {
    let built = [
        ("sled", cfg!(feature = "sled")),
        ("redb", cfg!(feature = "redb")),
        ("fjall", cfg!(feature = "fjall")),
    ];
    built
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| name)
}

fn url(backend: &str, directory: &Path) -> String {
    format!("{backend}:{}", directory.display())
}

/// Every store there is: what it is called, its backend, and its archive.
fn all() -> Vec<(String, &'static str, PathBuf)> {
    let mut found = Vec::new();
    for version in fs::read_dir(stores()).unwrap() {
        let version = version.unwrap().path();
        for backend in backends() {
            let archive = version.join(format!("{backend}.store"));
            if archive.exists() {
                let name = version.file_name().unwrap().to_str().unwrap();
                found.push((format!("{name}/{backend}"), backend, archive));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn there_is_a_store_of_every_backend() {
    for backend in backends() {
        assert!(all().iter().any(|(_, of, _)| *of == backend), "{backend}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_version_stored_goes_on() {
    contents::open_gates();
    for (name, backend, archive) in all() {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        let ids = archive::unpack(&fs::read(archive).unwrap(), dir.path());
        let engine = Engine::open(url(backend, dir.path())).await.unwrap();
        engine.check().await.unwrap().assert_ok();
        let scene = Scene { engine: &engine };
        for id in &ids {
            println!("{name}: {id} as it was stored");
            scene.is_as_stored(id).await;
        }
        for id in &ids {
            println!("{name}: {id} goes on");
            scene.goes_on(id).await;
        }
        engine.maintain().await.unwrap();
        engine.shutdown().await.unwrap();
        drop(engine);
        // What was written since is there, too.
        let engine = Engine::open(url(backend, dir.path())).await.unwrap();
        let scene = Scene { engine: &engine };
        for id in &ids {
            scene.has_ended(id).await;
        }
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the stores of this version anew"]
async fn write_the_stores_of_this_version() {
    for backend in backends() {
        let dir = tempfile::tempdir().unwrap();
        let ids = contents::write(&url(backend, dir.path())).await;
        // The engine is gone as after a crash: once nothing of it holds the store any more, its files are quiet.
        let store = loop {
            match keepstep::storage::open(&url(backend, dir.path())).await {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        store.close().await.unwrap();
        drop(store);
        let archive = archive::pack(&ids, dir.path());
        let version = stores().join(env!("CARGO_PKG_VERSION"));
        fs::create_dir_all(&version).unwrap();
        println!("{backend}: {} bytes", archive.len());
        fs::write(version.join(format!("{backend}.store")), archive).unwrap();
    }
}
