//! Journal entries: the events of a run in one commit, as bytes.
//!
//! An entry is `version: u8`, `n_events: u32`, `length: u32`, `crc32: u32` (little endian), then `length` bytes of events in
//! bincode 1.3 with variable-length integers. The checksum covers the entry's position, `n_events` and the events, so
//! that an entry that stands in another's place is noticed.

use bincode::Options;
use bytes::Bytes;
use keepstep_storage::Position;
use serde::Deserialize;

use crate::error::Damage;
use crate::plan::Plan;
use crate::run::Event;

const VERSION: u8 = 1;
const HEADER: usize = 13;
/// The longest entry: one plan and one snapshot fit into it. The header counts bytes in 32 bits.
const MAX_BYTES: usize = 3 << 30;
/// A plan with more in it than this is refused.
pub(crate) const MAX_PLAN_BYTES: u64 = 1 << 30;

/// Room for the result of a step or two.
const SHORT_ENTRY: usize = 64;

/// The bytes of an entry that is being written.
#[derive(Debug, Default)]
pub(crate) struct EntryWriter {
    bytes: Vec<u8>,
    n_events: u32,
}

impl EntryWriter {
    pub(crate) fn is_empty(&self) -> bool {
        self.n_events == 0
    }

    /// How many bytes it has so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn push(&mut self, event: &Event) -> Result<(), bincode::Error> {
        if self.bytes.is_empty() {
            self.bytes.reserve(SHORT_ENTRY);
            self.bytes.resize(HEADER, 0);
        }
        let before = self.bytes.len();
        let pushed = bincode::DefaultOptions::new().serialize_into(&mut self.bytes, event);
        let pushed = pushed.and_then(|()| {
            if self.bytes.len() > MAX_BYTES {
                return Err(bincode::ErrorKind::SizeLimit.into());
            }
            Ok(())
        });
        pushed.inspect_err(|_| self.bytes.truncate(before))?;
        self.n_events += 1;
        Ok(())
    }

    /// The whole entry.
    pub(crate) fn finish(self, position: Position) -> Bytes {
        let mut bytes = self.bytes;
        bytes.resize(bytes.len().max(HEADER), 0);
        let length = (bytes.len() - HEADER) as u32;
        let checksum = checksum(position, self.n_events, &bytes[HEADER..]);
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.n_events.to_le_bytes());
        bytes[5..9].copy_from_slice(&length.to_le_bytes());
        bytes[9..13].copy_from_slice(&checksum.to_le_bytes());
        bytes.into()
    }
}

/// Whether a plan is short enough to be stored.
pub(crate) fn is_storable(plan: &Plan) -> bool {
    let options = bincode::DefaultOptions::new().with_limit(MAX_PLAN_BYTES);
    options.serialized_size(plan).is_ok()
}

/// The events of an entry.
pub(crate) fn read_entry(position: Position, bytes: &[u8]) -> Result<Vec<Event>, Damage> {
    let damaged = |what: &str| Damage::Entry {
        at: position,
        what: what.to_owned(),
    };
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|word| word.try_into().ok())
            .map(u32::from_le_bytes)
    };
    match bytes.first() {
        None => return Err(damaged("it is empty")),
        Some(&VERSION) => {}
        Some(&version) => {
            return Err(Damage::Format {
                at: position,
                version,
            });
        }
    }
    let (Some(n_events), Some(length), Some(stored)) = (word(1), word(5), word(9)) else {
        return Err(damaged("its header is cut off"));
    };
    let payload = &bytes[HEADER..];
    if payload.len() != length as usize {
        return Err(damaged(&format!(
            "it has {} bytes and should have {length}",
            payload.len()
        )));
    }
    if checksum(position, n_events, payload) != stored {
        return Err(damaged("its checksum does not match"));
    }
    let options = bincode::DefaultOptions::new().with_limit(payload.len() as u64 + 64);
    let mut decoder = bincode::Deserializer::from_slice(payload, options);
    (0..n_events)
        .map(|_| {
            Event::deserialize(&mut decoder)
                .map_err(|error| damaged(&format!("an event does not decode: {error}")))
        })
        .collect()
}

/// An entry of these bytes, whatever they are.
#[cfg(feature = "fuzzing")]
pub(crate) fn seal(position: Position, n_events: u32, payload: &[u8]) -> Bytes {
    let bytes = [&[0; HEADER], payload].concat();
    EntryWriter { bytes, n_events }.finish(position)
}

fn checksum(position: Position, n_events: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.0.to_le_bytes());
    hasher.update(&n_events.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arg, Child, Extra, First, NodeKind, Plan, PlanNode, StepRef, Until};
    use crate::run::{Failure, Run, StepId};
    use crate::value::{Codec, Value};

    fn entry() -> (Vec<Event>, Bytes) {
        let value = Value::encode(&"a result", Codec::MessagePack).unwrap();
        let events = vec![
            Event::StepSucceeded {
                step: StepId(3),
                value,
            },
            Event::RunSuspended {
                reason: crate::SuspendReason::Requested,
            },
            Event::RunResumed,
        ];
        let mut writer = EntryWriter::default();
        events.iter().for_each(|event| writer.push(event).unwrap());
        (events, writer.finish(Position(7)))
    }

    /// A change of these bytes makes stores that exist unreadable: add a variant at the end instead.
    #[test]
    fn events_of_format_1_keep_their_bytes() {
        let hex = |event: &Event| {
            let bytes = bincode::DefaultOptions::new().serialize(event).unwrap();
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let value = || Value::encode(&7u8, Codec::MessagePack).unwrap();
        let step = StepId(300);
        let plan = Plan {
            steps: vec![StepRef {
                name: "a::b".into(),
                version: 2,
                fingerprints: [5, 300].into(),
            }],
            nodes: vec![
                PlanNode {
                    kind: NodeKind::Value(value()),
                    extra: None,
                },
                PlanNode {
                    kind: NodeKind::Step {
                        step: 0,
                        args: smallvec::smallvec![
                            Arg::Value(value()),
                            Arg::Node(0),
                            Arg::Seq(Box::new([Arg::Some(Box::new(Arg::Node(0)))])),
                            Arg::Map(Box::new([(value(), Arg::Node(0))])),
                        ],
                    },
                    extra: Some(Box::new(Extra {
                        name: Some("n".into()),
                        after: Box::new([0]),
                        retries: Some(1),
                        timeout: Some(1000),
                        metadata: Some("{}".into()),
                        priority: Some(-1),
                        key: Some("k".into()),
                    })),
                },
                PlanNode {
                    kind: NodeKind::Catch(1),
                    extra: None,
                },
            ],
        };
        let plan = std::sync::Arc::new(plan);
        let kinds = [
            NodeKind::Sleep(Until::After(7)),
            NodeKind::Sleep(Until::At(keepstep_storage::Timestamp(5))),
            NodeKind::Event("a".into()),
            NodeKind::All(Box::new([0, 0])),
            NodeKind::First(First::Placed, Box::new([0, 1])),
            NodeKind::Child(Box::new(Child {
                id: keepstep_storage::RunId::new("c").unwrap(),
                plan: [7, 8].into(),
                hash: [0; 32],
                blobs: [keepstep_storage::BlobId([9; 32])].into(),
                in_memory: crate::plan::InMemory::default(),
            })),
        ];
        let waits = Plan {
            steps: vec![],
            nodes: kinds
                .into_iter()
                .map(|kind| PlanNode { kind, extra: None })
                .collect(),
        };
        let failure = Failure {
            kind: crate::StepErrorKind::Panic,
            message: "m".into(),
            causes: vec!["c".into()],
        };
        let mut run = Run::default();
        run.apply(Event::Created { plan: plan.clone() }).unwrap();
        let expected = [
            (Event::Created { plan: plan.clone() }, CREATED),
            (
                Event::StepSucceeded {
                    step,
                    value: value(),
                },
                "01fb2c01020107",
            ),
            (Event::StepRan { step, value: None }, "02fb2c01"),
            (
                Event::StepExpanded {
                    step,
                    plan: Plan::default().into(),
                },
                "03fb2c010000",
            ),
            (
                Event::AttemptFailed {
                    step,
                    failure,
                    retry_at: Some(keepstep_storage::Timestamp(5)),
                },
                "04fb2c0101016d0101630105",
            ),
            (Event::RunFailed, "05"),
            (Event::RunCanceled, "06"),
            (
                Event::RunSuspended {
                    reason: crate::SuspendReason::Requested,
                },
                "0700",
            ),
            (Event::RunResumed, "08"),
            (Event::Snapshot(Box::new(run.snapshot())), SNAPSHOT),
            (
                Event::ClockStarted {
                    at: keepstep_storage::Timestamp(5),
                    steps: vec![step],
                },
                "0a0501fb2c01",
            ),
            (Event::ChildBegan { step }, "0bfb2c01"),
            (
                Event::Interrupted {
                    at: keepstep_storage::Timestamp(5),
                    steps: vec![step],
                },
                "0c0501fb2c01",
            ),
            (
                Event::StepExpanded {
                    step,
                    plan: waits.into(),
                },
                "03fb2c0100060300070003010500040161000502000000060102000100070163020708000000000000000000000000000000000000000000000000000000000000000001090909090909090909090909090909090909090909090909090909090909090900",
            ),
        ];
        for (event, bytes) in expected {
            assert_eq!(hex(&event), bytes, "{event:?}");
        }
    }

    const CREATED: &str = "000104613a3a62020205fb2c010301020107000000040002010701000201040100030102010701000101016e0100010101fbe80301027b7d010101016b020100";
    const SNAPSHOT: &str = "09030100000001000104613a3a62020205fb2c010301020107000000040002010701000201040100030102010701000101016e0100010101fbe80301027b7d010101016b020100000000000300020201070000000000";

    #[test]
    fn an_entry_reads_back_as_written() {
        let (events, bytes) = entry();
        assert_eq!(read_entry(Position(7), &bytes).unwrap(), events);
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let (_, bytes) = entry();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << bit;
                assert!(
                    read_entry(Position(7), &damaged).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
            assert!(
                read_entry(Position(7), &bytes[..at]).is_err(),
                "cut at {at}"
            );
        }
        assert!(read_entry(Position(8), &bytes).is_err(), "another position");
    }
}
