//! What the tests of this folder are written with.

use std::sync::Arc;

use keepstep_storage::{
    Build, DeleteOutcome, Epoch, Expect, NodeId, Position, RunDelete, RunId, RunKind, RunRecord,
    RunWrite, StepCounts, Storage, StoredStatus, Timestamp,
};

pub(crate) async fn open(url: &str) -> Arc<dyn Storage> {
    keepstep_storage::open(url).await.unwrap()
}

pub(crate) fn id(id: &str) -> RunId {
    RunId::new(id).unwrap()
}

pub(crate) async fn record(store: &dyn Storage, run: &str) -> RunRecord {
    store.record(&id(run)).await.unwrap().unwrap()
}

/// Deletes a run, which must be there at this epoch.
pub(crate) async fn delete(store: &dyn Storage, run: &str, epoch: Epoch, node: NodeId) {
    let delete = RunDelete {
        run: id(run),
        epoch,
        node,
        family: None,
    };
    let committed = store.commit(delete.into()).await.unwrap();
    assert_eq!(committed.deletes, [DeleteOutcome::Deleted], "{run}");
}

pub(crate) fn run_record() -> RunRecord {
    RunRecord {
        kind: RunKind::Workflow,
        status: StoredStatus::Running,
        owner: None,
        epoch: Epoch::FIRST,
        incarnation: 1,
        workflow: "step".to_owned(),
        plan_hash: [0; 32],
        created_at: Timestamp(1),
        started_at: None,
        ended_at: None,
        wake_at: None,
        first_entry: Position(0),
        next_entry: Position(0),
        journal_bytes: 0,
        steps: StepCounts::default(),
        parent: None,
        build: Build::default(),
        n_orphaned: 0,
    }
}

/// The write that creates a run without an owner.
pub(crate) fn creation(run: &str) -> RunWrite {
    RunWrite {
        run: id(run),
        expect: Expect::New,
        record: run_record(),
        entry: None,
        truncate: false,
        values: vec![],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    }
}
