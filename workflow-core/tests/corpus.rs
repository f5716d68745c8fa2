//! Every input in `fuzz/corpus`, through the decoder it is for: what the fuzzer found stays found, on stable Rust.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use keepstep_core::fuzzing;
use keepstep_core::storage::fuzzing as storage;

fn in_fuzz(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz")
        .join(path)
}

fn targets() -> impl Iterator<Item = fuzzing::Target> {
    fuzzing::TARGETS.iter().chain(storage::TARGETS).copied()
}

/// The names in a directory, without their extension.
fn names(path: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(in_fuzz(path)).unwrap();
    let name = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().into();
    entries.map(|entry| name(entry.unwrap())).collect()
}

#[test]
fn every_decoder_has_a_fuzz_target_and_a_corpus() {
    let decoders: BTreeSet<String> = targets().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), decoders);
    assert_eq!(names("corpus"), decoders);
    for (name, _) in targets() {
        let manifest = fs::read_to_string(in_fuzz("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = in_fuzz(&format!("fuzz_targets/{name}.rs"));
        let code = fs::read_to_string(target).unwrap();
        assert!(code.contains(&format!("(\"{name}\")")), "{name}: {code}");
    }
}

#[test]
fn no_decoder_panics_at_its_corpus() {
    for (name, decode) in targets() {
        let mut files = 0;
        for file in fs::read_dir(in_fuzz("corpus").join(name)).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            // An overflow of the stack leaves nothing else to go by.
            println!("{}", path.display());
            let outcome = std::panic::catch_unwind(|| decode(&bytes));
            assert!(outcome.is_ok(), "{} makes {name} panic", path.display());
            files += 1;
        }
        assert!(files > 0, "{name} has no corpus");
        // Nor at what nobody meant.
        decode(&[]);
        decode(&[0; 100]);
        decode(&[0xff; 100]);
    }
}
