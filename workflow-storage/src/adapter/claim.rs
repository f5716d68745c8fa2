//! Ownership. Only one process can open an embedded store, so every claim is granted; epochs still rise, and fence
//! the writes of an engine that was shut down in the middle of something.

use std::collections::HashMap;

use crate::{Epoch, NodeId, Result, RunId, RunRecord};

use super::core::Core;
use super::head::{Head, Orphaned};

impl Core {
    pub(super) fn claim(&self, runs: Vec<RunId>, node: NodeId) -> Result<Vec<Option<RunRecord>>> {
        let writer = self.writer()?;
        let mut heads: HashMap<RunId, Head> = HashMap::with_capacity(runs.len());
        let mut claimed = Vec::with_capacity(runs.len());
        for run in runs {
            let head = match heads.remove(&run) {
                Some(head) => Some(head),
                None => self.head(&run)?,
            };
            claimed.push(head.map(|mut head| {
                let at = head.record.next_entry;
                let is_orphan = head.record.owner.is_some_and(|owner| owner != node);
                let before = head.orphaned.filter(|orphaned| orphaned.at == at);
                head.orphaned = is_orphan.then(|| Orphaned {
                    at,
                    times: before.map_or(1, |before| before.times.saturating_add(1)),
                });
                head.record.owner = Some(node);
                head.record.epoch = head.record.epoch.next();
                let mut record = head.record.clone();
                record.n_orphaned = head.orphaned.map_or(0, |orphaned| orphaned.times);
                heads.insert(run, head);
                record
            }));
        }
        self.write_heads(&writer, heads)?;
        Ok(claimed)
    }

    pub(super) fn release(&self, runs: Vec<(RunId, Epoch)>) -> Result<()> {
        let writer = self.writer()?;
        let mut heads = HashMap::with_capacity(runs.len());
        for (run, epoch) in runs {
            if let Some(mut head) = self.head(&run)?
                && head.record.epoch == epoch
                && head.record.owner.take().is_some()
            {
                head.record.epoch = epoch.next();
                heads.insert(run, head);
            }
        }
        self.write_heads(&writer, heads)
    }

    /// Writes heads whose status and times are as they were, so that no index changes.
    fn write_heads(
        &self,
        writer: &super::core::Writer<'_>,
        heads: HashMap<RunId, Head>,
    ) -> Result<()> {
        let mut ops = Vec::with_capacity(heads.len());
        for (run, head) in &heads {
            self.put_head(&mut ops, run, head)?;
        }
        let heads = heads.into_iter().map(|(run, head)| (run, Some(head)));
        self.apply(writer, ops, heads)
    }
}
