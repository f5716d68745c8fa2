//! Values are what was last set.

use super::kit::*;
use crate::ValueKey;

fn step(name: &str) -> ValueKey {
    ValueKey::Step(name.to_owned())
}

/// A value is one value, however the store has to cut it.
pub async fn values_of_all_sizes_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    for (n, size) in SIZES.into_iter().enumerate() {
        let set = run.set(step(&size.to_string()), Some(noise(size, n as u64)));
        write(&*store, set).await;
    }
    for (n, size) in SIZES.into_iter().enumerate() {
        let read = value(&*store, &run.run, step(&size.to_string())).await;
        assert!(read == Some(noise(size, n as u64)), "value of {size} bytes");
    }
}

/// Of a large value that a smaller one replaces, nothing stays.
pub async fn values_are_replaced_whole(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    for size in [1 << 20, 100_000, 5_000, 4_096, 0, 70_000, 1] {
        let set = run.set(ValueKey::Output, Some(noise(size, 1)));
        write(&*store, set).await;
        let read = value(&*store, &run.run, ValueKey::Output).await;
        assert!(read == Some(noise(size, 1)), "value of {size} bytes");
    }
}

/// A removed value is gone, which is not the same as empty; removing what is not there is fine.
pub async fn values_are_removed(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    for size in [0, 10, 200_000] {
        write(&*store, run.set(ValueKey::Error, Some(noise(size, 1)))).await;
        write(&*store, run.set(ValueKey::Error, None)).await;
        assert_eq!(value(&*store, &run.run, ValueKey::Error).await, None);
    }
    write(&*store, run.set(ValueKey::Error, None)).await;
    write(&*store, run.set(ValueKey::Error, Some("x".into()))).await;
    assert_eq!(
        value(&*store, &run.run, ValueKey::Error).await,
        Some("x".into())
    );
}

/// Every key is a value of its own, whatever the user called the step.
pub async fn keys_do_not_mix(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let mut keys = vec![
        ValueKey::Output,
        ValueKey::Error,
        ValueKey::Metadata,
        ValueKey::State,
        ValueKey::Agenda,
        ValueKey::Declined,
        ValueKey::Interrupted,
    ];
    keys.extend([0, 1, 255, 256, u64::MAX].map(ValueKey::AgendaPage));
    keys.extend(["", "a", "ab"].map(|call| ValueKey::Result(call.to_owned())));
    keys.extend(
        [
            "",
            "a",
            "ab",
            "a\0",
            "a\0b",
            "Output",
            "zażółć",
            "\u{10ffff}",
        ]
        .map(step),
    );
    // Names that are longer than a store may want in a key, and differ only at their end.
    for end in ["", "a", "b"] {
        keys.push(step(&("long ".repeat(1_000) + end)));
    }
    let write_all = crate::RunWrite {
        values: keys
            .iter()
            .enumerate()
            .map(|(n, key)| (key.clone(), Some(noise(9_000, n as u64))))
            .collect(),
        ..run.write()
    };
    write(&*store, write_all).await;
    write(&*store, run.set(step("a"), None)).await;
    for (n, key) in keys.into_iter().enumerate() {
        let expected = (key != step("a")).then(|| noise(9_000, n as u64));
        let read = value(&*store, &run.run, key.clone()).await;
        assert!(read == expected, "value of {key:?}");
    }
}

/// The same key of two runs is two values, also where one id begins with the other.
pub async fn runs_do_not_mix(stores: Stores<'_>) {
    let store = stores.open().await;
    let short = Owned::new("a").create(&*store).await;
    let long = Owned::new("ab").create(&*store).await;
    write(&*store, short.set(step("bc"), Some("short".into()))).await;
    write(&*store, long.set(step("c"), Some("long".into()))).await;
    assert_eq!(
        value(&*store, &short.run, step("bc")).await,
        Some("short".into())
    );
    assert_eq!(value(&*store, &short.run, step("c")).await, None);
    assert_eq!(
        value(&*store, &long.run, step("c")).await,
        Some("long".into())
    );
    assert_eq!(value(&*store, &long.run, step("bc")).await, None);
}
