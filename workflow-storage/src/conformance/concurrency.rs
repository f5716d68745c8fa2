//! What holds for one caller holds for many at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::{JoinSet, yield_now};

use super::kit::*;
use crate::{Position, RunId, SendOutcome, Storage, ValueKey, WriteOutcome};

const TASKS: u64 = 16;
/// How often each task tries to be in another's way.
const RACES: usize = 20;

/// Does the same from many tasks; what each got.
async fn all_at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    store: &Arc<dyn Storage>,
    task: impl Fn(Arc<dyn Storage>, u64) -> F,
) -> Vec<T> {
    let start = Arc::new(Barrier::new(TASKS as usize));
    let mut tasks = JoinSet::new();
    for n in 0..TASKS {
        let (start, task) = (Arc::clone(&start), task(Arc::clone(store), n));
        tasks.spawn(async move {
            start.wait().await;
            task.await
        });
    }
    tasks.join_all().await
}

/// Runs that have nothing to do with each other do not disturb each other.
pub async fn many_tasks_write_to_many_runs(stores: Stores<'_>) {
    let store = stores.open().await;
    let runs = all_at_once(&store, |store, n| async move {
        let mut run = Owned::new(&format!("run{n}"))
            .wake_at(n)
            .create(&*store)
            .await;
        for m in 0..12 {
            run.appended(&*store, format!("{n}.{m}")).await;
        }
        run
    })
    .await;
    for run in runs {
        assert_eq!(record(&*store, &run.run).await, Some(run.record.clone()));
        let n = run.record.wake_at.unwrap().0;
        let expected: Vec<_> = (0..12).map(|m| entry(m, format!("{n}.{m}"))).collect();
        assert_eq!(journal(&*store, &run.run).await, expected);
    }
    assert_eq!(due(&*store, TASKS, ALL).await.len() as u64, TASKS);
}

/// Of many that create one run, one does, and it is that one's.
pub async fn one_of_many_creators_wins(stores: Stores<'_>) {
    let store = stores.open().await;
    let outcomes = all_at_once(&store, |store, n| async move {
        let mut outcomes = Vec::new();
        for run in 0..RACES {
            let run = Owned::new(&format!("run{run}")).created_at(n);
            outcomes.push(try_write(&*store, run.creation()).await);
            // Stores that never wait would else have one task after the other.
            yield_now().await;
        }
        (n, outcomes)
    })
    .await;
    for run in 0..RACES {
        let of_run = outcomes.iter().map(|(n, of_task)| (n, of_task[run]));
        let (won, lost): (Vec<_>, Vec<_>) =
            of_run.partition(|(_, outcome)| *outcome == WriteOutcome::Written);
        assert_eq!(won.len(), 1, "several created run {run}");
        assert!(lost.iter().all(|(_, lost)| *lost == WriteOutcome::Exists));
        let stored = record(&*store, &id(&format!("run{run}"))).await.unwrap();
        assert_eq!(stored.created_at.0, *won[0].0);
    }
}

/// No two claims give the same epoch, and only the last one's owner may write.
pub async fn claims_of_one_run_have_different_epochs(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let epochs = all_at_once(&store, |store, _| async move {
        let mut epochs = Vec::new();
        for _ in 0..RACES {
            let lease = Duration::from_secs(60);
            let claimed = store.claim(&[id("a")], NODE, lease).await.unwrap();
            epochs.push(claimed[0].as_ref().unwrap().epoch);
            yield_now().await;
        }
        epochs
    })
    .await;
    let epochs = epochs.concat();
    let different: BTreeSet<_> = epochs.iter().copied().collect();
    assert_eq!(different.len(), epochs.len(), "{epochs:?}");

    let last = *different.last().unwrap();
    for epoch in different {
        let mut write = run.write();
        write.expect = crate::Expect::Epoch(epoch);
        write.record.epoch = epoch;
        let expected = match epoch == last {
            true => WriteOutcome::Written,
            false => WriteOutcome::Fenced { current: last },
        };
        assert_eq!(try_write(&*store, write).await, expected);
    }
}

/// Every message has a number of its own, and a sender's messages come in the sender's order.
pub async fn messages_of_many_senders_all_arrive(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    all_at_once(&store, |store, n| async move {
        for m in 0..10 {
            sent(&*store, message(&Owned::new("a"), None, vec![n as u8, m])).await;
        }
    })
    .await;
    let messages = inbox(&*store, &run.run).await;
    assert_eq!(messages.len() as u64, TASKS * 10);
    for n in 0..TASKS {
        let of_one: Vec<_> = messages
            .iter()
            .filter(|message| u64::from(message.body[0]) == n)
            .map(|message| message.body[1])
            .collect();
        assert_eq!(of_one, (0..10).collect::<Vec<_>>());
    }
}

/// Of many messages of one key, sent at once, one arrives.
pub async fn one_of_many_equal_messages_arrives(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let outcomes = all_at_once(&store, |store, _| async move {
        let mut outcomes = Vec::new();
        for key in 0..RACES {
            let message = message(&Owned::new("a"), Some(&format!("key{key}")), "hello");
            outcomes.extend(send(&*store, vec![message]).await);
            yield_now().await;
        }
        outcomes
    })
    .await;
    for key in 0..RACES {
        let of_key = outcomes.iter().map(|of_task| of_task[key]);
        let dropped = of_key.filter(|&outcome| outcome == SendOutcome::Duplicate);
        assert_eq!(dropped.count() as u64, TASKS - 1, "key{key}");
    }
    assert_eq!(inbox(&*store, &run.run).await.len(), RACES);
}

/// Whoever sees one write of a batch sees the others, in records and in values.
pub async fn readers_see_whole_batches(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut runs = ["a", "b", "c"].map(Owned::new);
    for run in &runs {
        run.clone().create(&*store).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for order in [["a", "c"], ["c", "a"], ["b", "a"], ["a", "b"]] {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        readers.spawn(async move {
            let mut seen = [0; 2];
            while !done.load(Ordering::Acquire) {
                for run in order {
                    let now = last_batch(&*store, &id(run)).await;
                    assert!(
                        seen[0] <= now[0] && seen[1] <= now[1],
                        "{order:?}: saw batches {seen:?}, then only {now:?}"
                    );
                    seen = now;
                }
            }
        });
    }
    for batch in 1..=100_u64 {
        let writes = runs.each_mut().map(|run| {
            run.record.steps.done = batch;
            run.set(ValueKey::Output, Some(batch.to_be_bytes().to_vec().into()))
        });
        commit(&*store, writes.to_vec(), vec![]).await;
    }
    done.store(true, Ordering::Release);
    readers.join_all().await;
}

/// The last batch that shows in a run's record, and in its output.
async fn last_batch(store: &dyn Storage, run: &RunId) -> [u64; 2] {
    let record = record(store, run).await.unwrap();
    let output = value(store, run, ValueKey::Output).await;
    let output = output.map_or(0, |batch| u64::from_be_bytes((*batch).try_into().unwrap()));
    [record.steps.done, output]
}

/// A record that counts an entry is not seen before the entry.
pub async fn readers_find_the_entries_that_records_promise(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move {
            while !done.load(Ordering::Acquire) {
                let promised = record(&*store, &id("a")).await.unwrap().next_entry;
                let Some(last) = promised.0.checked_sub(1) else {
                    continue;
                };
                let found = store.journal(&id("a"), Position(last), 1).await.unwrap();
                assert_eq!(found.first().map(|entry| entry.position.0), Some(last));
            }
        }
    });
    for n in 0..100 {
        run.appended(&*store, noise(5_000, n)).await;
    }
    done.store(true, Ordering::Release);
    reader.await.unwrap();
}
