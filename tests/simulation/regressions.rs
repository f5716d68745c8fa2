//! What simulations found, as small as it gets.

use std::time::Duration;

use keepstep::storage::fault::{Call, Effect, Fault};
use keepstep::{Error, Status};

use crate::programs::{Out, Prog, Spec};
use crate::world::{Limits, World, block_on};

fn spec(label: u32) -> Spec {
    Spec {
        label,
        ..Spec::default()
    }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// The task of the run took its end, whose commit had not returned, for one that is still to be written.
#[test]
fn a_run_that_ends_during_a_shutdown_stays_ended() {
    block_on(async {
        let mut world = World::new(1);
        let opened = world.open(Limits::default()).await;
        world
            .faulty
            .inject(Fault::at(Call::Commit, 2, Effect::DelayAfter));
        let workflow = Prog::Leaf(spec(1)).build("");
        let handle = opened.engine.start("r", workflow).await.unwrap();
        world.faulty.until_held(1).await;
        let engine = opened.engine.clone();
        let shutdown = tokio::spawn(async move { engine.shutdown().await });
        a_while().await;
        world.faulty.release_held();
        shutdown.await.unwrap().unwrap();
        assert_eq!(handle.await.unwrap().value, 1000);
        assert_eq!(world.ledger.violations(), Vec::<String>::new());
        let next = world.open(Limits::default()).await;
        let status = next.engine.status("r").await.unwrap();
        assert_eq!(status, Status::Successful);
    });
}
/// The run was looked at, then its owner ended it, then it was claimed and stopped.
#[test]
fn a_run_that_another_engine_ends_meanwhile_cannot_be_stopped() {
    block_on(async {
        for cancels in [false, true] {
            let mut world = World::new(1);
            let owner = world.open(Limits::default()).await;
            let other = world.open(Limits::default()).await;
            let slow = Spec {
                sleeps_ms: 20,
                ..spec(1)
            };
            let workflow = Prog::Leaf(slow).build("");
            let handle = owner.engine.start("r", workflow).await.unwrap();
            world.faulty.inject(Fault::next(Call::Claim, Effect::Delay));
            let engine = other.engine.clone();
            let stop = tokio::spawn(async move {
                match cancels {
                    true => engine.cancel("r").await,
                    false => engine.suspend("r").await,
                }
            });
            assert_eq!(handle.await.unwrap().value, 1000);
            world.faulty.release_held();
            let said = stop.await.unwrap();
            let is_right = matches!(
                said,
                Err(Error::AlreadyEnded {
                    status: Status::Successful,
                    ..
                })
            );
            assert!(is_right, "{said:?}");
            let status = owner.engine.status("r").await.unwrap();
            assert_eq!(status, Status::Successful);
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        }
    });
}

/// The one who waited was left waiting, and so was everyone who asked for the run later.
#[test]
fn who_waits_for_a_run_outside_memory_is_told_that_it_cannot_be_claimed() {
    block_on(async {
        let mut world = World::new(1);
        let engine = world.open(Limits::default()).await.engine;
        let patient = Spec {
            fails: 1,
            retries: 1,
            is_patient: true,
            ..spec(1)
        };
        let workflow = Prog::Leaf(patient).build("");
        let handle = engine.start("r", &workflow).await.unwrap();
        a_while().await;
        world.faulty.inject(Fault::next(Call::Claim, Effect::Fail));
        let said = engine.suspend("r").await;
        assert!(matches!(said, Err(Error::Storage(_))), "{said:?}");
        let told = tokio::time::timeout(Duration::from_secs(3600), handle).await;
        assert!(
            matches!(told, Ok(Err(Error::Interrupted { .. }))),
            "{told:?}"
        );
        let status = engine.status("r").await.unwrap();
        assert_eq!(status, Status::Resumable);
        assert_eq!(engine.run("r", &workflow).await.unwrap().value, 1000);
        assert_eq!(world.ledger.violations(), Vec::<String>::new());
    });
}

/// The new run began at the epoch of the old one, so the old run's task could write to it.
#[test]
fn a_run_that_was_deleted_cannot_write_to_the_next_one_of_its_id() {
    block_on(async {
        let mut world = World::new(1);
        let first = world.open(Limits::default()).await.engine;
        let second = world.open(Limits::default()).await.engine;
        let slow = |label| Spec {
            sleeps_ms: 100,
            ..spec(label)
        };
        let old = Prog::Leaf(slow(1)).build("");
        let old = first.start("r", old).await.unwrap();
        a_while().await;
        second.delete("r").await.unwrap();
        let new = Prog::Gather(spec(3), vec![Prog::Leaf(slow(2))]).build("");
        let new = second.start("r", new).await.unwrap();
        let overtaken = old.await;
        assert!(
            matches!(overtaken, Err(Error::Fenced { .. })),
            "{overtaken:?}"
        );
        assert_eq!(new.await.unwrap().value, 5000);
        assert_eq!(world.ledger.violations(), Vec::<String>::new());
    });
}

/// It was given a place to wait at after all such places had been told of the shutdown.
#[test]
fn who_asks_for_a_run_during_a_shutdown_is_told_of_it() {
    block_on(async {
        let mut world = World::new(1);
        let engine = world.open(Limits::default()).await.engine;
        let patient = Spec {
            fails: 1,
            retries: 1,
            is_patient: true,
            ..spec(1)
        };
        let workflow = Prog::Leaf(patient).build("");
        drop(engine.start("r", &workflow).await.unwrap());
        a_while().await;
        world.faulty.inject(Fault::next(Call::Read, Effect::Delay));
        let asking = engine.clone();
        let asking = tokio::spawn(async move { asking.output::<Out>("r").await });
        world.faulty.until_held(1).await;
        let shut = engine.clone();
        let shutdown = tokio::spawn(async move { shut.shutdown().await });
        a_while().await;
        world.faulty.release_held();
        shutdown.await.unwrap().unwrap();
        let told = tokio::time::timeout(Duration::from_secs(3600), asking).await;
        let told = told.expect("it hangs").unwrap();
        assert!(matches!(told, Err(Error::ShutDown)), "{told:?}");
    });
}

/// A child whose root is this, of a parent that takes its output.
fn parent_of(inner: Prog) -> Prog {
    Prog::Child(spec(100), "c".to_owned(), Box::new(inner), None)
}

/// It looked at its child twice, and what the second look found came when its end was written and nothing was to happen any
/// more: its task waited forever.
#[test]
fn a_parent_ends_although_it_still_looks_at_its_child() {
    for nth in 1..=12 {
        block_on(async {
            let mut world = World::new(1);
            let engine = world.open(Limits::default()).await.engine;
            let patient = Spec {
                fails: 1,
                retries: 1,
                is_patient: true,
                ..spec(1)
            };
            let workflow = parent_of(Prog::Leaf(patient)).build("");
            let handle = engine.start("r", &workflow).await.unwrap();
            // Both have left memory.
            tokio::time::sleep(Duration::from_secs(5)).await;
            world
                .faulty
                .inject(Fault::at(Call::Read, nth, Effect::Delay));
            tokio::time::sleep(Duration::from_secs(30)).await;
            world.faulty.heal();
            world.faulty.release_held();
            let ended = tokio::time::timeout(Duration::from_secs(3600), handle).await;
            assert_eq!(ended.expect("it hangs").unwrap().value, 101_000);
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        });
    }
}

/// The child that could not be written was nobody's any more, or its end was stored and its parent was not told: who waited for
/// the parent waited forever.
#[test]
fn who_waits_for_a_parent_is_told_when_its_child_could_not_be_written() {
    let effects: [fn() -> Effect; 2] = [|| Effect::Fail, || Effect::FailAfter];
    for (effect, nth) in effects
        .into_iter()
        .flat_map(|effect| (1..=8).map(move |nth| (effect, nth)))
    {
        block_on(async {
            let mut world = World::new(1);
            let engine = world.open(Limits::default()).await.engine;
            let slow = |label| Spec {
                sleeps_ms: 20_000,
                ..spec(label)
            };
            let inner = Prog::Gather(slow(1), vec![Prog::Leaf(slow(2))]);
            let workflow = parent_of(inner).build("");
            let handle = engine.start("r", &workflow).await.unwrap();
            world.faulty.inject(Fault::at(Call::Commit, nth, effect()));
            let ended = tokio::time::timeout(Duration::from_secs(3600), handle).await;
            match ended {
                Ok(Ok(out)) => assert_eq!(out.value, 103_000),
                Ok(Err(Error::Interrupted { .. })) => {
                    assert_eq!(engine.run("r", &workflow).await.unwrap().value, 103_000);
                }
                other => panic!("commit {nth}: {other:?}"),
            }
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        });
    }
}

/// It came to be after the message that it was not needed, and the process died before it was canceled.
#[test]
fn a_child_that_lost_a_race_before_it_was_there_is_canceled_after_a_crash() {
    block_on(async {
        let mut world = World::new(1);
        let opened = world.open(Limits::default()).await;
        let readers = [spec(101), spec(102)];
        let slow = Spec {
            sleeps_ms: 60_000,
            ..spec(1)
        };
        let lost = Box::new(parent_of(Prog::Leaf(slow)));
        let workflow = Prog::Race(spec(103), readers, lost, 20).build("");
        // The look whether the child is there waits, and then the commit that makes it.
        world.faulty.inject(Fault::at(Call::Read, 2, Effect::Delay));
        drop(opened.engine.start("r", &workflow).await.unwrap());
        a_while().await;
        let before = world.faulty.calls(Call::Commit);
        world
            .faulty
            .inject(Fault::next(Call::Commit, Effect::DelayAfter));
        world.faulty.release_held();
        while world.faulty.calls(Call::Commit) == before {
            tokio::task::yield_now().await;
        }
        opened.crash();
        world.faulty.release_held();
        let engine = world.open(Limits::default()).await.engine;
        assert_eq!(engine.run("r", &workflow).await.unwrap().value, 103_014);
        let child = match engine.resume::<Out>("c").await {
            Ok(child) => child.await,
            Err(error) => Err(error),
        };
        assert!(matches!(child, Err(Error::Canceled { .. })), "{child:?}");
        assert_eq!(world.ledger.violations(), Vec::<String>::new());
    });
}

/// It was lost, without a word to its parent, when it could not be read as its turn in the queue came.
#[test]
fn a_child_that_could_not_be_read_is_read_again() {
    for nth in 1..=8 {
        block_on(async {
            let mut world = World::new(1);
            let limits = Limits {
                runs: Some(1),
                ..Limits::default()
            };
            let engine = world.open(limits).await.engine;
            let workflow = parent_of(Prog::Leaf(spec(1))).build("");
            world
                .faulty
                .inject(Fault::at(Call::Read, nth, Effect::Fail));
            let handle = engine.start("r", &workflow).await.unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(3600), handle).await;
            match ended {
                Ok(Ok(out)) => assert_eq!(out.value, 101_000),
                // The parent itself could not be read.
                Ok(Err(_)) => {
                    assert_eq!(engine.run("r", &workflow).await.unwrap().value, 101_000);
                }
                Err(_) => panic!("read {nth}: it hangs"),
            }
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        });
    }
}
