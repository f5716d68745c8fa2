//! Code that changes under a run suspends it with an error that says what changed, and never fails or loses it.
//!
//! A program that has other steps is simulated by the store: it reads journals with a step's name changed.

use std::sync::Arc;

use keepstep::SuspendReason;
use keepstep::prelude::*;
use keepstep::storage::memory;
use serde::{Deserialize, Serialize};

use crate::common::{Do, Lab, Tampered, World, act, leaf, rewritten};

#[derive(Debug, Serialize, Deserialize)]
struct Old {
    id: u64,
    lines: Vec<OldLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OldLine {
    price: String,
}

/// As it is in the program that wrote the run.
#[step(name = "charge/was", version = 7)]
async fn charge_was(_after: i64, order: Old, #[resource] world: &World) -> i64 {
    world.note("was");
    order.id as i64
}

#[derive(Debug, Serialize, Deserialize)]
struct New {
    id: u64,
    lines: Vec<NewLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NewLine {
    price: u64,
}

/// As it is in a program in which a field has another type.
#[step(name = "charge/new", version = 7)]
async fn charge_new(_after: i64, order: New, #[resource] world: &World) -> i64 {
    world.note("new");
    order.lines.iter().map(|line| line.price as i64).sum()
}

/// As it is in a program in which fields came and went, and others changed places.
#[derive(Debug, Serialize, Deserialize)]
struct Grown {
    #[serde(default)]
    note: Option<String>,
    lines: Vec<OldLine>,
}

#[step(name = "charge/add", version = 7)]
async fn charge_add(_after: i64, order: Grown, #[resource] world: &World) -> i64 {
    world.note("add");
    order.lines.len() as i64 + i64::from(order.note.is_some())
}

/// As it is in a program in which it has one more parameter.
#[step(name = "charge/arg", version = 7)]
async fn charge_arg(_after: i64, order: Old, more: u64, #[resource] world: &World) -> i64 {
    world.note("arg");
    (order.id + more) as i64
}

/// A run that waits before its charge, interrupted.
async fn interrupted() -> (Arc<Tampered>, Lab) {
    let store = Arc::new(Tampered::new(memory()));
    let lab = Lab::on(store.clone());
    lab.world.tell("before", Do::Hold);
    let engine = lab.engine().await;
    let lines = vec![OldLine { price: "3".into() }];
    let charge = charge_was(leaf("before").build(), Old { id: 17, lines });
    let workflow = act("root", vec![charge, leaf("beside").build()]);
    drop(engine.start("run", workflow).await.unwrap());
    lab.world.until("before").await;
    lab.world.until("beside").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    lab.crash(engine).await;
    lab.world.log();
    lab.world.tell("before", Do::Succeed);
    (store, lab)
}

/// What becomes of the run in a program in which the step is called otherwise.
async fn suspended_in(program: &'static str) -> (Arc<Tampered>, Lab, SuspendReason) {
    let (store, lab) = interrupted().await;
    store.with(move |_, entry| Some(rewritten(entry, "charge/was", program)));
    let engine = lab.engine().await;
    let handle = engine.resume::<i64>("run").await.unwrap();
    let reason = match handle.await {
        Err(Error::Suspended { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(engine.status("run").await.unwrap(), Status::Suspended);
    let metadata = engine.metadata("run").await.unwrap();
    assert_eq!(metadata.suspended.as_ref(), Some(&reason));
    assert_eq!(lab.world.log(), ["before"], "no body ran in vain");
    // Trying again with the same program is the same, and costs no attempt.
    for _ in 0..5 {
        let again = engine.resume::<i64>("run").await.unwrap().await;
        assert!(matches!(again, Err(Error::Suspended { .. })), "{again:?}");
    }
    lab.crash(engine).await;
    (store, lab, reason)
}

/// The program that wrote the run comes back.
async fn goes_on(store: &Tampered, lab: &Lab) {
    store.heal();
    let engine = lab.engine().await;
    let handle = engine.resume::<i64>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), 17 + 1 + 1);
    assert_eq!(lab.world.log(), ["was", "root"]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_gone_suspends_the_run() {
    let (store, lab, reason) = suspended_in("charge/xxx").await;
    let expected = SuspendReason::UnknownStep {
        step: "charge/xxx".into(),
        version: 7,
    };
    assert_eq!(reason, expected);
    goes_on(&store, &lab).await;
}

#[tokio::test(start_paused = true)]
async fn an_argument_that_does_not_decode_suspends_the_run() {
    let (store, lab, reason) = suspended_in("charge/new").await;
    match reason {
        SuspendReason::Undecodable {
            step,
            version,
            param,
            field,
            message,
        } => {
            assert_eq!((&*step, version), ("charge/new", 7));
            assert_eq!((&*param, &*field), ("order", "lines[0].price"));
            assert!(!message.is_empty());
        }
        other => panic!("{other:?}"),
    }
    goes_on(&store, &lab).await;
}

#[tokio::test(start_paused = true)]
async fn an_argument_that_was_never_stored_suspends_the_run() {
    let (store, lab, reason) = suspended_in("charge/arg").await;
    match reason {
        SuspendReason::Undecodable { step, param, .. } => {
            assert_eq!((&*step, &*param), ("charge/arg", "more"));
        }
        other => panic!("{other:?}"),
    }
    goes_on(&store, &lab).await;
}

#[tokio::test(start_paused = true)]
async fn fields_may_come_and_go() -> keepstep::Result<()> {
    let (store, lab) = interrupted().await;
    store.with(|_, entry| Some(rewritten(entry, "charge/was", "charge/add")));
    let engine = lab.engine().await;
    assert_eq!(engine.resume::<i64>("run").await?.await?, 1 + 1 + 1);
    assert_eq!(lab.world.log(), ["before", "add", "root"]);
    engine.shutdown().await
}
