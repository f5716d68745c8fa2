//! What is stored of an actor: its state, what it is to do later, results of calls with an id, and messages.
//!
//! Each is one byte of version, then bincode 1.3 with variable-length integers.

use std::collections::BTreeMap;

use bincode::Options;
use bytes::Bytes;
use keepstep_storage::{BlobId, RunId, StorageError, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Damage, Error, Result};
use crate::value::Value;

const VERSION: u8 = 1;
/// In the place of the version, of an agenda whose calls or reminders are in pages.
const PAGED: u8 = 2;

/// The state, under `ValueKey::State`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    /// The version of the actor that wrote it.
    pub(super) version: u32,
    pub(super) value: Value,
}

/// A call that was sent or planned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) args: Vec<Value>,
    /// The id that the caller gave it.
    pub(super) key: Option<String>,
}

/// What stands in an actor's inbox. New variants go at the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Message {
    /// A call, at once or at a time.
    Call {
        call: Call,
        due_at: Option<Timestamp>,
    },
    /// A call that is repeated.
    Remind { name: String, reminder: Reminder },
    /// No more of these.
    Forget { name: String },
}

impl Call {
    fn blobs(&self, into: &mut Vec<BlobId>) {
        let args = self.args.iter();
        args.for_each(|arg| arg.for_each_blob(&mut |blob| into.push(blob)));
    }
}

impl Message {
    /// The blobs that the actor is to name.
    pub(super) fn blobs(&self) -> Vec<BlobId> {
        let mut blobs = Vec::new();
        match self {
            Self::Call { call, .. } => call.blobs(&mut blobs),
            Self::Remind { reminder, .. } => reminder.call.blobs(&mut blobs),
            Self::Forget { .. } => {}
        }
        blobs
    }
}

/// A call that is repeated.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reminder {
    pub(super) call: Call,
    pub(super) every_micros: u64,
    pub(super) next_at: Timestamp,
}

impl Reminder {
    /// Moves on to the first time after `now`: times that were missed are one.
    pub(super) fn move_on(&mut self, now: Timestamp) {
        let every = self.every_micros.max(1);
        let late = now.0.saturating_sub(self.next_at.0);
        let steps = late / every + 1;
        self.next_at.0 = self.next_at.0.saturating_add(steps.saturating_mul(every));
    }
}

/// What an actor is to do later, under `ValueKey::Agenda`; many calls are in pages, and so are many reminders.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Planned {
    /// Calls by time, then in the order in which they came.
    pub(super) calls: BTreeMap<(Timestamp, u64), Call>,
    /// The number of the next call.
    pub(super) next: u64,
    pub(super) reminders: BTreeMap<String, Reminder>,
    /// The workflow that other calls wait for.
    pub(super) exclusive: Option<RunId>,
}

impl Planned {
    /// Whether it is as that of an actor that never had anything to do later.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
            && self.reminders.is_empty()
            && self.exclusive.is_none()
            && self.next == 0
    }
}

/// The pages that calls and reminders are in, under `ValueKey::AgendaPage`; none of what is in the agenda itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pages {
    pub(super) calls: Vec<u64>,
    pub(super) reminders: Vec<u64>,
}

/// An agenda without what is in its pages.
#[derive(Serialize)]
struct PagedRef<'a> {
    calls: Option<&'a BTreeMap<(Timestamp, u64), Call>>,
    next: u64,
    reminders: Option<&'a BTreeMap<String, Reminder>>,
    exclusive: &'a Option<RunId>,
    pages: &'a Pages,
}

#[derive(Deserialize)]
struct Paged {
    calls: Option<BTreeMap<(Timestamp, u64), Call>>,
    next: u64,
    reminders: Option<BTreeMap<String, Reminder>>,
    exclusive: Option<RunId>,
    pages: Pages,
}

/// An agenda some of which is in pages.
pub(super) fn encode_paged(planned: &Planned, pages: &Pages) -> Result<Bytes> {
    let paged = PagedRef {
        calls: pages.calls.is_empty().then_some(&planned.calls),
        next: planned.next,
        reminders: pages.reminders.is_empty().then_some(&planned.reminders),
        exclusive: &planned.exclusive,
        pages,
    };
    encode_as(PAGED, &paged)
}

/// An agenda, and the pages that the rest of it is in.
pub(super) fn decode_agenda(id: &RunId, bytes: &[u8]) -> Result<(Planned, Pages)> {
    let what = "agenda";
    if bytes.first() != Some(&PAGED) {
        return Ok((decode(id, what, bytes)?, Pages::default()));
    }
    let Paged {
        calls,
        next,
        reminders,
        exclusive,
        pages,
    } = decode_as(PAGED, id, what, bytes)?;
    let planned = Planned {
        calls: calls.unwrap_or_default(),
        next,
        reminders: reminders.unwrap_or_default(),
        exclusive,
    };
    Ok((planned, pages))
}

/// What a call with an id came to, under `ValueKey::Result`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CallResult {
    pub(super) method: String,
    pub(super) answer: Answer,
}

impl CallResult {
    /// The blobs that the actor is to name.
    pub(super) fn blobs(&self, into: &mut Vec<BlobId>) {
        if let Answer::Value(value) = &self.answer {
            value.for_each_blob(&mut |blob| into.push(blob));
        }
    }
}

/// What a method gave back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    Value(Value),
    /// The output of this run.
    Run(RunId),
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    encode_as(VERSION, value)
}

fn encode_as<T: Serialize>(version: u8, value: &T) -> Result<Bytes> {
    let mut bytes = vec![version];
    bincode::DefaultOptions::new()
        .serialize_into(&mut bytes, value)
        .map_err(|_| Error::PlanTooLarge)?;
    Ok(bytes.into())
}

/// What is not kept, and means nothing if another version of keepstep wrote it.
pub(super) fn decode_known<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (_, rest) = bytes
        .split_first()
        .filter(|(first, _)| **first == VERSION)?;
    bincode::DefaultOptions::new().deserialize(rest).ok()
}

pub(crate) fn decode<T: DeserializeOwned>(
    id: &RunId,
    what: &'static str,
    bytes: &[u8],
) -> Result<T> {
    decode_as(VERSION, id, what, bytes)
}

fn decode_as<T: DeserializeOwned>(
    expected: u8,
    id: &RunId,
    what: &'static str,
    bytes: &[u8],
) -> Result<T> {
    let damage = match bytes.split_first() {
        Some((version, rest)) if *version == expected => {
            match bincode::DefaultOptions::new().deserialize(rest) {
                Ok(value) => return Ok(value),
                Err(_) => Damage::Missing { what },
            }
        }
        Some((&version, _)) => {
            return Err(Error::Storage(StorageError::UnknownFormat {
                location: format!("{what} of {id}"),
                found: version.to_string(),
                supported: VERSION.to_string(),
            }));
        }
        None => Damage::Missing { what },
    };
    Err(Error::Damaged {
        run: id.clone(),
        damage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_version_1_keep_their_bytes() {
        let value = Value::from_bytes(&[1, 7][..]);
        let call = Call {
            method: "m".into(),
            args: vec![value.clone()],
            key: Some("k".into()),
        };
        let state = State {
            version: 2,
            value: value.clone(),
        };
        assert_eq!(encode(&state).unwrap()[..], [1, 2, 2, 1, 7]);
        let called = [1, b'm', 1, 2, 1, 7, 1, 1, b'k'];
        let message = Message::Call {
            call: call.clone(),
            due_at: Some(Timestamp(9)),
        };
        let expected = [&[1, 0][..], &called, &[1, 9]].concat();
        assert_eq!(encode(&message).unwrap()[..], expected);
        let reminder = Reminder {
            call: call.clone(),
            every_micros: 5,
            next_at: Timestamp(6),
        };
        let message = Message::Remind {
            name: "n".into(),
            reminder: reminder.clone(),
        };
        let expected = [&[1, 1, 1, b'n'][..], &called, &[5, 6]].concat();
        assert_eq!(encode(&message).unwrap()[..], expected);
        let forget = Message::Forget { name: "n".into() };
        assert_eq!(encode(&forget).unwrap()[..], [1, 2, 1, b'n']);
        let agenda = Planned {
            calls: [((Timestamp(8), 3), call.clone())].into(),
            next: 4,
            reminders: [("n".to_owned(), reminder)].into(),
            exclusive: Some(RunId::new("r").unwrap()),
        };
        let expected = [
            &[1, 1, 8, 3][..],
            &called,
            &[4, 1, 1, b'n'],
            &called,
            &[5, 6, 1, 1, b'r'],
        ];
        assert_eq!(encode(&agenda).unwrap()[..], expected.concat());
        let mut pages = Pages {
            calls: vec![0, 7],
            reminders: vec![],
        };
        let paged = encode_paged(&agenda, &pages).unwrap();
        let expected = [
            &[2, 0, 4, 1, 1, 1, b'n'][..],
            &called,
            &[5, 6, 1, 1, b'r', 2, 0, 7, 0],
        ];
        assert_eq!(paged[..], expected.concat());
        pages = Pages {
            calls: vec![],
            reminders: vec![3],
        };
        let paged = encode_paged(&agenda, &pages).unwrap();
        let expected = [&[2, 1, 1, 8, 3][..], &called, &[4, 0, 1, 1, b'r', 0, 1, 3]];
        assert_eq!(paged[..], expected.concat());
        let page = encode(&vec![("n", &agenda.reminders["n"])]).unwrap();
        let expected = [&[1, 1, 1, b'n'][..], &called, &[5, 6]];
        assert_eq!(page[..], expected.concat());
        let page = encode(&vec![((Timestamp(8), 3u64), &call)]).unwrap();
        assert_eq!(page[..], [&[1, 1, 8, 3][..], &called].concat());
        let result = CallResult {
            method: "m".into(),
            answer: Answer::Value(value),
        };
        assert_eq!(encode(&result).unwrap()[..], [1, 1, b'm', 0, 2, 1, 7]);
        let result = CallResult {
            method: "m".into(),
            answer: Answer::Run(RunId::new("r").unwrap()),
        };
        assert_eq!(encode(&result).unwrap()[..], [1, 1, b'm', 1, 1, b'r']);
    }

    #[test]
    fn missed_times_of_a_reminder_are_one() {
        let call = Call {
            method: "m".into(),
            args: vec![],
            key: None,
        };
        let mut reminder = Reminder {
            call,
            every_micros: 10,
            next_at: Timestamp(100),
        };
        reminder.move_on(Timestamp(100));
        assert_eq!(reminder.next_at, Timestamp(110));
        reminder.move_on(Timestamp(139));
        assert_eq!(reminder.next_at, Timestamp(140));
        assert_eq!(reminder.next_at.0 % 10, 0);
    }
}
