//! What the queue holds of a task: what its worker needs, and what it came to, as bytes.
//!
//! `version: u8`, `crc32: u32` (little endian) of what follows, then bincode 1.3 with variable-length integers, as in the journal:
//! of a payload a [`Plan`] of one step that has all of its inputs, of a result a [`StoredOutcome`].

use std::sync::Arc;

use bincode::Options;
use bytes::Bytes;
use keepstep_storage::BlobId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::SuspendReason;
use crate::executor::Outcome;
use crate::journal::MAX_PLAN_BYTES;
use crate::plan::{NodeKind, Plan};
use crate::run::Failure;
use crate::value::Value;

const VERSION: u8 = 1;
const HEADER: usize = 5;

/// What an execution came to. Variants are only ever added, at the end: their numbers are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum StoredOutcome {
    Value(Value),
    Plan(Arc<Plan>),
    Failed(Failure),
    /// The worker's program could not run it.
    Unrunnable(SuspendReason),
}

impl StoredOutcome {
    /// What can be stored of an outcome; the rest is the worker's to deal with.
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Value(value) => Some(Self::Value(value.clone())),
            Outcome::Plan(plan) => Some(Self::Plan(Arc::clone(plan))),
            Outcome::Failed(failure) => Some(Self::Failed((**failure).clone())),
            Outcome::Unrunnable(reason) => Some(Self::Unrunnable((**reason).clone())),
            Outcome::Storage(_) | Outcome::Stopped => None,
        }
    }

    pub(super) fn blobs(&self) -> Vec<BlobId> {
        match self {
            Self::Value(value) => {
                let mut blobs = Vec::new();
                value.for_each_blob(&mut |blob| blobs.push(blob));
                blobs
            }
            Self::Plan(plan) => plan.blobs(),
            Self::Failed(_) | Self::Unrunnable(_) => Vec::new(),
        }
    }

    /// Whether it is one of the step, and not of a program that could not run it.
    pub(super) fn stands(&self) -> bool {
        !matches!(self, Self::Unrunnable(_))
    }

    /// Whether a worker of another version may come to something else.
    pub(super) fn declines(&self) -> bool {
        matches!(self, Self::Unrunnable(reason) if reason.is_of_this_program())
    }
}

impl From<StoredOutcome> for Outcome {
    fn from(stored: StoredOutcome) -> Self {
        match stored {
            StoredOutcome::Value(value) => Self::Value(value),
            StoredOutcome::Plan(plan) => Self::Plan(plan),
            StoredOutcome::Failed(failure) => Self::Failed(failure.into()),
            StoredOutcome::Unrunnable(reason) => Self::Unrunnable(reason.into()),
        }
    }
}

/// The bytes of a call; `None` if it is too long for any store.
pub(crate) fn payload(call: &Plan) -> Option<Bytes> {
    seal(call)
}

/// The call that a payload is.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_payload(bytes: &[u8]) -> Result<Plan, String> {
    let call: Plan = open(bytes)?;
    let is_call = matches!(&*call.nodes, [only] if matches!(only.kind, NodeKind::Step { .. }));
    if is_call && call.is_sound() {
        Ok(call)
    } else {
        Err("it is not the call of one step".to_owned())
    }
}

/// The bytes of a result; `None` if it is too long for any store.
pub(crate) fn result(outcome: &StoredOutcome) -> Option<Bytes> {
    seal(outcome)
}

/// The outcome that a result is.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_result(bytes: &[u8]) -> Result<StoredOutcome, String> {
    match open(bytes)? {
        StoredOutcome::Plan(plan) if !plan.is_sound() => Err(
            "it has a plan that refers to a node that is not before it, or one that nothing uses"
                .to_owned(),
        ),
        outcome => Ok(outcome),
    }
}

fn seal<T: Serialize>(what: &T) -> Option<Bytes> {
    let mut bytes = vec![0; HEADER];
    // Counted first: the serializer does not hold to a limit while it writes.
    let options = bincode::DefaultOptions::new().with_limit(MAX_PLAN_BYTES);
    options.serialized_size(what).ok()?;
    let options = bincode::DefaultOptions::new();
    options.serialize_into(&mut bytes, what).ok()?;
    bytes[0] = VERSION;
    let checksum = crc32fast::hash(&bytes[HEADER..]);
    bytes[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Some(bytes.into())
}

fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (header, body) = bytes.split_at_checked(HEADER).ok_or("it is cut off")?;
    if header[0] != VERSION {
        return Err(format!(
            "it has format {}, which this version does not know",
            header[0]
        ));
    }
    if crc32fast::hash(body).to_le_bytes() != header[1..] {
        return Err("its checksum does not match".to_owned());
    }
    let options = bincode::DefaultOptions::new().with_limit(body.len() as u64 + 64);
    let opened = options.deserialize(body);
    opened.map_err(|error| format!("it does not decode: {error}"))
}

/// These bytes behind a header that fits, whatever they are.
#[cfg(feature = "fuzzing")]
pub(crate) fn sealed(body: &[u8]) -> Bytes {
    let checksum = crc32fast::hash(body).to_le_bytes();
    [&[VERSION], &checksum[..], body].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arg, Extra, PlanNode, StepRef};
    use crate::value::Codec;

    fn value() -> Value {
        Value::encode(&7u8, Codec::MessagePack).unwrap()
    }

    fn call() -> Plan {
        let args = [
            Arg::Value(value()),
            Arg::Node(0),
            Arg::Seq([Arg::Some(Arg::Node(1).into()), Arg::Node(0)].into()),
            Arg::Map([(value(), Arg::Node(1))].into()),
        ];
        let node = |kind, extra| PlanNode { kind, extra };
        let plan = Plan {
            steps: vec![StepRef {
                name: "a::b".into(),
                version: 2,
                fingerprints: [5].into(),
            }],
            nodes: vec![
                node(NodeKind::Value(value()), None),
                node(NodeKind::Value(value()), None),
                node(
                    NodeKind::Step {
                        step: 0,
                        args: args.into_iter().collect(),
                    },
                    Some(Box::new(Extra {
                        name: Some("n".into()),
                        after: [0].into(),
                        retries: Some(1),
                        timeout: Some(1000),
                        priority: Some(3),
                        ..Extra::default()
                    })),
                ),
            ],
        };
        assert_eq!(plan.of_step(0, vec![]), None);
        assert_eq!(plan.of_step(2, vec![value(); 3]), None);
        plan.of_step(2, vec![value(); 4]).unwrap()
    }

    fn outcomes() -> [StoredOutcome; 4] {
        [
            StoredOutcome::Value(value()),
            StoredOutcome::Plan(call().into()),
            StoredOutcome::Failed(Failure {
                kind: crate::StepErrorKind::Panic,
                message: "m".into(),
                causes: vec!["c".into()],
            }),
            StoredOutcome::Unrunnable(SuspendReason::Requested),
        ]
    }

    #[test]
    fn what_is_stored_reads_back() {
        let call = call();
        assert!(call.is_sound());
        assert_eq!(read_payload(&payload(&call).unwrap()), Ok(call));
        for outcome in outcomes() {
            assert_eq!(read_result(&result(&outcome).unwrap()), Ok(outcome));
        }
    }

    /// A change of these bytes makes what an older version offered or finished unreadable.
    #[test]
    fn format_1_keeps_its_bytes() {
        let hex = |bytes: Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let results = outcomes().map(|outcome| hex(result(&outcome).unwrap()));
        assert_eq!(results[0], "0190afbfa500020107");
        assert_eq!(results[2], "010870e1f90201016d010163");
        assert_eq!(results[3], "013c41f46a0300");
    }

    #[test]
    fn damage_is_noticed() {
        let call = payload(&call()).unwrap();
        let value = result(&outcomes()[0]).unwrap();
        for (bytes, reads) in [
            (
                &call,
                &(|bytes: &[u8]| read_payload(bytes).is_ok()) as &dyn Fn(&[u8]) -> bool,
            ),
            (&value, &|bytes: &[u8]| read_result(bytes).is_ok()),
        ] {
            assert!(reads(bytes));
            for at in 0..bytes.len() {
                assert!(!reads(&bytes[..at]), "cut at {at}");
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1;
                assert!(!reads(&damaged), "byte {at}");
            }
        }
        // Sound bytes of something else.
        assert!(read_payload(&seal(&Plan::default()).unwrap()).is_err());
        let unsound = StoredOutcome::Plan(Plan::default().into());
        assert!(read_result(&result(&unsound).unwrap()).is_err());
    }
}
