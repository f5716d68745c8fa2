//! A claim makes a run's owner, and no two claims are the same.
//!
//! Whether a run that another node owns can be claimed depends on leases, which not every store has: the cases claim
//! only what is free or their own.

use std::time::Duration;

use super::kit::*;
use crate::{NodeId, RunId, RunQuery, RunRecord, Storage, StoredStatus, ValueKey, WriteOutcome};

const LEASE: Duration = Duration::from_secs(60);

async fn claim(store: &dyn Storage, runs: &[&RunId], node: NodeId) -> Vec<Option<RunRecord>> {
    let runs: Vec<_> = runs.iter().map(|&run| run.clone()).collect();
    store.claim(&runs, node, LEASE).await.unwrap()
}

/// A free run that nobody ever ran.
fn free(id: &str) -> Owned {
    let mut run = Owned::new(id);
    run.record.owner = None;
    run
}

/// A run whose epoch is not that of new runs, so that it shows if the epoch falls back.
async fn claimed_twice(store: &dyn Storage, id: &str) -> Owned {
    let mut run = free(id).create(store).await;
    for _ in 0..2 {
        run.record = claim(store, &[&run.run], NODE).await.remove(0).unwrap();
    }
    run
}

/// The claim's answer is the record, which is stored: the node owns the run at a new epoch, and may write.
pub async fn a_claim_takes_the_run(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = free("a").create(&*store).await;
    let claimed = claim(&*store, &[&run.run], NODE).await.remove(0).unwrap();
    assert_eq!(claimed.owner, Some(NODE));
    assert_eq!(claimed.epoch, run.record.epoch.next());
    assert_eq!(record(&*store, &run.run).await, Some(claimed.clone()));

    let not_mine = RunQuery {
        not_owned_by: Some(NODE),
        ..RunQuery::default()
    };
    assert_eq!(listed(&*store, &not_mine).await.len(), 0);

    assert_eq!(
        try_write(&*store, run.write()).await,
        WriteOutcome::Fenced {
            current: claimed.epoch
        }
    );
    run.record = claimed;
    run.appended(&*store, "mine").await;
    assert_eq!(journal(&*store, &run.run).await, [entry(0, "mine")]);
}

/// A claim is about who, not about what: everything else of the run stays.
pub async fn a_claim_changes_nothing_else(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = free("a").wake_at(77).create(&*store).await;
    run.appended(&*store, "entry").await;
    write(&*store, run.set(ValueKey::Metadata, Some("m".into()))).await;
    sent(&*store, message(&run, None, "hello")).await;

    let claimed = claim(&*store, &[&run.run], NODE).await.remove(0).unwrap();
    let expected = RunRecord {
        owner: claimed.owner,
        epoch: claimed.epoch,
        ..run.record.clone()
    };
    assert_eq!(claimed, expected);
    assert_eq!(journal(&*store, &run.run).await, [entry(0, "entry")]);
    assert_eq!(
        value(&*store, &run.run, ValueKey::Metadata).await,
        Some("m".into())
    );
    assert_eq!(bodies(&*store, &run.run).await, ["hello"]);
    assert_eq!(due(&*store, 77, ALL).await, [(77, "a".to_owned())]);
    assert_eq!(
        listed(&*store, &of_status(StoredStatus::Running)).await,
        ["a"]
    );
}

/// Answers stand where their runs stood; a run that there is not is `None`, and is not made.
pub async fn an_unknown_run_is_not_claimed(stores: Stores<'_>) {
    let store = stores.open().await;
    let (b, d) = (
        free("b").create(&*store).await,
        free("d").create(&*store).await,
    );
    let (a, c) = (id("a"), id("c"));
    let claimed = claim(&*store, &[&d.run, &a, &b.run, &c], NODE).await;
    let found: Vec<_> = claimed.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, true, false]);
    assert_eq!(record(&*store, &d.run).await, claimed[0]);
    assert_eq!(record(&*store, &b.run).await, claimed[2]);
    assert_eq!(record(&*store, &a).await, None);
    assert_eq!(claim(&*store, &[], NODE).await, []);
}

/// A node that claims its own run again has it again, at a new epoch, which fences its former self.
pub async fn the_same_node_may_claim_again(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = free("a").create(&*store).await;
    let first = claim(&*store, &[&run.run], NODE).await.remove(0).unwrap();
    let second = claim(&*store, &[&run.run], NODE).await.remove(0).unwrap();
    assert_eq!(second.owner, Some(NODE));
    assert_eq!(second.epoch, first.epoch.next());
    let former = Owned {
        record: first,
        ..run.clone()
    };
    assert_eq!(
        try_write(&*store, former.write()).await,
        WriteOutcome::Fenced {
            current: second.epoch
        }
    );
}

/// A claim from a node that had neither released the run nor written an entry since such a claim of its own is counted.
pub async fn claims_from_nodes_that_died_are_counted(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    for (node, n_orphaned) in [(OTHER_NODE, 1), (NODE, 2), (OTHER_NODE, 3)] {
        for node in [NODE, OTHER_NODE] {
            store.renew(node, Duration::ZERO).await.unwrap();
        }
        let claimed = claim(&*store, &[&run.run], node).await.remove(0).unwrap();
        assert_eq!(claimed.n_orphaned, n_orphaned);
        assert_eq!(record(&*store, &run.run).await.unwrap().n_orphaned, 0);
        run.record = claimed;
    }
    run.record.n_orphaned = 0;
    run.appended(&*store, "it goes on").await;
    store.renew(OTHER_NODE, Duration::ZERO).await.unwrap();
    let claimed = claim(&*store, &[&run.run], NODE).await.remove(0).unwrap();
    assert_eq!(claimed.n_orphaned, 1);
    // Neither a claim of its own nor a release leaves an orphan.
    let claimed = claim(&*store, &[&run.run], NODE).await.remove(0).unwrap();
    assert_eq!(claimed.n_orphaned, 0);
    let release = [(run.run.clone(), claimed.epoch)];
    store.release(&release).await.unwrap();
    let claimed = claim(&*store, &[&run.run], OTHER_NODE).await.remove(0);
    assert_eq!(claimed.unwrap().n_orphaned, 0);
}

/// A release leaves everything but the owner and the epoch, and says so in listings.
pub async fn a_released_run_has_no_owner(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = claimed_twice(&*store, "a").await;
    let kept = Owned::new("kept").create(&*store).await;
    let release = [(run.run.clone(), run.record.epoch)];
    store.release(&release).await.unwrap();

    let released = record(&*store, &run.run).await.unwrap();
    let expected = RunRecord {
        owner: None,
        epoch: released.epoch,
        ..run.record.clone()
    };
    assert_eq!(released, expected);
    assert!(released.epoch > run.record.epoch);
    assert_eq!(record(&*store, &kept.run).await, Some(kept.record));
    let not_mine = RunQuery {
        not_owned_by: Some(NODE),
        ..RunQuery::default()
    };
    assert_eq!(listed(&*store, &not_mine).await, ["a"]);
}

/// A write that was under way when its run was released does not make the former node its owner again.
pub async fn a_release_fences_what_is_under_way(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = claimed_twice(&*store, "a").await;
    let release = [(run.run.clone(), run.record.epoch)];
    store.release(&release).await.unwrap();
    let released = record(&*store, &run.run).await.unwrap();
    assert_eq!(
        try_write(&*store, run.write()).await,
        WriteOutcome::Fenced {
            current: released.epoch
        }
    );
    assert_eq!(record(&*store, &run.run).await, Some(released));
    // An answer that was lost is asked for again.
    store.release(&release).await.unwrap();
    assert_eq!(listed(&*store, &RunQuery::default()).await, ["a"]);
}

/// What was released another node may have at once, and the former owner is fenced.
pub async fn a_released_run_is_claimed_by_another(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = claimed_twice(&*store, "a").await;
    let release = [(run.run.clone(), run.record.epoch)];
    store.release(&release).await.unwrap();
    let claimed = claim(&*store, &[&run.run], OTHER_NODE).await.remove(0);
    let claimed = claimed.unwrap();
    assert_eq!(claimed.owner, Some(OTHER_NODE));
    assert!(claimed.epoch > run.record.epoch);
    assert_eq!(
        try_write(&*store, run.write()).await,
        WriteOutcome::Fenced {
            current: claimed.epoch
        }
    );
}

/// A release with an epoch that is over, or of a run that there is not, does nothing, and does not disturb others.
pub async fn a_stale_release_is_ignored(stores: Stores<'_>) {
    let store = stores.open().await;
    let stale = Owned::new("a").create(&*store).await;
    let valid = Owned::new("b").create(&*store).await;
    let current = claim(&*store, &[&stale.run], NODE).await.remove(0);
    let release = [
        (stale.run.clone(), stale.record.epoch),
        (id("unknown"), stale.record.epoch),
        (valid.run.clone(), valid.record.epoch),
    ];
    store.release(&release).await.unwrap();
    assert_eq!(record(&*store, &stale.run).await, current);
    assert_eq!(record(&*store, &id("unknown")).await, None);
    assert_eq!(record(&*store, &valid.run).await.unwrap().owner, None);
}

/// A renewal, of some runs or of none, leaves the runs as they are, and says since when the leases have lasted.
pub async fn leases_are_renewed(stores: Stores<'_>) {
    let store = stores.open().await;
    let since = store.renew(NODE, LEASE).await.unwrap();
    let run = free("a").create(&*store).await;
    let claimed = claim(&*store, &[&run.run], NODE).await.remove(0);
    assert_eq!(store.renew(NODE, LEASE).await.unwrap(), since);
    store.renew(OTHER_NODE, LEASE).await.unwrap();
    assert_eq!(store.renew(NODE, LEASE).await.unwrap(), since);
    assert_eq!(record(&*store, &run.run).await, claimed);
}
