//! What an actor is to do later: calls planned for a time, reminders, and the run that other calls wait for.
//!
//! In memory, each change takes no longer because there is much more to do. In the store, few calls and reminders are in one value with
//! the rest. Many calls are in pages, and so are many reminders, each page a value of its own: what is made or planned rewrites one page.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use keepstep_storage::{RunId, Storage, Timestamp, ValueKey};
use serde::de::DeserializeOwned;

use super::pages::{NamedPages, PAGE, PagesOf};
use super::stored::{self, Call, Pages, Planned, Reminder};
use crate::error::{Damage, Error, Result};

/// How many pages are read at a time.
const READS_AT_ONCE: usize = 16;

/// A planned call, by its time, then by the order in which it came.
pub(super) type Key = (Timestamp, u64);

/// What an actor is to do later.
#[derive(Debug)]
pub(super) struct Agenda {
    planned: Planned,
    /// Calls that are not in the queue.
    waiting_calls: BTreeSet<Key>,
    /// Reminders that are not in the queue, and all of them, by their next time.
    waiting_reminders: BTreeSet<(Timestamp, String)>,
    reminder_times: BTreeSet<(Timestamp, String)>,
    calls: PagesOf<Key>,
    reminders: NamedPages,
    /// Whether what is in no page is not as the store has it.
    is_rest_changed: bool,
}

impl Default for Agenda {
    fn default() -> Self {
        Self::of(Planned::default(), &Pages::default(), Vec::new())
    }
}

/// The reminders of a page.
type ReminderPage = Vec<(String, Reminder)>;

fn page_of(key: &Key) -> u64 {
    key.1 / PAGE
}

/// Where a page of calls is.
fn call_page(page: u64) -> ValueKey {
    ValueKey::AgendaPage(page)
}

/// Where a page of reminders is: after all pages of calls.
fn reminder_page(page: u64) -> ValueKey {
    ValueKey::AgendaPage(page | 1 << 63)
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
            let calls = pages.calls.iter().copied().map(call_page);
            let calls = read_pages::<Vec<(Key, Call)>>(storage, id, calls.collect()).await?;
            let reminders = pages.reminders.iter().copied().map(reminder_page);
            let reminders = read_pages::<ReminderPage>(storage, id, reminders.collect()).await?;
            if let (Some(calls), Some(reminders)) = (calls, reminders) {
                planned.calls.extend(calls.into_iter().flatten());
                return Ok(Self::of(planned, &pages, reminders));
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

    /// An agenda with the reminders of these pages.
    fn of(mut planned: Planned, pages: &Pages, reminders: Vec<ReminderPage>) -> Self {
        let mut calls = PagesOf::new(&pages.calls);
        for key in planned.calls.keys() {
            calls.has(page_of(key), *key);
        }
        let mut named = NamedPages::new(&pages.reminders);
        for (page, reminders) in pages.reminders.iter().zip(reminders) {
            for (name, reminder) in reminders {
                named.has(*page, &name);
                planned.reminders.insert(name, reminder);
            }
        }
        if pages.reminders.is_empty() {
            for name in planned.reminders.keys() {
                named.has(named.page_with_room(), name);
            }
        }
        let times = planned.reminders.iter();
        let reminder_times: BTreeSet<_> =
            times.map(|(name, of)| (of.next_at, name.clone())).collect();
        Self {
            waiting_calls: planned.calls.keys().copied().collect(),
            waiting_reminders: reminder_times.clone(),
            reminder_times,
            calls,
            reminders: named,
            is_rest_changed: false,
            planned,
        }
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

    /// How many calls were ever planned.
    pub(super) fn n_planned(&self) -> u64 {
        self.planned.next
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
        self.calls.put(page_of(&key), key);
    }

    /// A planned call was made.
    pub(super) fn call_made(&mut self, key: &Key) {
        self.planned.calls.remove(key);
        self.waiting_calls.remove(key);
        self.calls.remove(page_of(key), key);
    }

    /// Sets a reminder; one of its name is replaced.
    pub(super) fn remind(&mut self, name: String, reminder: Reminder) {
        self.take_out(&name);
        self.reminders.put(&name);
        self.reminder_times.insert((reminder.next_at, name.clone()));
        self.waiting_reminders
            .insert((reminder.next_at, name.clone()));
        self.planned.reminders.insert(name, reminder);
    }

    /// Removes a reminder.
    pub(super) fn forget(&mut self, name: &str) {
        self.take_out(name);
        self.reminders.remove(name);
    }

    fn take_out(&mut self, name: &str) {
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
        self.is_rest_changed || self.calls.is_changed() || self.reminders.pages.is_changed()
    }

    /// What is to be written of it; from then on it counts as stored.
    pub(super) fn write(&mut self) -> Result<Vec<(ValueKey, Option<Bytes>)>> {
        let mut values = Vec::new();
        let mut is_rest_changed = std::mem::take(&mut self.is_rest_changed);
        let Planned {
            calls, reminders, ..
        } = &self.planned;
        let n = calls.len() as u64;
        is_rest_changed |= self.calls.write(n, &mut values, call_page, |keys| {
            let of_key = |key: &Key| Some((*key, calls.get(key)?));
            let calls: Vec<(Key, &Call)> = keys.iter().filter_map(of_key).collect();
            stored::encode(&calls)
        })?;
        let n = reminders.len() as u64;
        let pages = &mut self.reminders.pages;
        is_rest_changed |= pages.write(n, &mut values, reminder_page, |names| {
            let of_name = |name| reminders.get_key_value(name);
            let reminders: Vec<(&String, &Reminder)> = names.iter().filter_map(of_name).collect();
            stored::encode(&reminders)
        })?;
        if is_rest_changed {
            let pages = Pages {
                calls: self.calls.stored(),
                reminders: self.reminders.pages.stored(),
            };
            let rest = if pages != Pages::default() {
                Some(stored::encode_paged(&self.planned, &pages)?)
            } else if self.planned.is_empty() {
                None
            } else {
                Some(stored::encode(&self.planned)?)
            };
            values.push((ValueKey::Agenda, rest));
        }
        Ok(values)
    }
}

/// Pages as they are stored; `None` if one is not there.
async fn read_pages<T: DeserializeOwned>(
    storage: &dyn Storage,
    id: &RunId,
    keys: Vec<ValueKey>,
) -> Result<Option<Vec<T>>> {
    let reads = keys.into_iter().map(|key| async move {
        let bytes = storage.value(id, &key).await?;
        let decode = |bytes: Bytes| stored::decode(id, "page of the agenda", &bytes);
        bytes.map(decode).transpose()
    });
    let reads: Vec<Option<T>> = stream::iter(reads)
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(reads.into_iter().collect())
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

        fn page<T: DeserializeOwned>(&self, key: ValueKey) -> Vec<T> {
            let id = RunId::new("a").unwrap();
            let bytes = &self.values[&format!("{key:?}")];
            let page: Vec<T> = stored::decode(&id, "page", bytes).unwrap();
            assert!(!page.is_empty() && page.len() as u64 <= PAGE);
            page
        }

        /// The agenda that the store has.
        fn read(&self) -> Agenda {
            let id = RunId::new("a").unwrap();
            let Some(rest) = self.values.get("Agenda") else {
                assert!(self.values.is_empty());
                return Agenda::default();
            };
            let (mut planned, pages) = stored::decode_agenda(&id, rest).unwrap();
            let n_pages = pages.calls.len() + pages.reminders.len();
            assert_eq!(self.values.len(), 1 + n_pages);
            for page in &pages.calls {
                let calls: Vec<(Key, Call)> = self.page(call_page(*page));
                planned.calls.extend(calls);
            }
            let reminders = pages.reminders.iter();
            let reminders = reminders.map(|page| self.page(reminder_page(*page)));
            let reminders = reminders.collect();
            Agenda::of(planned, &pages, reminders)
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

    fn reminder(at: u64) -> Reminder {
        Reminder {
            call: call(1),
            every_micros: 1_000_000,
            next_at: Timestamp(at),
        }
    }

    #[test]
    fn reminders_are_in_pages_if_they_are_many() {
        let (mut agenda, mut written) = (Agenda::default(), Written::default());
        let n = 5 * PAGE;
        let name = |i: u64| format!("r{}", i * 7 % n);
        for i in 0..n {
            agenda.remind(name(i), reminder(1_000 + i));
            // Some calls beside them.
            if i % 100 == 0 {
                agenda.plan(Timestamp(5_000 + i), call(i));
            }
            written.take_in(&mut agenda);
            if i % 50 == 0 || i == 2 * PAGE {
                written.has(&agenda);
            }
        }
        agenda = written.read();
        // Each comes round, some are set anew, and some are forgotten.
        let mut round = 0;
        while let Some((name, due_at, _)) = agenda.take_reminder(Timestamp(10_000)) {
            round += 1;
            match round % 5 {
                0 => agenda.forget(&name),
                1 => agenda.remind(name, reminder(20_000 + round)),
                _ => agenda.reminder_made(&name, due_at, Timestamp(10_000)),
            }
            written.take_in(&mut agenda);
            if round % 50 == 0 {
                written.has(&agenda);
            }
        }
        assert_eq!(round, n);
        written.has(&agenda);
        // New ones take the places of those that were forgotten.
        for i in 0..n / 5 {
            agenda.remind(format!("new {i}"), reminder(30_000));
            written.take_in(&mut agenda);
        }
        written.has(&agenda);
        assert_eq!(written.values.len() as u64, 1 + n / PAGE);
        agenda = written.read();
        for name in agenda.planned.reminders.clone().into_keys() {
            agenda.forget(&name);
            written.take_in(&mut agenda);
        }
        written.has(&agenda);
        assert_eq!(written.values.len(), 1);
    }

    #[test]
    fn a_reminder_costs_no_more_because_there_are_many() {
        let bytes_of = |n: u64| {
            let (mut agenda, mut written) = (Agenda::default(), Written::default());
            for i in 0..n {
                agenda.remind(format!("reminder {i}"), reminder(1_000 + i));
                written.take_in(&mut agenda);
            }
            while let Some((name, due_at, _)) = agenda.take_reminder(Timestamp(100_000)) {
                agenda.reminder_made(&name, due_at, Timestamp(100_000));
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
