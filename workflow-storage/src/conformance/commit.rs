//! A commit is all of its writes, and says what became of each.

use super::kit::*;
use crate::{
    Batch, Committed, Durability, Epoch, MAX_RUN_ID_BYTES, Position, RunQuery, StepCounts,
    StoredStatus, Timestamp, ValueKey, WriteOutcome,
};

/// Every field of a record comes back as it was written.
pub async fn written_runs_are_there_as_written(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("order/17 zażółć 🦀").create(&*store).await;
    assert_eq!(record(&*store, &run.run).await, Some(run.record.clone()));

    run.record.status = StoredStatus::Failed;
    run.record.owner = None;
    run.record.incarnation = u64::MAX;
    run.record.workflow = "é".repeat(300);
    run.record.plan_hash = [0xff; 32];
    run.record.started_at = None;
    run.record.ended_at = Some(Timestamp::MAX);
    run.record.wake_at = Some(Timestamp(0));
    run.record.steps = StepCounts {
        total: u64::MAX,
        done: 1 << 40,
        failed: 3,
    };
    write(&*store, run.write()).await;
    assert_eq!(record(&*store, &run.run).await, Some(run.record));
}

/// One batch may write to many runs, and change each in every way at once.
pub async fn a_batch_writes_all_of_its_runs(stores: Stores<'_>) {
    let store = stores.open().await;
    let old = Owned::new("old").create(&*store).await;
    let mut runs: Vec<_> = (0..50)
        .map(|n| Owned::new(&format!("run-{n:02}")))
        .collect();
    let mut writes = vec![old.set(ValueKey::Metadata, Some("m".into()))];
    for (n, run) in runs.iter_mut().enumerate() {
        let entry = run.append(noise(n * 300, n as u64));
        writes.push(crate::RunWrite {
            entry: entry.entry,
            values: vec![(ValueKey::Output, Some(noise(n * 200, 99)))],
            ..run.creation()
        });
    }
    let messages = vec![message(&old, None, "hello")];
    let (outcomes, _) = commit(&*store, writes, messages).await;
    assert_eq!(outcomes, vec![WriteOutcome::Written; 51]);

    assert_eq!(
        value(&*store, &old.run, ValueKey::Metadata).await,
        Some("m".into())
    );
    assert_eq!(bodies(&*store, &old.run).await, ["hello"]);
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(record(&*store, &run.run).await, Some(run.record.clone()));
        let entries = journal(&*store, &run.run).await;
        assert_eq!(entries, [entry(0, noise(n * 300, n as u64))]);
        assert_eq!(
            value(&*store, &run.run, ValueKey::Output).await,
            Some(noise(n * 200, 99))
        );
    }
    assert_eq!(listed(&*store, &RunQuery::default()).await.len(), 51);
}

/// Every id that may name a run does, also the longest, and those that differ only in their last byte.
pub async fn every_valid_id_names_a_run(stores: Stores<'_>) {
    let store = stores.open().await;
    let long = "x".repeat(MAX_RUN_ID_BYTES - 1);
    let ids = [
        format!("{long}a"),
        format!("{long}b"),
        long,
        "é".repeat(MAX_RUN_ID_BYTES / 2),
        "\u{10ffff}".repeat(MAX_RUN_ID_BYTES / 4),
        " ".to_owned(),
        "../a".to_owned(),
        "%".to_owned(),
        "'\"\\".to_owned(),
    ];
    let mut runs = Vec::new();
    for (n, id) in (0..).zip(&ids) {
        let mut run = Owned::new(id)
            .created_at(n)
            .wake_at(n)
            .create(&*store)
            .await;
        run.appended(&*store, id.clone()).await;
        let set = run.set(ValueKey::Output, Some(id.clone().into()));
        write(&*store, set).await;
        sent(&*store, message(&run, Some(id), id.clone())).await;
        runs.push(run);
    }
    for (run, id) in runs.iter().zip(&ids) {
        assert_eq!(record(&*store, &run.run).await, Some(run.record.clone()));
        assert_eq!(journal(&*store, &run.run).await, [entry(0, id.clone())]);
        let output = value(&*store, &run.run, ValueKey::Output).await;
        assert_eq!(output, Some(id.clone().into()));
        assert_eq!(bodies(&*store, &run.run).await, [id]);
    }
    assert_eq!(listed(&*store, &RunQuery::default()).await, ids);
    let timers = due(&*store, u64::MAX, ALL).await;
    assert!(timers.iter().map(|(_, id)| id).eq(&ids), "{timers:?}");
}

/// A batch of nothing is taken and answers nothing.
pub async fn an_empty_batch_is_fine(stores: Stores<'_>) {
    let store = stores.open().await;
    let committed = store.commit(Batch::default()).await.unwrap();
    assert_eq!(committed, Committed::default());
}

/// Outcomes stand where their writes stood, whatever order the store works in.
pub async fn outcomes_come_in_the_order_of_the_writes(stores: Stores<'_>) {
    let store = stores.open().await;
    let known = Owned::new("m").create(&*store).await;
    let taken = Owned::new("a").create(&*store).await;
    let mut stale = Owned::new("z").create(&*store).await;
    stale.record.epoch = Epoch(9);
    let writes = vec![
        stale.write(),
        Owned::new("new").creation(),
        Owned::new("b").write(),
        taken.creation(),
        known.write(),
    ];
    let (outcomes, _) = commit(&*store, writes, vec![]).await;
    assert_eq!(
        outcomes,
        [
            WriteOutcome::Fenced {
                current: Epoch::FIRST
            },
            WriteOutcome::Written,
            WriteOutcome::NotFound,
            WriteOutcome::Exists,
            WriteOutcome::Written,
        ]
    );
}

/// Creating a run that exists changes nothing of it.
pub async fn a_new_run_must_not_exist(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut first = Owned::new("a");
    let creation = first.append("first");
    let creation = crate::RunWrite {
        entry: creation.entry,
        ..first.creation()
    };
    write(&*store, creation).await;

    let mut second = Owned::new("a").status(StoredStatus::Pending).wake_at(5);
    let entry_of_second = second.append("second").entry;
    let creation = crate::RunWrite {
        entry: entry_of_second,
        values: vec![(ValueKey::Metadata, Some("second".into()))],
        ..second.creation()
    };
    assert_eq!(try_write(&*store, creation).await, WriteOutcome::Exists);

    assert_eq!(record(&*store, &first.run).await, Some(first.record));
    assert_eq!(journal(&*store, &first.run).await, [entry(0, "first")]);
    assert_eq!(value(&*store, &first.run, ValueKey::Metadata).await, None);
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Pending))
            .await
            .len(),
        0
    );
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Running)).await,
        ["a"]
    );
    assert_eq!(due(&*store, u64::MAX, ALL).await, []);
}

/// A write to a run that nobody created is refused whole.
pub async fn a_write_to_an_unknown_run_leaves_no_trace(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("ghost").wake_at(5);
    let mut ghost = run.append("boo");
    ghost.values = vec![(ValueKey::Output, Some("boo".into()))];
    assert_eq!(try_write(&*store, ghost).await, WriteOutcome::NotFound);

    assert_eq!(record(&*store, &run.run).await, None);
    assert_eq!(journal(&*store, &run.run).await, []);
    assert_eq!(value(&*store, &run.run, ValueKey::Output).await, None);
    assert_eq!(listed(&*store, &RunQuery::default()).await.len(), 0);
    assert_eq!(due(&*store, u64::MAX, ALL).await, []);

    // Nor is there anything under it when it is created.
    let run = Owned::new("ghost").create(&*store).await;
    assert_eq!(journal(&*store, &run.run).await, []);
    assert_eq!(value(&*store, &run.run, ValueKey::Output).await, None);
}

/// Reading of a run that there is not is no error.
pub async fn unknown_runs_have_nothing(stores: Stores<'_>) {
    let store = stores.open().await;
    Owned::new("known").create(&*store).await;
    let run = id("unknown");
    assert_eq!(record(&*store, &run).await, None);
    assert_eq!(store.journal(&run, Position(3), 10).await.unwrap(), []);
    assert_eq!(value(&*store, &run, ValueKey::Error).await, None);
    assert_eq!(inbox(&*store, &run).await, []);
}

/// A description is for people and for the promises built on it.
pub async fn the_store_says_what_it_is(stores: Stores<'_>) {
    let store = stores.open().await;
    let description = store.describe();
    assert!(!description.backend.is_empty());
    if description.durability > Durability::Process {
        assert!(!description.location.is_empty());
    }
}
