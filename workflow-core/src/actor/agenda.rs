//! What an actor is to do later: calls planned for a time, reminders, and the run that other calls wait for.
//!
//! In memory, each change takes no longer because there is much more to do. In the store, few calls are in one value with the rest;
//! of many, each page of [`PAGE`] calls is a value of its own, so that a call that is made or planned rewrites one page.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use keepstep_storage::{RunId, Storage, Timestamp, ValueKey};

use super::stored::{self, Call, Pages, Planned, Reminder};
use crate::error::{Damage, Error, Result};

/// How many calls a page has at most. Twice as many are in one value before there are pages.
const PAGE: u64 = 128;
/// How many pages are read at a time.
const READS_AT_ONCE: usize = 16;

/// A planned call, by its time, then by the order in which it came.
pub(super) type Key = (Timestamp, u64);

/// What an actor is to do later.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    planned: Planned,
    /// Calls that are not in the queue.
    waiting_calls: BTreeSet<Key>,
    /// Reminders that are not in the queue, and all of them, by their next time.
    waiting_reminders: BTreeSet<(Timestamp, String)>,
    reminder_times: BTreeSet<(Timestamp, String)>,
    /// The calls of each page.
    pages: BTreeMap<u64, BTreeSet<Key>>,
    /// Pages that the store has, and those that are not as it has them.
    stored: BTreeSet<u64>,
    changed: BTreeSet<u64>,
    /// Whether the rest is not as the store has it.
    is_rest_changed: bool,
}

fn page_of(key: &Key) -> u64 {
    key.1 / PAGE
}

impl Agenda {
    /// Reads an agenda.
    pub(super) async fn read(storage: &dyn Storage, id: &RunId) -> Result<Self> {
        let read_rest = || storage.value(id, &ValueKey::Agenda);
        let mut rest = read_rest().await?;
        loop {
            let Some(bytes) = &rest else {
                return Ok(Self::default());
            };
            let (mut planned, pages) = stored::decode_agenda(id, bytes)?;
            let reads = pages.0.clone().into_iter();
            let reads = reads.map(|page| read_page(storage, id, page));
            let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
            let mut is_whole = true;
            while let Some(calls) = reads.try_next().await? {
                is_whole &= calls.is_some();
                planned.calls.extend(calls.into_iter().flatten());
            }
            if is_whole {
                return Ok(Self::of(planned, pages));
            }
            // Whoever has the actor may have changed it since.
            let again = read_rest().await?;
            if again == rest {
                let what = "page of the agenda";
                return Err(Error::Damaged {
                    run: id.clone(),
                    damage: Damage::Missing { what },
                });
            }
            rest = again;
        }
    }

    fn of(planned: Planned, pages: Pages) -> Self {
        let mut agenda = Self {
            stored: pages.0.into_iter().collect(),
            ..Self::default()
        };
        for key in planned.calls.keys() {
            agenda.pages.entry(page_of(key)).or_default().insert(*key);
        }
        agenda.waiting_calls = planned.calls.keys().copied().collect();
        let times = planned.reminders.iter();
        agenda.reminder_times = times.map(|(name, of)| (of.next_at, name.clone())).collect();
        agenda.waiting_reminders = agenda.reminder_times.clone();
        agenda.planned = planned;
        agenda
    }

    /// The calls that are planned, and those that are repeated.
    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        let repeated = self.planned.reminders.values();
        let repeated = repeated.map(|reminder| &reminder.call);
        self.planned.calls.values().chain(repeated)
    }

    pub(super) fn into_reminders(self) -> BTreeMap<String, Reminder> {
        self.planned.reminders
    }

    /// The workflow that other calls wait for.
    pub(super) fn exclusive(&self) -> Option<&RunId> {
        self.planned.exclusive.as_ref()
    }

    pub(super) fn set_exclusive(&mut self, run: Option<RunId>) {
        self.planned.exclusive = run;
        self.is_rest_changed = true;
    }

    /// When there is something to do next, be it in the queue or not.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        let call = self.planned.calls.first_key_value().map(|((at, _), _)| *at);
        let reminder = self.reminder_times.first().map(|(at, _)| *at);
        call.into_iter().chain(reminder).min()
    }

    /// When something is due that is not in the queue.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let call = self.waiting_calls.first().map(|(at, _)| *at);
        let reminder = self.waiting_reminders.first().map(|(at, _)| *at);
        call.into_iter().chain(reminder).min()
    }

    /// Takes the next call that is due, for the queue; it stays planned until it is done.
    pub(super) fn take_call(&mut self, now: Timestamp) -> Option<(Key, &Call)> {
        let key = *self.waiting_calls.first().filter(|(at, _)| *at <= now)?;
        self.waiting_calls.pop_first();
        Some((key, self.planned.calls.get(&key)?))
    }

    /// As [`take_call`](Self::take_call), of reminders: its name, when it was due, and the call.
    pub(super) fn take_reminder(&mut self, now: Timestamp) -> Option<(String, Timestamp, &Call)> {
        let first = self.waiting_reminders.first();
        first.filter(|(at, _)| *at <= now)?;
        let (due_at, name) = self.waiting_reminders.pop_first()?;
        let reminder = self.planned.reminders.get(&name)?;
        Some((name, due_at, &reminder.call))
    }

    /// Plans a call.
    pub(super) fn plan(&mut self, at: Timestamp, call: Call) {
        let key = (at, self.planned.next);
        self.planned.next += 1;
        self.is_rest_changed = true;
        self.planned.calls.insert(key, call);
        self.waiting_calls.insert(key);
        let page = page_of(&key);
        self.pages.entry(page).or_default().insert(key);
        self.changed.insert(page);
    }

    /// A planned call was made.
    pub(super) fn call_made(&mut self, key: &Key) {
        self.planned.calls.remove(key);
        self.waiting_calls.remove(key);
        let page = page_of(key);
        if let Some(keys) = self.pages.get_mut(&page) {
            keys.remove(key);
            if keys.is_empty() {
                self.pages.remove(&page);
            }
        }
        self.changed.insert(page);
    }

    /// Sets a reminder; one of its name is replaced.
    pub(super) fn remind(&mut self, name: String, reminder: Reminder) {
        self.forget(&name);
        self.reminder_times.insert((reminder.next_at, name.clone()));
        self.waiting_reminders
            .insert((reminder.next_at, name.clone()));
        self.planned.reminders.insert(name, reminder);
    }

    /// Removes a reminder.
    pub(super) fn forget(&mut self, name: &str) {
        self.is_rest_changed = true;
        if let Some(reminder) = self.planned.reminders.remove(name) {
            let time = (reminder.next_at, name.to_owned());
            self.reminder_times.remove(&time);
            self.waiting_reminders.remove(&time);
        }
    }

    /// Whether the call of a reminder is in the queue, or cannot be made by this program.
    pub(super) fn is_reminder_taken(&self, name: &str) -> bool {
        let reminder = self.planned.reminders.get(name);
        reminder.is_some_and(|reminder| {
            let time = (reminder.next_at, name.to_owned());
            !self.waiting_reminders.contains(&time)
        })
    }

    /// The call of a reminder was made that was due then. Another one that has taken its place keeps its own time.
    pub(super) fn reminder_made(&mut self, name: &str, due_at: Timestamp, now: Timestamp) {
        let reminder = self.planned.reminders.get(name);
        let Some(reminder) = reminder.filter(|reminder| reminder.next_at == due_at) else {
            return;
        };
        let mut reminder = reminder.clone();
        reminder.move_on(now);
        self.remind(name.to_owned(), reminder);
    }

    /// Whether it is not as the store has it.
    pub(super) fn is_changed(&self) -> bool {
        self.is_rest_changed || !self.changed.is_empty()
    }

    /// What is to be written of it; from then on it counts as stored.
    pub(super) fn write(&mut self) -> Result<Vec<(ValueKey, Option<Bytes>)>> {
        let changed = std::mem::take(&mut self.changed);
        let is_rest_changed = std::mem::take(&mut self.is_rest_changed);
        let n = self.planned.calls.len() as u64;
        let had_pages = !self.stored.is_empty();
        let mut values = Vec::new();
        if n <= if had_pages { PAGE } else { 2 * PAGE } {
            let pages = std::mem::take(&mut self.stored).into_iter();
            values.extend(pages.map(|page| (ValueKey::AgendaPage(page), None)));
            let rest = match self.planned.is_empty() {
                true => None,
                false => Some(stored::encode(&self.planned)?),
            };
            values.push((ValueKey::Agenda, rest));
            return Ok(values);
        }
        let is_first = |page: &u64| !had_pages && !changed.contains(page);
        let others = self.pages.keys().copied().filter(is_first);
        let to_write: Vec<u64> = changed.iter().copied().chain(others).collect();
        let mut is_rest_changed = is_rest_changed;
        for page in to_write {
            let Some(keys) = self.pages.get(&page) else {
                if self.stored.remove(&page) {
                    is_rest_changed = true;
                    values.push((ValueKey::AgendaPage(page), None));
                }
                continue;
            };
            let of_key = |key: &Key| Some((*key, self.planned.calls.get(key)?));
            let calls: Vec<(Key, &Call)> = keys.iter().filter_map(of_key).collect();
            let bytes = stored::encode(&calls)?;
            values.push((ValueKey::AgendaPage(page), Some(bytes)));
            is_rest_changed |= self.stored.insert(page);
        }
        if is_rest_changed {
            let pages = Pages(self.stored.iter().copied().collect());
            let rest = stored::encode_paged(&self.planned, &pages)?;
            values.push((ValueKey::Agenda, Some(rest)));
        }
        Ok(values)
    }
}

async fn read_page(
    storage: &dyn Storage,
    id: &RunId,
    page: u64,
) -> Result<Option<Vec<(Key, Call)>>> {
    let bytes = storage.value(id, &ValueKey::AgendaPage(page)).await?;
    let decode = |bytes: Bytes| stored::decode(id, "page of the agenda", &bytes);
    bytes.map(decode).transpose()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn call(n: u64) -> Call {
        Call {
            method: format!("m{n}"),
            args: vec![],
            key: None,
        }
    }

    /// What a store has after each write, and how many bytes were written.
    #[derive(Default)]
    struct Written {
        values: HashMap<String, Bytes>,
        bytes: usize,
    }

    impl Written {
        fn take_in(&mut self, agenda: &mut Agenda) {
            for (key, value) in agenda.write().unwrap() {
                let key = format!("{key:?}");
                match value {
                    Some(value) => {
                        self.bytes += value.len();
                        self.values.insert(key, value);
                    }
                    None => assert!(
                        self.values.remove(&key).is_some() || key == "Agenda",
                        "{key}"
                    ),
                }
            }
        }

        /// The agenda that the store has.
        fn read(&self) -> Agenda {
            let id = RunId::new("a").unwrap();
            let Some(rest) = self.values.get("Agenda") else {
                assert!(self.values.is_empty());
                return Agenda::default();
            };
            let (mut planned, pages) = stored::decode_agenda(&id, rest).unwrap();
            assert_eq!(self.values.len(), 1 + pages.0.len());
            for page in &pages.0 {
                let key = format!("{:?}", ValueKey::AgendaPage(*page));
                let calls: Vec<(Key, Call)> =
                    stored::decode(&id, "page", &self.values[&key]).unwrap();
                assert!(!calls.is_empty() && calls.len() as u64 <= PAGE);
                planned.calls.extend(calls);
            }
            Agenda::of(planned, pages)
        }

        fn has(&self, agenda: &Agenda) {
            let read = self.read();
            let shown = |agenda: &Agenda| format!("{:?}", agenda.planned);
            assert_eq!(shown(&read), shown(agenda));
            assert_eq!(read.due_at(), agenda.due_at());
        }
    }

    #[test]
    fn what_is_written_is_what_is_read_however_many_calls_there_are() {
        let (mut agenda, mut written) = (Agenda::default(), Written::default());
        let n = 5 * PAGE;
        for i in 0..n {
            agenda.plan(Timestamp(1_000 + i % 7), call(i));
            written.take_in(&mut agenda);
            if i % 50 == 0 || i == 2 * PAGE {
                written.has(&agenda);
            }
        }
        // It goes on as it was read.
        agenda = written.read();
        let mut made = 0;
        while let Some(key) = agenda.take_call(Timestamp(2_000)).map(|(key, _)| key) {
            agenda.call_made(&key);
            written.take_in(&mut agenda);
            made += 1;
            if made % 50 == 0 {
                written.has(&agenda);
            }
        }
        assert_eq!(made, n);
        written.has(&agenda);
        assert_eq!(written.values.len(), 1);
    }

    #[test]
    fn a_call_costs_no_more_because_there_are_many() {
        let bytes_of = |n: u64| {
            let (mut agenda, mut written) = (Agenda::default(), Written::default());
            for i in 0..n {
                agenda.plan(Timestamp(1_000), call(i));
                written.take_in(&mut agenda);
            }
            while let Some(key) = agenda.take_call(Timestamp(1_000)).map(|(key, _)| key) {
                agenda.call_made(&key);
                written.take_in(&mut agenda);
            }
            written.bytes
        };
        let (few, many) = (bytes_of(2_000), bytes_of(8_000));
        assert!(many < 5 * few, "{few} and {many} bytes");
    }

    #[test]
    fn reminders_are_due_in_turn_and_one_in_the_queue_is_not_due_again() {
        let reminder = |at| Reminder {
            call: call(1),
            every_micros: 10,
            next_at: Timestamp(at),
        };
        let mut agenda = Agenda::default();
        agenda.remind("a".into(), reminder(100));
        agenda.remind("b".into(), reminder(105));
        assert_eq!(agenda.next_due(), Some(Timestamp(100)));
        let (name, due_at, _) = agenda.take_reminder(Timestamp(101)).unwrap();
        assert_eq!((&*name, due_at), ("a", Timestamp(100)));
        assert!(agenda.take_reminder(Timestamp(101)).is_none());
        assert!(agenda.is_reminder_taken("a") && !agenda.is_reminder_taken("b"));
        assert_eq!(agenda.next_due(), Some(Timestamp(105)));
        assert_eq!(agenda.due_at(), Some(Timestamp(100)));
        agenda.reminder_made("a", Timestamp(100), Timestamp(101));
        assert!(!agenda.is_reminder_taken("a"));
        assert_eq!(agenda.due_at(), Some(Timestamp(105)));
        // One that was replaced meanwhile keeps its own time.
        agenda.take_reminder(Timestamp(105)).unwrap();
        agenda.remind("b".into(), reminder(500));
        agenda.reminder_made("b", Timestamp(105), Timestamp(106));
        agenda.forget("a");
        assert_eq!(agenda.next_due(), Some(Timestamp(500)));
        agenda.forget("b");
        assert_eq!((agenda.next_due(), agenda.due_at()), (None, None));
    }
}
