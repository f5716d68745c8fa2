//! Writes the first inputs of every corpus: bytes of real runs and real stores.

mod map;
mod stores;
mod workflows;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use map::Pairs;

/// Longer inputs are left out: the fuzzer is slow with them.
const MOST_BYTES: usize = 4096;
/// At most so many seeds of one kind, the smallest different ones first.
const MOST_SEEDS: usize = 12;

type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

#[tokio::main]
async fn main() {
    let mut seeds = Seeds::new();
    let pairs = workflows::run_all().await;
    of_pairs(&pairs, &mut seeds);
    stores::of_directories(&mut seeds).await;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, mut inputs) in seeds {
        inputs.retain(|input| !input.is_empty() && input.len() <= MOST_BYTES);
        inputs.sort_by_key(|input| (input.len(), input.clone()));
        inputs.dedup();
        let step = inputs.len().div_ceil(MOST_SEEDS).max(1);
        let directory = corpus.join(target);
        fs::create_dir_all(&directory).unwrap();
        for (number, input) in inputs.iter().step_by(step).enumerate() {
            fs::write(directory.join(format!("seed-{number:02}")), input).unwrap();
        }
        println!("{target}: {} seeds", inputs.len().div_ceil(step));
    }
}

/// Sorts the pairs of a store by the decoder that reads them.
fn of_pairs(pairs: &Pairs, seeds: &mut Seeds) {
    let mut add = |target, bytes: &[u8]| seeds.entry(target).or_default().push(bytes.to_vec());
    let mut store = Vec::new();
    let mut folded: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    for (key, value) in pairs {
        let payload = &value[..value.len().saturating_sub(4)];
        add("keys", &key[1..]);
        match key[0] {
            b'r' => add("record", payload),
            // Chunk 0 begins with the length of the whole; all of these are one chunk.
            b'j' => {
                of_entry(&payload[4..], &mut add);
                // The key of an entry ends with its position and its chunk.
                let run = &key[..key.len() - 12];
                folded.entry(run).or_default().extend(&payload[4 + 13..]);
            }
            b'v' => {
                add("value", &payload[4..]);
                add("stored_error", &payload[4..]);
            }
            _ => {}
        }
        add("chunks", &[&[8, 1], payload].concat());
        let sealed = if value.is_empty() {
            (0, &value[..])
        } else {
            (1, payload)
        };
        if key[0] != 0 && payload.len() < 400 {
            store.extend([sealed.0, key.len() as u8]);
            store.extend(key);
            store.extend((sealed.1.len() as u16).to_le_bytes());
            store.extend(sealed.1);
        }
        if store.len() > 1500 {
            add("store", &std::mem::take(&mut store));
        }
    }
    for events in folded.values() {
        add("fold", events);
    }
}

fn of_entry(entry: &[u8], add: &mut impl FnMut(&'static str, &[u8])) {
    let (header, events) = entry.split_at(13);
    add("journal_entry", entry);
    add("journal_entry", &[&header[1..2], events].concat());
    // A run is created by event 0, which is a plan, and compacted by event 9.
    if let [0, plan @ ..] = events {
        add("plan", plan);
        arguments(plan, add);
    }
}

/// Every place in a plan where an argument may begin: few do, but those that do are real.
fn arguments(plan: &[u8], add: &mut impl FnMut(&'static str, &[u8])) {
    for at in 0..plan.len().min(64) {
        if plan[at] <= 4 {
            add("arguments", &plan[at..]);
        }
    }
}
