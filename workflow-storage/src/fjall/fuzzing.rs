//! For the fuzzer: what cuts a torn batch off fjall's journal.

use super::torn::{batch_end, torn_batch};

/// Only the last batch is ever cut off, and only if some of it is zeros.
pub(crate) fn torn_journal(data: &[u8]) {
    // Where a batch ends depends on nothing behind it.
    if let Some(end) = batch_end(data) {
        assert_eq!(batch_end(&data[..end]), Some(end));
        assert_eq!(batch_end(&data[..end - 1]), None);
    }
    let Some(start) = torn_batch(data) else {
        return;
    };
    assert!(data[start..].contains(&0));
    let mut at = 0;
    while at < start {
        at += batch_end(&data[at..]).expect("only whole batches stay");
    }
    assert_eq!(at, start);
    if let Some(end) = batch_end(&data[start..]) {
        let behind = &data[start + end..];
        assert!(
            behind.iter().all(|byte| *byte == 0),
            "a batch was cut off that has another behind it"
        );
    }
}
