//! The stored form of a catalog record, and the copies kept of the ones written last.

use std::collections::HashMap;

use bincode::Options;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Position, RunId, RunRecord};

use super::frame;

/// The version of the bytes of a head.
const VERSION: u8 = 1;

/// A catalog record with what only the store needs to know of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) record: RunRecord,
    /// The number of the next message to the run.
    pub(super) next_message: u64,
    /// The last claim from a node that had not released the run.
    pub(super) orphaned: Option<Orphaned>,
}

/// A claim from a node that had not released the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Orphaned {
    /// The run's next entry then.
    pub(super) at: Position,
    /// How many such claims there were in a row with no entry in between.
    pub(super) times: u32,
}

/// Why the bytes of a head could not be read.
#[derive(Debug)]
pub(super) enum HeadFault {
    Damaged(&'static str),
    Version(u8),
}

impl Head {
    pub(super) fn encode(&self, key: &[u8]) -> Result<Bytes, bincode::Error> {
        Ok(frame::seal(key, &[&[VERSION], &options().serialize(self)?]))
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, HeadFault> {
        let payload =
            frame::unseal(key, value).ok_or(HeadFault::Damaged("its checksum is wrong"))?;
        match payload.split_first() {
            Some((&VERSION, head)) => {
                let head: Self = options()
                    .deserialize(head)
                    .map_err(|_| HeadFault::Damaged("it does not decode"))?;
                if head.counts_too_far() {
                    return Err(HeadFault::Damaged("it counts further than a run can get"));
                }
                Ok(head)
            }
            Some((&version, _)) => Err(HeadFault::Version(version)),
            None => Err(HeadFault::Damaged("it is empty")),
        }
    }

    /// Whether a number in it is about to overflow, which no run reaches by counting.
    fn counts_too_far(&self) -> bool {
        let record = &self.record;
        [
            record.epoch.0,
            record.next_entry.0,
            record.journal_bytes,
            self.next_message,
        ]
        .into_iter()
        .any(|count| count > u64::MAX / 2)
    }
}

/// Variable-length integers, no bytes left over.
fn options() -> impl Options {
    bincode::DefaultOptions::new()
}

/// Copies of heads written lately. Only the writer puts one in, and only once it is durable.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Boxed, since a map has room for about twice as many as are in it.
    young: HashMap<RunId, Box<Head>>,
    /// Those that were young before: dropped as a whole when the young are many, unless asked for.
    old: HashMap<RunId, Box<Head>>,
}

const MANY: usize = 8192;

impl Recent {
    pub(super) fn get(&self, run: &RunId) -> Option<&Head> {
        let head = self.young.get(run).or_else(|| self.old.get(run));
        head.map(|head| &**head)
    }

    pub(super) fn set(&mut self, run: RunId, head: Option<Head>) {
        let Some(head) = head else {
            self.young.remove(&run);
            self.old.remove(&run);
            return;
        };
        if self.young.len() >= MANY && !self.young.contains_key(&run) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(run, Box::new(head));
    }

    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        BlobId, Build, Epoch, NodeId, Parent, RunKind, StepCounts, StoredStatus, Timestamp,
    };

    pub(in super::super) fn record() -> RunRecord {
        RunRecord {
            kind: RunKind::Workflow,
            status: StoredStatus::Running,
            owner: Some(NodeId(9)),
            epoch: Epoch(2),
            incarnation: 3,
            workflow: "add".to_owned(),
            plan_hash: [1; 32],
            created_at: Timestamp(1000),
            started_at: None,
            ended_at: None,
            wake_at: Some(Timestamp(2000)),
            first_entry: Position(4),
            next_entry: Position(5),
            journal_bytes: 6,
            steps: StepCounts {
                total: 7,
                done: 8,
                failed: 9,
            },
            parent: Some(Parent {
                run: RunId::new("r").unwrap(),
                incarnation: 11,
                step: 10,
            }),
            build: Build {
                label: "v1".to_owned(),
                steps: 12,
                executable: Some(BlobId([7; 32])),
            },
            n_orphaned: 0,
        }
    }

    #[test]
    fn heads_of_format_1_keep_their_bytes() {
        let head = Head {
            record: record(),
            next_message: 300,
            orphaned: Some(Orphaned {
                at: Position(5),
                times: 2,
            }),
        };
        let bytes = head.encode(b"key").unwrap();
        let expected = [
            &[1][..],                // version
            &[0, 1],                 // workflow, running
            &[1, 9],                 // owner
            &[2, 3],                 // epoch, incarnation
            &[3, b'a', b'd', b'd'],  // workflow
            &[1; 32],                // plan
            &[251, 0xe8, 0x03],      // created
            &[0, 0],                 // started, ended
            &[1, 251, 0xd0, 0x07],   // wake
            &[4, 5, 6],              // first entry, next entry, bytes
            &[7, 8, 9],              // steps
            &[1, 1, b'r', 11, 10],   // parent
            &[2, b'v', b'1', 12, 1], // build: label, steps, executable
            &[7; 32],
            &[251, 0x2c, 0x01], // next message
            &[1, 5, 2],         // orphaned: at entry, times
        ]
        .concat();
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(Head::decode(b"key", &bytes).unwrap(), head);
        assert!(matches!(
            Head::decode(b"kez", &bytes),
            Err(HeadFault::Damaged(_))
        ));
        let later = frame::seal(b"key", &[&[2], &expected[1..]]);
        assert!(matches!(
            Head::decode(b"key", &later),
            Err(HeadFault::Version(2))
        ));
    }

    #[test]
    fn recent_heads_are_bounded_and_the_last_ones_stay() {
        let mut recent = Recent::default();
        let head = Head {
            record: record(),
            next_message: 0,
            orphaned: None,
        };
        for n in 0..5 * MANY {
            recent.set(RunId::new(n.to_string()).unwrap(), Some(head.clone()));
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * MANY);
        let last = RunId::new((5 * MANY - 1).to_string()).unwrap();
        assert!(recent.get(&last).is_some());
        recent.set(last.clone(), None);
        assert!(recent.get(&last).is_none());
    }
}
