//! Reads of what belongs to one run, and of the timers that are due.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::{
    JournalEntry, Message, MessageId, Position, ReadRun, Result, RunId, RunKind, Timestamp,
    ValueKey,
};

use super::core::Core;
use super::frame::{Fault, Joiner};
use super::keys::{self, Space};

impl Core {
    pub(super) fn journal(
        &self,
        run: &RunId,
        from: Position,
        max_bytes: usize,
    ) -> Result<Vec<JournalEntry>> {
        let mut left = max_bytes;
        let entries = self.numbered(
            (Space::Journal, "journal entry"),
            run,
            from.0,
            &mut |taken, len| {
                let fits = taken == 0 || len <= left;
                left = left.saturating_sub(len);
                fits
            },
        )?;
        let entry = |(position, bytes)| JournalEntry {
            position: Position(position),
            bytes,
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    pub(super) fn read_runs(
        &self,
        runs: &[RunId],
        max_bytes: usize,
    ) -> Result<Vec<Option<ReadRun>>> {
        let read = |run: &RunId| {
            let Some(record) = self.record(run)? else {
                return Ok(None);
            };
            let journal = self.journal(run, record.first_entry, max_bytes)?;
            Ok(Some(ReadRun { record, journal }))
        };
        runs.iter().map(read).collect()
    }

    pub(super) fn inbox(
        &self,
        run: &RunId,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        let Some(from) = after.map_or(Some(0), |id| id.0.checked_add(1)) else {
            return Ok(Vec::new());
        };
        let messages = self.numbered((Space::Inbox, "message"), run, from, &mut |taken, _| {
            taken < limit
        })?;
        if !messages.is_empty() {
            self.await_heads();
        }
        let message = |(id, mut stored): (u64, Bytes)| {
            let Some((sent_at, _)) = stored.split_first_chunk() else {
                return Err(self.corrupt(format!("message {id} of run {run} has no time")));
            };
            let sent_at = Timestamp(u64::from_le_bytes(*sent_at));
            Ok(Message {
                id: MessageId(id),
                sent_at,
                body: stored.split_off(size_of::<u64>()),
            })
        };
        messages.into_iter().map(message).collect()
    }

    /// Looks at one key of each run that has messages.
    pub(super) fn unread(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<RunId>> {
        let mut runs: Vec<RunId> = Vec::new();
        let space = [Space::Inbox as u8];
        let end = keys::end_of(&space);
        while runs.len() < limit {
            let from = match runs.last().or(after) {
                None => Bound::Included(space.to_vec()),
                Some(last) => match keys::end_of(&keys::of_run(Space::Inbox, last)) {
                    Bound::Excluded(after) => Bound::Included(after),
                    end => end,
                },
            };
            let mut found = None;
            self.map.range(
                (
                    from.as_ref().map(Vec::as_slice),
                    end.as_ref().map(Vec::as_slice),
                ),
                false,
                &mut |key, _| {
                    found = Some(key.to_vec());
                    ControlFlow::Break(())
                },
            )?;
            let Some(key) = found else { break };
            let run = keys::parse_run(&key)
                .ok_or_else(|| self.corrupt("a key of a message is damaged"))?;
            runs.push(run);
        }
        Ok(runs)
    }

    /// What a run has in a space of numbered things, from a number on. `fits` is asked before each, with how many there
    /// are so far and how long the next one is.
    fn numbered(
        &self,
        (space, what): (Space, &str),
        run: &RunId,
        from: u64,
        fits: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Vec<(u64, Bytes)>> {
        let prefix = keys::of_run(space, run);
        let start = [&prefix, &from.to_be_bytes()[..]].concat();
        let damaged = |number: u64, fault: Fault| {
            self.corrupt(format!("{what} {number} of run {run}: {fault}"))
        };
        let mut found = Vec::new();
        let mut current: Option<(u64, Joiner)> = None;
        self.try_range(&start, &keys::end_of(&prefix), &mut |key, value| {
            let (number, chunk) = keys::parse_numbered(&key[prefix.len()..]).ok_or_else(|| {
                self.corrupt(format!("a key of a {what} of run {run} is damaged"))
            })?;
            if let Some((unfinished, joiner)) = &current
                && *unfinished != number
            {
                return Err(damaged(*unfinished, joiner.unfinished()));
            }
            let (_, joiner) = current.get_or_insert_with(|| (number, Joiner::default()));
            let whole = joiner
                .push(chunk, key, value)
                .map_err(|fault| damaged(number, fault))?;
            if chunk == 0 && !fits(found.len(), joiner.total()) {
                current = None;
                return Ok(ControlFlow::Break(()));
            }
            if let Some(bytes) = whole {
                current = None;
                found.push((number, bytes));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        match current {
            Some((number, joiner)) => Err(damaged(number, joiner.unfinished())),
            None => Ok(found),
        }
    }

    pub(super) fn value(&self, run: &RunId, key: &ValueKey) -> Result<Option<Bytes>> {
        let prefix = keys::value(run, key);
        let damaged = |fault| self.corrupt(format!("value {key:?} of run {run}: {fault}"));
        let mut joiner = None;
        let mut whole = None;
        self.try_range(&prefix, &keys::end_of(&prefix), &mut |pair, value| {
            let chunk = keys::parse_chunk(&pair[prefix.len()..])
                .ok_or_else(|| self.corrupt(format!("a key of a value of run {run} is damaged")))?;
            if whole.is_some() {
                return Err(damaged(Fault::Excess(chunk)));
            }
            whole = joiner
                .get_or_insert_with(Joiner::default)
                .push(chunk, pair, value)
                .map_err(damaged)?;
            Ok(ControlFlow::Continue(()))
        })?;
        match (joiner, &whole) {
            (Some(joiner), None) => Err(damaged(joiner.unfinished())),
            _ => Ok(whole),
        }
    }

    pub(super) fn due(
        &self,
        kind: RunKind,
        after: Option<&(Timestamp, RunId)>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RunId)>> {
        let mut due = Vec::new();
        if limit == 0 {
            return Ok(due);
        }
        let prefix = [Space::Wake as u8, kind as u8];
        let from = match after {
            // No key is between this one and the one that it is after.
            Some((at, run)) => [&keys::wake(kind, *at, run)[..], &[0]].concat(),
            None => prefix.to_vec(),
        };
        let to = match until.0.checked_add(1) {
            Some(after) => Bound::Excluded([&prefix[..], &after.to_be_bytes()].concat()),
            None => keys::end_of(&prefix),
        };
        self.try_range(&from, &to, &mut |key, _| {
            let timer = keys::parse_indexed(&key[prefix.len()..])
                .ok_or_else(|| self.corrupt("a key of the index of timers is damaged"))?;
            due.push(timer);
            Ok(if due.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok(due)
    }
}
