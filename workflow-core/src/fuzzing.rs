//! The decoders of what an engine stores, each behind a function that takes any bytes. The fuzzer calls them, and so does a
//! test, with every input that the fuzzer found worth keeping (`fuzz/` in the repository).
//!
//! A function panics if a decoder does, or if something does not hold that should of what it decoded.
#![expect(
    clippy::unwrap_used,
    reason = "what does not hold is to be found, by a panic"
)]

use std::collections::BTreeMap;
use std::fmt::Debug;

use bincode::Options;
use bytes::Bytes;
use keepstep_storage::{Position, Timestamp};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::error::{StepError, StepErrorKind, SuspendReason};
use crate::executor::Mail;
use crate::graph::Graph;
use crate::journal::{EntryWriter, read_entry, seal};
use crate::plan::{Arg, Plan, hash};
use crate::remote;
use crate::run::audit::audit_counts;
use crate::run::{Event, Run, Settled};
use crate::source::Source;
use crate::value::{Codec, Value};

pub use keepstep_storage::fuzzing::{Target, with_a_flipped_bit};

/// Every decoder of this crate.
pub const TARGETS: &[Target] = &[
    ("arguments", arguments),
    ("fold", fold),
    ("journal_entry", journal_entry),
    ("mail", mail),
    ("plan", plan),
    ("remote_step", remote_step),
    ("stored_error", stored_error),
    ("value", value),
];

/// An entry that is read holds the same events when it is written again, and a flipped bit makes it unreadable.
///
/// The bytes are an entry; behind a header that fits they are its events, as many of them as the first byte says.
fn journal_entry(data: &[u8]) {
    let position = Position(data.len() as u64);
    drop(read_entry(position, data));
    let Some((n_events, payload)) = data.split_first() else {
        return;
    };
    let entry = seal(position, u32::from(*n_events), payload);
    assert!(read_entry(position, &with_a_flipped_bit(&entry)).is_err());
    assert!(read_entry(position.next(), &entry).is_err());
    let Ok(events) = read_entry(position, &entry) else {
        return;
    };
    assert_eq!(events.len(), usize::from(*n_events));
    let mut writer = EntryWriter::default();
    events.iter().for_each(|event| writer.push(event).unwrap());
    assert_eq!(writer.is_empty(), events.is_empty());
    let again = writer.finish(position);
    assert_eq!(read_entry(position, &again).unwrap(), events);
}

/// Events in whatever order are folded or refused: the run counts right after each, goes on from a snapshot as it would have
/// without, ends if it is driven on, and can be looked at.
fn fold(data: &[u8]) {
    let events = events(data);
    let mut run = Run::default();
    let mut is_created = false;
    let mut past = Run::with_history(Some("b".to_owned()));
    for event in events {
        if !event.plans_are_sound() || run.apply(event.clone()).is_err() {
            break;
        }
        is_created = true;
        audit_counts(&run);
        // It keeps what the other forgets, so it may be told that something is impossible.
        drop(past.apply(event));
    }
    let graph = Graph::of_run(&past, &[]);
    assert!(graph.to_mermaid().len() >= graph.nodes.len());
    assert!(graph.to_dot().len() >= graph.nodes.len());

    run.take_named();
    run.take_stops();
    run.tidy_ready();
    if is_created && run.is_active() {
        let snapshot = run.snapshot();
        let mut restored = Run::default();
        restored
            .apply(Event::Snapshot(Box::new(snapshot.clone())))
            .unwrap();
        audit_counts(&restored);
        assert_eq!(restored.next_timer(), run.next_timer());
        assert!(restored.counts().done >= snapshot.counts().done);
    }
    drive(&mut run);
}

/// Gives every step that may start a value, and every wait what it waits for, until none is left.
fn drive(run: &mut Run) {
    let value = Value::encode(&1u8, Codec::MessagePack).unwrap();
    run.retry_due(Timestamp::MAX);
    loop {
        let ready = run.take_ready();
        if ready.is_empty() {
            match outside(run, &value) {
                Some(event) => run.apply(event).unwrap(),
                None => break,
            }
        }
        for step in ready.into_iter().rev() {
            let Some(start) = run.start(step) else {
                continue;
            };
            assert!(start.plan.step_of(start.index).is_some());
            run.must_store(step);
            run.attempts(step);
            run.apply(Event::StepSucceeded {
                step,
                value: value.clone(),
            })
            .unwrap();
        }
        audit_counts(run);
    }
    if let Settled::By(event) = run.settle(true) {
        run.apply(event).unwrap();
        audit_counts(run);
    }
}

/// Something that the run waits for; what is due comes last.
fn outside(run: &mut Run, value: &Value) -> Option<Event> {
    if !run.is_active() {
        return None;
    }
    let steps = run.take_clocks();
    if !steps.is_empty() {
        let at = Timestamp(1);
        return Some(Event::ClockStarted { at, steps });
    }
    let listener = run.listened_names().next().cloned();
    let listener = listener.and_then(|name| run.listener(&name));
    let child = || {
        run.nodes()
            .map(|node| node.id)
            .find(|id| run.child(*id).is_some())
    };
    if let Some(step) = listener.or_else(child) {
        let value = value.clone();
        return Some(Event::StepSucceeded { step, value });
    }
    let due = run.first_due(Timestamp::MAX, Timestamp::MAX);
    due.and_then(|due| run.event_of_due(due))
}

/// The events that the bytes begin with.
fn events(payload: &[u8]) -> Vec<Event> {
    let options = bincode::DefaultOptions::new().with_limit(payload.len() as u64 + 64);
    let mut decoder = bincode::Deserializer::from_slice(payload, options);
    std::iter::from_fn(|| Event::deserialize(&mut decoder).ok()).collect()
}

/// A message that is read says the same when it is written again.
fn mail(data: &[u8]) {
    if let Ok(mail) = Mail::decode(data) {
        let again = mail.encode().unwrap();
        assert_eq!(Mail::decode(&again), Ok(mail));
    }
}

/// A plan that is read is the same when it is written again; if it is sound, it can be hashed and looked at, and run.
fn plan(data: &[u8]) {
    let options = bincode::DefaultOptions::new().with_limit(data.len() as u64 + 64);
    let mut decoder = bincode::Deserializer::from_slice(data, options);
    let Ok(plan) = Plan::deserialize(&mut decoder) else {
        return;
    };
    let bytes = bincode::DefaultOptions::new().serialize(&plan).unwrap();
    let again: Plan = bincode::DefaultOptions::new().deserialize(&bytes).unwrap();
    assert_eq!(again, plan);
    assert_eq!(hash(&again), hash(&plan));
    if !plan.is_sound() {
        return;
    }
    for index in 0..=plan.root() {
        plan.label(index);
        assert!(
            plan.name_of(index)
                .is_none_or(|name| **name == *plan.label(index))
        );
    }
    plan.blobs();
    let mut run = Run::default();
    run.apply(Event::Created { plan: plan.into() }).unwrap();
    audit_counts(&run);
    drive(&mut run);
    // Nothing fails but what takes too long, so every other plan has a result.
    let is_timed_out = run.failure().map(|error| error.kind) == Some(StepErrorKind::Timeout);
    assert!(is_timed_out || run.settle(true) == Settled::Successful);
}

/// A call or a result of a remote step that is read says the same when it is written again, and damage makes it unreadable.
///
/// The bytes are what a queue holds; behind a header that fits they are what is in it.
fn remote_step(data: &[u8]) {
    drop((remote::read_payload(data), remote::read_result(data)));
    let sealed = remote::sealed(data);
    let damaged = with_a_flipped_bit(&sealed);
    assert!(remote::read_payload(&damaged).is_err());
    assert!(remote::read_result(&damaged).is_err());
    if let Ok(call) = remote::read_payload(&sealed) {
        let again = remote::payload(&call).unwrap();
        assert_eq!(remote::read_payload(&again), Ok(call));
    }
    if let Ok(outcome) = remote::read_result(&sealed) {
        let again = remote::result(&outcome).unwrap();
        assert_eq!(remote::read_result(&again), Ok(outcome));
    }
}

/// A value that decodes as some type is the same when it is encoded again.
fn value(data: &[u8]) {
    let mut inputs = vec![Value::from_bytes(data)];
    inputs.push(inputs[0].ok());
    for value in inputs {
        let mut n_blobs = 0;
        value.for_each_part(&mut |_| n_blobs += 1);
        let blob = Bytes::from_static(&[1, 7]);
        let with_blobs = value.with_parts(&|_| Some(blob.clone()));
        assert!(n_blobs > 0 || with_blobs.len() <= value.len());
        assert!(!with_blobs.has_parts());
        drop(Source::Value(value.clone()).decode::<IgnoredAny>());
        drop(value.decode::<f64>());
        again::<()>(&value);
        again::<bool>(&value);
        again::<u8>(&value);
        again::<i64>(&value);
        again::<u128>(&value);
        again::<char>(&value);
        again::<String>(&value);
        again::<Option<Vec<String>>>(&value);
        again::<Option<Option<Option<()>>>>(&value);
        again::<(u8, [i16; 2])>(&value);
        again::<BTreeMap<String, Vec<u8>>>(&value);
        again::<Result<u8, String>>(&value);
        again::<Result<Result<Shape, ()>, StepError>>(&value);
        again::<Vec<Shape>>(&value);
        again::<serde_json::Value>(&value);
    }
}

/// A type with everything that serde knows and both codecs do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Box<Shape>),
    Tuple(u8, Option<bool>),
    Struct { id: u64, inner: Vec<Shape> },
}

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &Value) {
    let Ok(decoded) = value.decode::<T>() else {
        return;
    };
    let encoded = match Value::encode(&decoded, Codec::MessagePack) {
        Ok(encoded) => encoded,
        // Each part of a value may nest as deep as a whole one.
        Err(error) => return assert!(error.to_string().contains("deeper than"), "{error}"),
    };
    assert_eq!(encoded.decode::<T>().unwrap(), decoded);
}

/// Containers of values decode as some type or do not: nothing else.
fn arguments(data: &[u8]) {
    let options = bincode::DefaultOptions::new().with_limit(data.len() as u64 + 64);
    let mut decoder = bincode::Deserializer::from_slice(data, options);
    let Ok(arg) = Arg::deserialize(&mut decoder) else {
        return;
    };
    let source = source_of(&arg);
    drop(source.decode::<IgnoredAny>());
    drop(source.decode::<serde_json::Value>());
    drop(source.decode::<Vec<u64>>());
    drop(source.decode::<(Option<String>, u8)>());
    drop(source.decode::<[Shape; 2]>());
    drop(source.decode::<BTreeMap<String, Shape>>());
    drop(source.decode::<Option<BTreeMap<u8, Vec<Result<u8, String>>>>>());
    if let (Ok(once), Ok(twice)) = (
        source.decode::<serde_json::Value>(),
        source.decode::<serde_json::Value>(),
    ) {
        assert_eq!(once, twice);
    }
}

fn source_of(arg: &Arg) -> Source {
    match arg {
        Arg::Value(value) => Source::Value(value.clone()),
        Arg::Node(node) => Source::Value(Value::encode(node, Codec::Bincode).unwrap()),
        Arg::Seq(items) => Source::Seq(items.iter().map(source_of).collect()),
        Arg::Map(entries) => Source::Map(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), source_of(value)))
                .collect(),
        ),
        Arg::Some(inner) => Source::Some(Box::new(source_of(inner))),
    }
}

/// What is kept beside a journal: errors, reasons and the user's metadata.
fn stored_error(data: &[u8]) {
    let value = Value::from_bytes(data);
    again::<StepError>(&value);
    again::<SuspendReason>(&value);
    if let Ok(error) = value.decode::<StepError>() {
        assert!(error.to_string().len() >= error.message.len());
    }
    if let Ok(reason) = value.decode::<SuspendReason>() {
        assert!(!reason.to_string().is_empty());
    }
    if let Ok(metadata) = serde_json::from_slice::<serde_json::Value>(data) {
        let text = metadata.to_string();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            metadata
        );
    }
}
