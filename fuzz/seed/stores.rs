//! The small files of real directories, and fjall's journal.

use std::fs;
use std::path::Path;

use keepstep::prelude::*;

use crate::Seeds;

#[step]
async fn one() -> u64 {
    1
}

pub async fn of_directories(seeds: &mut Seeds) {
    let dir = tempfile::tempdir().unwrap();
    for backend in ["sled", "fjall"] {
        let store = dir.path().join(backend);
        let url = format!("{backend}:{}", store.display());
        let engine = Engine::open(&url).await.unwrap();
        engine.run("a", one()).await.unwrap();
        let mut add = |target, bytes: Vec<u8>| seeds.entry(target).or_default().push(bytes);
        add("marker", fs::read(store.join("STORE")).unwrap());
        // As it is, but for this machine.
        add("lock", b"process 4711 on host\n".to_vec());
        add("blob_address", hex(backend).into_bytes());
        if backend == "fjall" {
            for journal in torn(&store.join("map-1")) {
                add("torn_journal", journal);
            }
        }
        engine.shutdown().await.unwrap();
    }
    let mut text = String::from("keepstep store\nformat 1\nbackend sled\ngeneration 7");
    for _ in 0..3 {
        seeds.entry("marker").or_default().push(text.clone().into());
        text.pop();
    }
}

fn hex(text: &str) -> String {
    (0..64)
        .map(|n| char::from(b"0123456789abcdef"[(text.len() * n) % 16]))
        .collect()
}

/// The first batches of the newest journal, and the same without some of their pages.
fn torn(map: &Path) -> Vec<Vec<u8>> {
    let mut journals: Vec<_> = fs::read_dir(map)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .collect();
    journals.sort();
    let mut journal = fs::read(journals.pop().unwrap()).unwrap();
    let end = journal.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    journal.truncate(end);
    let ends: Vec<usize> = journal
        .windows(4)
        .enumerate()
        .filter(|(_, bytes)| bytes == b"FJL\x03")
        .map(|(at, _)| at + 4)
        .filter(|end| *end <= 3500)
        .collect();
    let mut inputs = Vec::new();
    for end in ends {
        inputs.push(journal[..end].to_vec());
        let mut torn = journal[..end].to_vec();
        let from = (end - 1) / 512 * 512;
        torn[from..end].fill(0);
        inputs.push(torn.clone());
        torn.extend([0; 64]);
        inputs.push(torn);
    }
    inputs
}
