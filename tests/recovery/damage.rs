//! Damaged journals: the error names the run and the entry, and nothing runs because of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keepstep::prelude::*;
use keepstep::storage::{Position, memory};
use keepstep::{Damage, Filter};

use crate::common::{Do, Lab, Tampered, World, join, leaf};

/// A run whose first two steps are done, each in an entry of its own, and another; both resumable.
async fn interrupted() -> (Arc<Tampered>, Lab, Engine) {
    let store = Arc::new(Tampered::new(memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("c", Do::Hold);
    let engine = lab.engine().await;
    for id in ["run", "other"] {
        let workflow = join("c", [join("b", [leaf("a")])]).build();
        drop(engine.start(id, workflow).await.unwrap());
    }
    lab.world.until_times("c", 2).await;
    lab.crash(engine).await;
    lab.world.log();
    lab.world.tell("c", Do::Succeed);
    let engine = lab.engine().await;
    (store, lab, engine)
}

async fn assert_untouched(engine: &Engine, world: &World) {
    assert_eq!(world.log(), [""; 0]);
    // What is stored is as it was, and can be looked at without the journal.
    assert_eq!(engine.status("run").await.unwrap(), Status::Resumable);
    assert_eq!(engine.metadata("run").await.unwrap().progress.done, 2);
    assert_eq!(engine.list(Filter::all()).await.unwrap().runs.len(), 2);
}

fn damage_of<T: std::fmt::Debug>(result: keepstep::Result<T>) -> Damage {
    match result {
        Err(error @ Error::Damaged { .. }) => {
            let message = error.to_string();
            let start = "journal of run \"run\" ";
            assert!(message.starts_with(start), "{message}");
            match error {
                Error::Damaged { damage, .. } => damage,
                _ => unreachable!(),
            }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_a_journal_stops_its_run_only() -> keepstep::Result<()> {
    let (store, lab, engine) = interrupted().await;
    for at in 0..3 {
        store.with(move |run, entry| {
            let is_hole = run.as_str() == "run" && entry.position == Position(at);
            (!is_hole).then_some(entry)
        });
        let hole = Damage::Hole { at: Position(at) };
        assert_eq!(damage_of(engine.resume::<i64>("run").await), hole);
        let same = join("c", [join("b", [leaf("a")])]).build();
        assert_eq!(damage_of(engine.run("run", same).await), hole);
        assert_eq!(damage_of(engine.graph("run").await), hole);
        assert_eq!(
            damage_of(engine.step_output::<i64>("run", "none").await),
            hole
        );
        assert_untouched(&engine, &lab.world).await;
    }
    // Of all that are resumed, it alone is not.
    let resumed = engine.resume_all().await?;
    assert_eq!(resumed.len(), 2);
    for (id, handle) in resumed {
        match &*id {
            "run" => drop(damage_of(handle)),
            _ => assert_eq!(handle?.await?, 3),
        }
    }
    assert_eq!(lab.world.log(), ["c"]);

    // Restored from a backup, it goes on.
    store.heal();
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    assert_eq!(lab.world.log(), ["c"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_ends_too_soon_has_a_hole() -> keepstep::Result<()> {
    let (store, lab, engine) = interrupted().await;
    store.with(|_, entry| (entry.position < Position(2)).then_some(entry));
    let hole = Damage::Hole { at: Position(2) };
    assert_eq!(damage_of(engine.resume::<i64>("run").await), hole);
    assert_untouched(&engine, &lab.world).await;
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn every_flipped_byte_of_a_journal_is_noticed() -> keepstep::Result<()> {
    let (store, lab, engine) = interrupted().await;
    for at in 0..3 {
        let length = Arc::new(AtomicUsize::new(1));
        let mut byte = 0;
        while byte < length.load(Ordering::Relaxed) {
            let length = length.clone();
            store.with(move |_, mut entry| {
                if entry.position == Position(at) {
                    let mut bytes = entry.bytes.to_vec();
                    length.store(bytes.len(), Ordering::Relaxed);
                    bytes[byte] ^= 0x10;
                    entry.bytes = bytes.into();
                }
                Some(entry)
            });
            match damage_of(engine.resume::<i64>("run").await) {
                Damage::Entry { at: told, .. } | Damage::Format { at: told, .. } => {
                    assert_eq!(told, Position(at), "byte {byte}");
                }
                other => panic!("{other:?}"),
            }
            assert_untouched(&engine, &lab.world).await;
            byte += 1;
        }
        assert!(byte > 13, "entry {at} has {byte} bytes");
    }
    store.heal();
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    assert_eq!(lab.world.log(), ["c"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_damaged_run_can_be_deleted() -> keepstep::Result<()> {
    let (store, lab, engine) = interrupted().await;
    store.with(|run, entry| (run.as_str() != "run").then_some(entry));
    damage_of(engine.resume::<i64>("run").await);
    engine.delete("run").await?;
    store.heal();
    assert_eq!(engine.run("run", leaf("new").build()).await?, 1);
    assert_eq!(lab.world.log(), ["new"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_pending_run_that_cannot_be_read_is_told_to_who_waits_for_it() -> keepstep::Result<()> {
    let store = Arc::new(Tampered::new(memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("held", Do::Hold);
    let engine = lab.builder().max_running_runs(1).build().await?;
    let first = engine.start("first", leaf("held").build()).await?;
    let pending = engine.start("run", leaf("a").build()).await?;
    store.with(|_, _| None);
    lab.world.tell("held", Do::Succeed);
    assert_eq!(first.await?, 1);
    assert_eq!(damage_of(pending.await), Damage::Hole { at: Position(0) });
    assert_eq!(engine.status("run").await?, Status::Resumable);
    store.heal();
    assert_eq!(engine.run("run", leaf("a").build()).await?, 1);
    assert_eq!(lab.world.log(), ["held", "a"]);
    engine.shutdown().await
}
