//! What must hold whenever one looks: of what calls return, and of what engines say of runs.
//!
//! What concerns bodies and writes is checked where they happen, by the ledger.

use std::error::Error as _;
use std::sync::atomic::Ordering;

use keepstep::storage::{StorageError, StoredStatus};
use keepstep::{Error, Filter, Result, Status, SuspendReason};

use crate::ledger::Ledger;
use crate::programs::Out;
use crate::world::{Opened, World};

const ALL: [Status; 7] = [
    Status::Pending,
    Status::Running,
    Status::Suspended,
    Status::Resumable,
    Status::Successful,
    Status::Failed,
    Status::Canceled,
];

/// Of every error: it is one that a user can meet in what was done.
pub(crate) fn error_is_fair(ledger: &Ledger, what: &str, error: &Error) {
    let is_fair = match error {
        Error::Suspended { reason, .. } => *reason == SuspendReason::Requested,
        Error::Storage(source) | Error::Interrupted { source, .. } => is_injected(source),
        Error::NotFound { .. }
        | Error::Failed { .. }
        | Error::Canceled { .. }
        | Error::Resumable { .. }
        | Error::Fenced { .. }
        | Error::StillActive { .. }
        | Error::ChildStillActive { .. }
        | Error::AlreadyEnded { .. }
        | Error::QueueFull { .. }
        | Error::ShutDown => true,
        // An engine may not know yet that another one deleted the run it drives, and that the id was used again.
        Error::IdConflict { .. } => ledger.has_deleted(),
        _ => false,
    };
    if !is_fair {
        let source = error.source();
        ledger.violated(format!("{what}: {error} ({source:?})"));
    }
}

fn is_injected(error: &StorageError) -> bool {
    match error {
        StorageError::Io { source, .. } => source.to_string() == "injected fault",
        StorageError::Poisoned { .. } | StorageError::Closed { .. } => true,
        _ => false,
    }
}

/// Of what waiting for a run returned: it is durable, it is what the run is, and it never changes (3).
pub(crate) fn outcome_is_true(ledger: &Ledger, id: &str, what: &str, outcome: &Result<Out>) {
    let (out, status) = match outcome {
        Ok(out) => (Some(out), StoredStatus::Successful),
        Err(Error::Failed { .. }) => (None, StoredStatus::Failed),
        Err(Error::Canceled { .. }) => (None, StoredStatus::Canceled),
        Err(Error::Suspended { .. }) => (None, StoredStatus::Suspended),
        Err(error) => return error_is_fair(ledger, what, error),
    };
    if let Err(error) = outcome {
        error_is_fair(ledger, what, error);
    }
    let Some(had) = ledger.stored(id, |stored| stored.had.contains(&status)) else {
        // It was deleted meanwhile.
        return;
    };
    if !had {
        ledger.violated(format!("3: {what} says {status:?}, which {id} never was"));
    }
    let Some(out) = out else { return };
    if !ledger.is_durable(&out.token) {
        ledger.violated(format!("3: {what} returned what is not durable"));
    }
    let first = ledger.stored(id, |stored| {
        let got = (out.value, out.token.clone());
        stored.output.get_or_insert(got).clone()
    });
    if let Some((value, token)) = first
        && (value, &token) != (out.value, &out.token)
    {
        ledger.violated(format!(
            "3: {what} returned {out:?}, before it was {value} {token}"
        ));
    }
}

/// Of every engine: what it says of runs agrees with itself and with the store (3), and unknown ids are `NotFound` (6).
pub(crate) async fn views_agree(world: &World, engines: &[Opened], ids: &[String], at: usize) {
    world.pace.is_checking.store(true, Ordering::Relaxed);
    for opened in engines {
        if let Err(what) = view_agrees(world, opened, ids, ALL[at % ALL.len()]).await {
            world.ledger.violated(what);
        }
    }
    world.pace.is_checking.store(false, Ordering::Relaxed);
}

async fn view_agrees(
    world: &World,
    opened: &Opened,
    ids: &[String],
    one: Status,
) -> Result<(), String> {
    let says = |error: Error| format!("a view of engine {}: {error}", opened.number);
    let engine = &opened.engine;
    let all = engine.list(Filter::all()).await.map_err(says)?.runs;
    let some = engine.list(one).await.map_err(says)?.runs;
    let mut n_some = 0;
    for id in ids {
        let listed = all.iter().find(|run| run.id == *id).map(|run| run.status);
        let status = match engine.status(id).await {
            Ok(status) => Some(status),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(says(error)),
        };
        let described = match engine.metadata(id).await {
            Ok(metadata) => Some(metadata.status),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(says(error)),
        };
        if status != listed || status != described {
            return Err(format!(
                "3: {id} is {status:?}, {listed:?} in the list and {described:?} in its metadata"
            ));
        }
        let stored = world.ledger.stored(id, |stored| stored.record.status);
        let is_so = match (status, stored) {
            (None, None) => true,
            (Some(status), Some(stored)) => match stored {
                StoredStatus::Pending => matches!(status, Status::Pending | Status::Resumable),
                StoredStatus::Running => matches!(status, Status::Running | Status::Resumable),
                StoredStatus::Suspended => status == Status::Suspended,
                StoredStatus::Successful => status == Status::Successful,
                StoredStatus::Failed => status == Status::Failed,
                StoredStatus::Canceled => status == Status::Canceled,
            },
            _ => false,
        };
        if !is_so {
            return Err(format!("3: {id} is {status:?} and stored as {stored:?}"));
        }
        if status == Some(one) {
            n_some += 1;
            if !some.iter().any(|run| run.id == *id) {
                return Err(format!("3: {id} is {one:?} and not listed as that"));
            }
        }
    }
    if some.len() != n_some {
        return Err(format!("3: {} runs are listed as {one:?}", some.len()));
    }
    Ok(())
}

/// Of an id that never was: every call says so, and leaves no trace (6).
pub(crate) async fn unknown_is_not_found(world: &World, opened: &Opened) {
    let engine = &opened.engine;
    let id = "nobody";
    let said = [
        engine.status(id).await.map(drop),
        engine.cancel(id).await,
        engine.suspend(id).await,
        engine.delete(id).await,
        engine.output::<Out>(id).await.map(drop),
        engine.resume::<Out>(id).await.map(drop),
        engine.metadata(id).await.map(drop),
        engine.step_output::<Out>(id, "n1").await.map(drop),
        engine.send_event(id, "e0", &0).await,
    ];
    for (at, said) in said.into_iter().enumerate() {
        match said {
            Err(Error::NotFound { .. }) => {}
            Err(error @ (Error::Storage(_) | Error::ShutDown)) => {
                error_is_fair(&world.ledger, "a call of nobody", &error);
            }
            other => {
                let what = format!("6: call {at} of an unknown id said {other:?}");
                world.ledger.violated(what);
            }
        }
    }
    let id = keepstep::storage::RunId::new(id).expect("it is an id");
    if !matches!(world.bottom.memory.record(&id).await, Ok(None)) {
        world
            .ledger
            .violated("6: an unknown id left a trace".to_owned());
    }
}
