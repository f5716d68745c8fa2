//! Pins of this process, counted here and written down as rows, which other processes' sweeps look at.
//!
//! A row that should be gone is taken away with the next sweep of this process, with the next renewal of its leases, or when the store is
//! closed; rows of a process that ended without doing so stay for a day.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::session::{Lane, Param, Sessions};
use crate::{BlobId, Result};

#[derive(Debug)]
pub(super) struct Pins {
    /// What this process is called in the table.
    pub(super) process: i64,
    state: Mutex<State>,
    /// Held by who writes, but for renewals of leases: what many pin at once is written once.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<BlobId, u32>,
    /// Blobs whose row may not say what the counts do, and the number of the write that is to say it last; none if it changed
    /// since.
    unsettled: HashMap<BlobId, Option<i64>>,
    /// That of the last write. The server does none that arrives after a later one, which says all that it says.
    number: i64,
}

impl Pins {
    pub(super) fn new(process: i64) -> Self {
        Self {
            process,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Pins a blob; whether its row has to be written.
    pub(super) fn pin(&self, id: &BlobId) -> bool {
        let mut state = self.state();
        let count = state.counts.entry(*id).or_default();
        *count += 1;
        *count == 1 && !matches!(state.unsettled.insert(*id, None), Some(None))
    }

    pub(super) fn unpin(&self, id: &BlobId) {
        let mut state = self.state();
        if let Some(count) = state.counts.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(id);
                state.unsettled.insert(*id, None);
            }
        }
    }

    /// Pins a blob that is being stored, whose row is written with it, until the guard is dropped or kept.
    pub(super) fn hold(&self, id: BlobId) -> Held<'_> {
        // A write that takes the row away may be under way.
        let is_unsure = matches!(self.state().unsettled.get(&id), Some(Some(_)));
        self.pin(&id);
        Held {
            pins: self,
            id,
            is_unsure,
        }
    }

    /// Writes down what has changed, and what other writes that are not known to be done say.
    pub(super) async fn write(&self, sessions: &Sessions, lane: Lane, sql: &str) -> Result<()> {
        let _turn = match lane {
            // Those who have it may be in a runtime that stands still.
            Lane::Lease(_) => None,
            Lane::Work | Lane::Pins => Some(self.writing.lock().await),
        };
        let (number, pinned, unpinned) = {
            let mut state = self.state();
            let State {
                counts,
                unsettled,
                number,
            } = &mut *state;
            if unsettled.is_empty() {
                return Ok(());
            }
            *number += 1;
            let (mut pinned, mut unpinned) = (Vec::new(), Vec::new());
            for (id, last) in unsettled {
                *last = Some(*number);
                match counts.contains_key(id) {
                    true => pinned.push(Vec::from(id.0)),
                    false => unpinned.push(Vec::from(id.0)),
                }
            }
            (*number, pinned, unpinned)
        };
        let params: &[Param<'_>] = &[&pinned, &unpinned, &self.process, &number];
        sessions.query_on(lane, "pin blobs", sql, params).await?;
        let mut state = self.state();
        let unsettled = &mut state.unsettled;
        unsettled.retain(|_, last| last.is_none_or(|last| last > number));
        Ok(())
    }

    /// Takes every pin away, whoever still has one: nobody can use what it keeps any more.
    pub(super) async fn let_go(&self, sessions: &Sessions, sql: &str) -> Result<()> {
        {
            let mut state = self.state();
            let State {
                counts, unsettled, ..
            } = &mut *state;
            unsettled.extend(counts.drain().map(|(id, _)| (id, None)));
        }
        self.write(sessions, Lane::Pins, sql).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its pin away when it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Held<'a> {
    pins: &'a Pins,
    id: BlobId,
    is_unsure: bool,
}

impl Held<'_> {
    pub(super) fn id(&self) -> BlobId {
        self.id
    }

    /// Whether the row may be taken away by what was written before.
    pub(super) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Leaves the pin to whoever gets the blob.
    pub(super) fn keep(self) -> BlobId {
        let id = self.id;
        std::mem::forget(self);
        id
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.pins.unpin(&self.id);
    }
}
