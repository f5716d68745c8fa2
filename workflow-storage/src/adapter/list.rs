//! Listings: read from the index of all runs or of a run's children, or merged from the indexes of the statuses asked for.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};

use crate::{
    ListedRun, Result, RunCursor, RunId, RunKind, RunPage, RunQuery, RunRecord, StoredStatus,
    Timestamp,
};

use super::core::Core;
use super::keys::{self, Space};

/// How many index keys are read at a time.
const READ_AHEAD: usize = 256;

impl Core {
    pub(super) fn list(&self, query: &RunQuery) -> Result<RunPage> {
        let mut statuses = query.statuses.clone();
        statuses.sort_unstable();
        statuses.dedup();
        // A run that goes from one status to another between the reads of their indexes would be listed twice or not at
        // all, so nobody writes meanwhile.
        let _writer = match statuses.len() {
            0 | 1 => None,
            _ => Some(self.writer()?),
        };
        let prefixes = match (&query.children_of, &statuses[..]) {
            (Some((parent, incarnation)), _) => vec![keys::children(parent, *incarnation)],
            (None, []) => vec![vec![Space::Created as u8, query.kind as u8]],
            (None, some) => some
                .iter()
                .map(|status| vec![Space::Status as u8, query.kind as u8, *status as u8])
                .collect(),
        };
        let mut scans: Vec<Scan> = prefixes
            .into_iter()
            .map(|prefix| Scan::new(prefix, query))
            .collect();
        let limit = query.limit.max(1);
        let mut page = RunPage::default();
        while let Some((created_at, run)) = self.next_of(&mut scans, query.newest_first)? {
            if !run.as_str().starts_with(&query.id_prefix) {
                continue;
            }
            let Some(record) = self.record(&run)? else {
                // Deleted since its key was read.
                continue;
            };
            if record.created_at != created_at || !matches(&record, &statuses, query) {
                continue;
            }
            if page.runs.len() == limit {
                page.next = page.runs.last().map(|last| RunCursor {
                    created_at: last.record.created_at,
                    run: last.run.clone(),
                });
                break;
            }
            page.runs.push(ListedRun { run, record });
        }
        Ok(page)
    }

    /// The key of a record begins with the id, so no index is needed.
    pub(super) fn list_by_id(
        &self,
        kind: RunKind,
        id_prefix: &str,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<ListedRun>> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let prefix = [&[Space::Record as u8], id_prefix.as_bytes()].concat();
        // No id has a zero byte, so this is the first key after that of `after`.
        let after = after.map(|after| [&keys::record(after)[..], &[0]].concat());
        let from = after
            .filter(|after| *after > prefix)
            .unwrap_or(prefix.clone());
        self.try_range(&from, &keys::end_of(&prefix), &mut |key, value| {
            let run = keys::parse_run(key)
                .ok_or_else(|| self.corrupt("the key of a record is damaged"))?;
            let record = self.read_head(&run, key, value)?.record;
            if record.kind == kind {
                found.push(ListedRun { run, record });
            }
            Ok(if found.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok(found)
    }

    /// Takes the first key of all scans.
    fn next_of(
        &self,
        scans: &mut [Scan],
        newest_first: bool,
    ) -> Result<Option<(Timestamp, RunId)>> {
        for scan in &mut *scans {
            scan.refill(self)?;
        }
        let heads = scans
            .iter()
            .enumerate()
            .filter_map(|(i, scan)| Some((scan.found.front()?, i)));
        let first = if newest_first {
            heads.max()
        } else {
            heads.min()
        };
        let Some((_, i)) = first else { return Ok(None) };
        Ok(scans[i].found.pop_front())
    }
}

fn matches(record: &RunRecord, statuses: &[StoredStatus], query: &RunQuery) -> bool {
    // The index of children has all kinds, and all statuses.
    record.kind == query.kind
        && (statuses.is_empty() || statuses.contains(&record.status))
        && query
            .not_owned_by
            .is_none_or(|node| record.owner != Some(node))
}

/// One index, read in pieces in the order of the listing.
struct Scan {
    prefix: Vec<u8>,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    newest_first: bool,
    at_once: usize,
    found: VecDeque<(Timestamp, RunId)>,
    is_done: bool,
}

impl Scan {
    fn new(prefix: Vec<u8>, query: &RunQuery) -> Self {
        let at = |time: Timestamp, run: &str| {
            [&prefix, &time.0.to_be_bytes()[..], run.as_bytes()].concat()
        };
        let from = at(query.created_from.unwrap_or_default(), "");
        let to = match query.created_before {
            Some(before) => Bound::Excluded(at(before, "")),
            None => keys::end_of(&prefix),
        };
        let cursor = query
            .after
            .as_ref()
            .map(|after| at(after.created_at, after.run.as_str()));
        let (from, to) = match (cursor, to) {
            (Some(cursor), Bound::Excluded(to)) if query.newest_first => {
                (Bound::Included(from), Bound::Excluded(to.min(cursor)))
            }
            (Some(cursor), to) if cursor >= from => (Bound::Excluded(cursor), to),
            (_, to) => (Bound::Included(from), to),
        };
        Self {
            from,
            to,
            newest_first: query.newest_first,
            // One more than the page tells whether there is another.
            at_once: query.limit.saturating_add(1).min(READ_AHEAD),
            found: VecDeque::new(),
            is_done: false,
            prefix,
        }
    }

    /// Reads on if nothing is left of what was read.
    fn refill(&mut self, core: &Core) -> Result<()> {
        if self.is_done || !self.found.is_empty() {
            return Ok(());
        }
        let mut last = None;
        let mut damaged = false;
        let (found, prefix, at_once) = (&mut self.found, self.prefix.len(), self.at_once);
        core.map.range(
            (
                self.from.as_ref().map(Vec::as_slice),
                self.to.as_ref().map(Vec::as_slice),
            ),
            self.newest_first,
            &mut |key, _| {
                match keys::parse_indexed(&key[prefix..]) {
                    Some(run) => found.push_back(run),
                    None => damaged = true,
                }
                if damaged || found.len() == at_once {
                    last = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        if damaged {
            return Err(core.corrupt("a key of an index of runs is damaged"));
        }
        match last {
            Some(last) if self.newest_first => self.to = Bound::Excluded(last),
            Some(last) => self.from = Bound::Excluded(last),
            None => self.is_done = true,
        }
        Ok(())
    }
}
