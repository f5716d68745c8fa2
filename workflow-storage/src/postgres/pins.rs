//! Pins of this process, counted here and written down as rows, which other processes' sweeps look at.
//!
//! A row that should be gone is taken away with the next sweep of this process, with the next renewal of its leases, or when the store is
//! closed; rows of a process that ended without doing so stay for a day.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::session::{Lane, Param, Sessions};
use crate::{BlobId, Result};

#[derive(Debug)]
pub(super) struct Pins {
    /// What this process is called in the table.
    pub(super) process: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<BlobId, u32>,
    /// Blobs whose row may not say what the counts do.
    changed: HashSet<BlobId>,
}

impl Pins {
    pub(super) fn new(process: i64) -> Self {
        let state = Mutex::default();
        Self { process, state }
    }

    /// Pins a blob; whether its row has to be written.
    pub(super) fn pin(&self, id: &BlobId) -> bool {
        let mut state = self.state();
        let count = state.counts.entry(*id).or_default();
        *count += 1;
        *count == 1 && state.changed.insert(*id)
    }

    pub(super) fn unpin(&self, id: &BlobId) {
        let mut state = self.state();
        if let Some(count) = state.counts.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(id);
                state.changed.insert(*id);
            }
        }
    }

    /// Pins a blob that is being stored, whose row is written with it, until the guard is dropped or kept.
    pub(super) fn hold(&self, id: BlobId) -> Held<'_> {
        self.pin(&id);
        Held { pins: self, id }
    }

    /// Writes down what has changed.
    pub(super) async fn write(&self, sessions: &Sessions, lane: Lane, sql: &str) -> Result<()> {
        let (changed, pinned, unpinned) = {
            let mut state = self.state();
            let changed: Vec<BlobId> = state.changed.drain().collect();
            let is_pinned = |id: &&BlobId| state.counts.contains_key(*id);
            let (pinned, unpinned): (Vec<_>, Vec<_>) = changed.iter().partition(is_pinned);
            let bytes = |ids: Vec<&BlobId>| -> Vec<Vec<u8>> {
                ids.into_iter().map(|id| id.0.into()).collect()
            };
            let (pinned, unpinned) = (bytes(pinned), bytes(unpinned));
            (changed, pinned, unpinned)
        };
        if changed.is_empty() {
            return Ok(());
        }
        let mut unwritten = Unwritten {
            pins: self,
            changed,
        };
        let params: &[Param<'_>] = &[&pinned, &unpinned, &self.process];
        sessions.query_on(lane, "pin blobs", sql, params).await?;
        unwritten.changed.clear();
        Ok(())
    }

    /// Takes every pin away, whoever still has one: nobody can use what it keeps any more.
    pub(super) async fn let_go(&self, sessions: &Sessions, sql: &str) -> Result<()> {
        {
            let mut state = self.state();
            let State { counts, changed } = &mut *state;
            changed.extend(counts.drain().map(|(id, _)| id));
        }
        self.write(sessions, Lane::Pins, sql).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be written again unless it was: also if nobody waits for that any more.
struct Unwritten<'a> {
    pins: &'a Pins,
    changed: Vec<BlobId>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.pins.state().changed.extend(self.changed.drain(..));
    }
}

/// Takes its pin away when it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Held<'a> {
    pins: &'a Pins,
    id: BlobId,
}

impl Held<'_> {
    pub(super) fn id(&self) -> BlobId {
        self.id
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
