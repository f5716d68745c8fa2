//! Reading a run back: its journal is checked and folded, entry by entry.

use keepstep_storage::{JournalEntry, Position, RunId, RunRecord, Storage};

use crate::error::{Damage, Error, Result};
use crate::journal::read_entry;
use crate::run::Run;

/// How much of a journal is read at a time.
const PAGE_BYTES: usize = 4 << 20;

/// How much of each journal is read with its run's record, where several runs are read at a time.
pub(crate) const FIRST_PAGE_BYTES: usize = 64 << 10;

/// The state of a run that is to go on.
pub(crate) async fn load_run(storage: &dyn Storage, id: &RunId, record: &RunRecord) -> Result<Run> {
    finish_load(storage, id, record, Vec::new()).await
}

/// As [`load_run`], of a run whose journal's beginning was read with its record.
pub(crate) async fn finish_load(
    storage: &dyn Storage,
    id: &RunId,
    record: &RunRecord,
    begun: Vec<JournalEntry>,
) -> Result<Run> {
    let mut run = Run::default();
    let mut next = record.first_entry;
    fold_page(id, record, begun, &mut next, &mut run)?;
    fold_rest(storage, id, record, next, &mut run).await?;
    // Those were stored when they happened.
    run.take_named();
    run.take_stops();
    run.take_orphans();
    run.tidy_ready();
    Ok(run)
}

/// Folds the journal of a run into `run`.
///
/// # Errors
/// [`Error::Damaged`] if an entry is missing, is not what was written, or cannot have happened. Nothing is run then: a step
/// whose result is in the damaged part must not run again.
pub(crate) async fn fold_journal(
    storage: &dyn Storage,
    id: &RunId,
    record: &RunRecord,
    run: &mut Run,
) -> Result<()> {
    fold_rest(storage, id, record, record.first_entry, run).await
}

/// Folds the entries from `next` on.
async fn fold_rest(
    storage: &dyn Storage,
    id: &RunId,
    record: &RunRecord,
    mut next: Position,
    run: &mut Run,
) -> Result<()> {
    while next < record.next_entry {
        let page = storage.journal(id, next, PAGE_BYTES).await?;
        if page.is_empty() {
            return Err(Error::Damaged {
                run: id.clone(),
                damage: Damage::Hole { at: next },
            });
        }
        fold_page(id, record, page, &mut next, run)?;
        // A long journal is folded without keeping other tasks of the thread waiting.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Folds entries that come from `next` on, as many of them as the record counts.
fn fold_page(
    id: &RunId,
    record: &RunRecord,
    page: Vec<JournalEntry>,
    next: &mut Position,
    run: &mut Run,
) -> Result<()> {
    let damaged = |damage| Error::Damaged {
        run: id.clone(),
        damage,
    };
    for entry in page {
        if entry.position >= record.next_entry {
            return Ok(());
        }
        if entry.position != *next {
            return Err(damaged(Damage::Hole { at: *next }));
        }
        for event in read_entry(*next, &entry.bytes).map_err(damaged)? {
            check(&event, *next).map_err(damaged)?;
            let impossible = |error| {
                damaged(Damage::Entry {
                    at: *next,
                    what: format!("{error}"),
                })
            };
            run.apply(event).map_err(impossible)?;
        }
        *next = next.next();
    }
    Ok(())
}

/// Refuses plans that refer to what is not there.
fn check(event: &crate::run::Event, at: Position) -> Result<(), Damage> {
    if event.plans_are_sound() {
        Ok(())
    } else {
        Err(Damage::Entry {
            at,
            what: "a plan refers to a node that is not before it, or has one that nothing uses"
                .to_owned(),
        })
    }
}
