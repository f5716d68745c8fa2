//! One fault at a time, at every call of the store: nothing is lost, nothing is done twice, somebody is told why, and nothing
//! hangs.

use std::error::Error as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstep::storage::fault::{Call, Effect, Fault};
use keepstep::{Error, Filter, Handle, Result, Status};

use crate::oracle::Witness;
use crate::programs::{Out, Prog, Spec};
use crate::world::{Limits, Opened, World, block_on};

/// Longer than any of this takes in virtual time.
const HANG: Duration = Duration::from_secs(24 * 3600);

const CALLS: [Call; 6] = [
    Call::Commit,
    Call::Claim,
    Call::Release,
    Call::PutBlob,
    Call::Read,
    Call::Close,
];

/// What went wrong for callers, as they were told.
#[derive(Debug, Default)]
struct Told(Vec<(&'static str, Error)>);

impl Told {
    fn note<T>(&mut self, call: &'static str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push((call, error))).ok()
    }

    /// Whether somebody was told the cause.
    fn names(&self, cause: &str) -> bool {
        self.0.iter().any(|(_, error)| {
            let mut texts = vec![error.to_string()];
            let mut source = error.source();
            while let Some(error) = source {
                texts.push(error.to_string());
                source = error.source();
            }
            texts.iter().any(|text| text.contains(cause))
        })
    }
}

fn spec(label: u32) -> Spec {
    Spec {
        label,
        retries: 3,
        ..Spec::default()
    }
}

/// Fan-out, expansions, a tail call, retries, a catch, a named and a volatile step, a value that goes into a blob.
fn everything(sleeps_ms: u64) -> Prog {
    let flaky = |label| Spec {
        fails: 2,
        panics: label % 2 == 0,
        sleeps_ms,
        ..spec(label)
    };
    let hopeless = Spec {
        fails: 2,
        retries: 1,
        ..spec(3)
    };
    let of = vec![
        Prog::Leaf(Spec {
            is_named: true,
            ..spec(2)
        }),
        Prog::Catch(spec(4), Box::new(Prog::Leaf(hopeless))),
        Prog::Expand(
            spec(5),
            Box::new(Prog::Gather(
                spec(6),
                vec![Prog::Leaf(flaky(7)), Prog::Leaf(flaky(8))],
            )),
        ),
        Prog::Loop(spec(9), 3),
        Prog::Leaf(Spec {
            is_volatile: true,
            ..spec(10)
        }),
        Prog::Leaf(Spec {
            is_big: true,
            ..spec(11)
        }),
        Prog::Twice(spec(12), Box::new(Prog::Leaf(flaky(13)))),
    ];
    Prog::Gather(spec(1), of)
}

/// Runs, and the programs they are of.
fn programs() -> [(&'static str, Prog); 5] {
    let slow = Spec {
        sleeps_ms: 5000,
        ..spec(1)
    };
    let patient = Spec {
        fails: 1,
        is_patient: true,
        ..spec(1)
    };
    [
        ("a", everything(0)),
        ("b", everything(50)),
        ("c", everything(20)),
        ("d", Prog::Gather(spec(2), vec![Prog::Leaf(slow)])),
        ("e", Prog::Expand(spec(2), Box::new(Prog::Leaf(patient)))),
    ]
}

/// What a user does with all of it. Goes on after errors.
async fn scenario(world: &mut World, told: &mut Told) {
    let [a, b, c, d, e] = programs().map(|(id, prog)| (id, prog.build("")));
    let opened = world.open(Limits::default()).await;
    let engine = &opened.engine;
    let mut started: Vec<Handle<Out>> = Vec::new();
    for (id, workflow) in [&a, &b, &c, &d, &e] {
        started.extend(told.note("start", engine.start(id, workflow).await));
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    told.note("suspend", engine.suspend("b").await);
    if let Some(handle) = told.note("resume", engine.resume::<Out>("b").await) {
        told.note("resumed", handle.await);
    }
    told.note("cancel", engine.cancel("d").await);
    let waits_for_e = started.iter().find(|handle| handle.id() == "e").cloned();
    for handle in started {
        let id = handle.id().to_owned();
        if id != "e"
            && let Err(error) = handle.await
        {
            if matches!(error, Error::Interrupted { .. }) {
                check_interrupted(world, &opened, &id).await;
            }
            told.0.push(("run", error));
        }
    }
    // It is in the middle when the engine shuts down.
    told.note("shutdown", engine.shutdown().await);
    if let Some(handle) = waits_for_e {
        told.note("run", handle.await);
    }
    drop(opened);

    let opened = world.open(Limits::default()).await;
    let engine = &opened.engine;
    if let Some(resumed) = told.note("resume_all", engine.resume_all().await) {
        for (_, handle) in resumed {
            if let Some(handle) = told.note("resume", handle) {
                told.note("resumed", handle.await);
            }
        }
    }
    told.note("list", engine.list(Filter::all()).await);
    told.note("metadata", engine.metadata("a").await);
    told.note("output", engine.output::<Out>("a").await);
    told.note("step_output", engine.step_output::<Out>("a", "n2").await);
    told.note("delete", engine.delete("d").await);
    told.note("shutdown", engine.shutdown().await);
}

/// A run whose write failed is resumable, or what the write made it, if it was there all the same.
async fn check_interrupted(world: &World, opened: &Opened, id: &str) {
    world
        .pace
        .is_checking
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let status = opened.engine.status(id).await;
    world
        .pace
        .is_checking
        .store(false, std::sync::atomic::Ordering::Relaxed);
    match status {
        Ok(Status::Running | Status::Pending) => {
            let what = format!("4: {id} could not be written and is {status:?}");
            world.ledger.violated(what);
        }
        Ok(_) | Err(Error::NotFound { .. }) => {}
        Err(error) => world.ledger.violated(format!("4: status of {id}: {error}")),
    }
}

/// Once the store is well again, every run ends as its program says.
async fn goes_on(world: &mut World) -> Result<()> {
    let opened = world.open(Limits::default()).await;
    for (id, prog) in programs() {
        let ended = opened.engine.run(id, prog.build("")).await;
        match ended {
            Ok(out) => {
                let run = Witness {
                    ledger: &world.ledger,
                    run: id,
                };
                assert_eq!(Some(out.value), prog.value(run), "{id}");
                assert!(world.ledger.is_durable(&out.token), "{id}");
                let stored: Out = opened.engine.output(id).await?;
                assert_eq!(stored, out);
            }
            Err(Error::Canceled { .. }) if id == "d" => {}
            Err(error) => panic!("{id}: {error}: {:?}", error.source()),
        }
    }
    opened.engine.shutdown().await
}

/// One run of the scenario with one fault.
async fn with_fault(call: Call, nth: u64, effect: Effect) {
    let mut world = World::new(1);
    let mut told = Told::default();
    let holds = matches!(effect, Effect::Delay | Effect::DelayAfter | Effect::Freeze);
    world.faulty.inject(Fault::at(call, nth, effect));
    let faulty = std::sync::Arc::clone(&world.faulty);
    let releasing = tokio::spawn(async move {
        faulty.until_held(1).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        faulty.release_held();
    });
    scenario(&mut world, &mut told).await;
    releasing.abort();
    world.faulty.heal();
    goes_on(&mut world).await.expect("the store is well");
    assert_eq!(world.ledger.violations(), Vec::<String>::new());
    // What an engine looks up for itself it looks up again.
    let fails = !holds && !world.pace.has_missed.load(Ordering::Relaxed);
    assert!(
        !fails || (told.names("injected fault") || told.names("a faulty store")),
        "told {told:?}"
    );
}

/// How many calls of each kind the scenario makes when nothing goes wrong.
fn calls() -> Vec<(Call, u64)> {
    block_on(async {
        let mut world = World::new(1);
        let mut told = Told::default();
        scenario(&mut world, &mut told).await;
        let counted = CALLS.map(|call| (call, world.faulty.calls(call)));
        let expected = [("resumed", true), ("run", true)];
        // Those who waited for `b`, `d` and `e` are told that they were suspended, canceled and left.
        for (call, error) in &told.0 {
            let stopped = matches!(
                error,
                Error::Suspended { .. } | Error::Canceled { .. } | Error::ShutDown
            );
            assert!(expected.contains(&(call, stopped)), "{call}: {error}");
        }
        goes_on(&mut world).await.expect("nothing is wrong");
        assert_eq!(world.ledger.violations(), Vec::<String>::new());
        counted.to_vec()
    })
}

fn sweep(name: &str, effect: impl Fn() -> Effect) {
    let mut failed = Vec::new();
    for (call, n) in calls() {
        for nth in 1..=n {
            let sweep = async {
                tokio::time::timeout(HANG, with_fault(call, nth, effect()))
                    .await
                    .expect("it hangs");
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block_on(sweep)));
            if result.is_err() {
                failed.push(format!("{call:?} {nth} of {n}"));
            }
        }
    }
    assert!(failed.is_empty(), "{name} at {failed:?}");
}

#[test]
fn a_call_that_fails_loses_nothing() {
    sweep("fail", || Effect::Fail);
}

#[test]
fn a_call_that_is_done_and_reported_as_failed_loses_nothing() {
    sweep("fail after", || Effect::FailAfter);
}

#[test]
fn a_call_that_is_done_for_some_runs_only_loses_nothing() {
    sweep("tear", || {
        Effect::tear(|run| matches!(run.as_str(), "a" | "d"))
    });
    sweep("tear", || {
        Effect::tear(|run| matches!(run.as_str(), "b" | "c" | "e"))
    });
}

#[test]
fn a_call_that_takes_long_loses_nothing() {
    sweep("delay", || Effect::Delay);
    sweep("delay after", || Effect::DelayAfter);
}

#[test]
fn a_store_that_hangs_for_a_while_loses_nothing() {
    sweep("freeze", || Effect::Freeze);
}

#[test]
fn a_store_that_fails_from_a_call_on_loses_nothing() {
    sweep("crash", || Effect::Crash);
}

#[test]
fn a_store_that_writes_nothing_any_more_loses_nothing() {
    sweep("poison", || Effect::Poison);
}
