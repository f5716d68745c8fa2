//! What holds when several processes have the store open: leases, free runs, notices.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    Batch, DeleteOutcome, Durability, Epoch, NodeId, Notice, RunDelete, RunKind, RunQuery, Send,
    Storage, StorageError, StoredStatus, Timestamp, WriteOutcome,
};

use crate::kit::{creation, id, open, record, run_record};
use crate::server;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
const A: NodeId = NodeId(u64::MAX - 1);
const B: NodeId = NodeId(2);

/// Waits until it is so: leases end by the clock of the server.
async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap();
}

async fn two() -> (Arc<dyn Storage>, Arc<dyn Storage>) {
    let url = server::url();
    (open(&url).await, open(&url).await)
}

/// Creates runs that a node owns.
async fn create(store: &dyn Storage, owner: Option<NodeId>, runs: &[&str]) {
    let writes = runs.iter().zip(1..).map(|(run, at)| {
        let mut write = creation(run);
        write.record.owner = owner;
        write.record.created_at.0 = at;
        write
    });
    let batch = Batch {
        writes: writes.collect(),
        ..Batch::default()
    };
    let committed = store.commit(batch).await.unwrap();
    assert!(
        committed
            .writes
            .iter()
            .all(|outcome| *outcome == WriteOutcome::Written)
    );
}

#[tokio::test]
async fn nobody_takes_a_run_while_its_owners_lease_lasts() {
    let (a, b) = two().await;
    a.renew(A, LONG).await.unwrap();
    create(&*a, Some(A), &["run"]).await;
    let run = [id("run")];
    assert_eq!(b.claim(&run, B, LONG).await.unwrap(), [None]);
    let free = b.claim_free(RunKind::Workflow, &[], B, LONG, 9).await;
    assert_eq!(free.unwrap(), []);
    assert_eq!(record(&*b, "run").await.owner, Some(A));
    // Its own node may, and so may others once it is given up.
    let claimed = a.claim(&run, A, LONG).await.unwrap();
    let epoch = claimed[0].as_ref().unwrap().epoch;
    a.release(&[(id("run"), epoch)]).await.unwrap();
    let claimed = b.claim(&run, B, LONG).await.unwrap();
    assert_eq!(claimed[0].as_ref().unwrap().owner, Some(B));
}

#[tokio::test]
async fn a_lease_that_ended_leaves_its_runs_to_others_and_fences_their_owner() {
    let (a, b) = two().await;
    create(&*a, Some(A), &["late", "lost"]).await;
    a.renew(A, SHORT).await.unwrap();
    until(async || record(&*b, "lost").await.owner.is_none()).await;
    // Its own process sees it as its own, which it is until somebody takes it.
    assert_eq!(record(&*a, "lost").await.owner, Some(A));
    let free = b
        .claim_free(RunKind::Workflow, &[], B, LONG, 1)
        .await
        .unwrap();
    assert_eq!(free.len(), 1);
    assert_eq!(free[0].run, id("late"));
    assert_eq!(free[0].record.owner, Some(B));
    let mut stale = creation("late");
    stale.record.owner = Some(A);
    stale.expect = keepstep_storage::Expect::Epoch(Epoch::FIRST);
    let batch = Batch {
        writes: vec![stale],
        ..Batch::default()
    };
    let current = free[0].record.epoch;
    let outcome = a.commit(batch).await.unwrap().writes[0];
    assert_eq!(outcome, WriteOutcome::Fenced { current });

    // A node that comes back has what nobody took.
    a.renew(A, LONG).await.unwrap();
    let free = b.claim_free(RunKind::Workflow, &[], B, LONG, 9).await;
    assert_eq!(free.unwrap(), []);
}

#[tokio::test]
async fn nobody_deletes_an_active_run_while_its_owners_lease_lasts() {
    let (a, b) = two().await;
    a.renew(A, LONG).await.unwrap();
    create(&*a, Some(A), &["run"]).await;
    let by = |node| RunDelete {
        run: id("run"),
        epoch: Epoch::FIRST,
        node,
        family: None,
    };
    let others = b.commit(by(B).into()).await.unwrap();
    assert_eq!(others.deletes, [DeleteOutcome::Owned]);
    assert_eq!(record(&*b, "run").await.owner, Some(A));
    // Whoever waits for it is told, once it listens.
    hears(&*b, &Notice::Missed).await;
    b.watch(&[id("run")]).await.unwrap();
    let own = a.commit(by(A).into()).await.unwrap();
    assert_eq!(own.deletes, [DeleteOutcome::Deleted]);
    hears(&*b, &Notice::Changed(id("run"))).await;
    assert_eq!(b.record(&id("run")).await.unwrap(), None);
}

#[tokio::test]
async fn a_node_is_told_that_its_leases_had_ended() {
    let (a, b) = two().await;
    create(&*a, Some(A), &["run"]).await;
    let since = a.renew(A, SHORT).await.unwrap();
    until(async || record(&*b, "run").await.owner.is_none()).await;
    // A claim makes them last again, and the node finds out all the same.
    a.claim(&[id("run")], A, LONG).await.unwrap();
    let anew = a.renew(A, LONG).await.unwrap();
    assert!(anew > since, "{anew:?} {since:?}");
    assert_eq!(a.renew(A, LONG).await.unwrap(), anew);
}

/// Claims the run for a node that then is lost.
async fn lose_one(
    store: &dyn Storage,
    node: NodeId,
    lease: Duration,
) -> keepstep_storage::RunRecord {
    let free = store.claim_free(RunKind::Workflow, &[], node, lease, 9);
    let mut free = free.await.unwrap();
    assert_eq!(free.len(), 1, "{node:?}");
    free.remove(0).record
}

#[tokio::test]
async fn a_run_whose_owners_are_lost_again_and_again_rests_until_it_gets_on() {
    let (a, b) = two().await;
    create(&*a, Some(A), &["run"]).await;
    a.renew(A, SHORT).await.unwrap();
    let mut last = None;
    for node in 10..13 {
        until(async || record(&*b, "run").await.owner.is_none()).await;
        last = Some(lose_one(&*a, NodeId(node), SHORT).await);
    }
    until(async || record(&*b, "run").await.owner.is_none()).await;
    // It rests for two leases of whoever would take it.
    let free = b.claim_free(RunKind::Workflow, &[], B, LONG, 9).await;
    assert_eq!(free.unwrap(), []);
    // What is asked for by its id does not rest.
    let mut record = last.unwrap();
    let claimed = a.claim(&[id("run")], NodeId(12), SHORT).await.unwrap();
    record.epoch = claimed[0].as_ref().unwrap().epoch;
    // It got on.
    record.steps.done += 1;
    let mut write = creation("run");
    write.expect = keepstep_storage::Expect::Epoch(record.epoch);
    write.record = record;
    let batch = Batch {
        writes: vec![write],
        deletes: vec![],
        messages: vec![],
    };
    a.commit(batch).await.unwrap();
    until(async || crate::kit::record(&*b, "run").await.owner.is_none()).await;
    lose_one(&*b, B, LONG).await;
}

#[tokio::test]
async fn a_run_that_has_not_begun_does_not_rest() {
    let (a, b) = two().await;
    let mut write = creation("run");
    write.record.owner = Some(A);
    write.record.status = StoredStatus::Pending;
    let batch = Batch {
        writes: vec![write],
        deletes: vec![],
        messages: vec![],
    };
    a.commit(batch).await.unwrap();
    a.renew(A, SHORT).await.unwrap();
    for node in 10..15 {
        until(async || record(&*b, "run").await.owner.is_none()).await;
        lose_one(&*a, NodeId(node), SHORT).await;
    }
}

#[tokio::test]
async fn a_run_that_rests_is_taken_up_in_the_end() {
    let (a, b) = two().await;
    create(&*a, Some(A), &["run"]).await;
    a.renew(A, SHORT).await.unwrap();
    for node in 10..16 {
        let taken = async || {
            let free = b.claim_free(RunKind::Workflow, &[], NodeId(node), SHORT, 9);
            free.await.unwrap().len() == 1
        };
        until(taken).await;
    }
}

#[tokio::test]
async fn nodes_that_end_in_order_leave_no_run_at_rest() {
    let (a, b) = two().await;
    create(&*a, Some(A), &["run"]).await;
    a.renew(A, Duration::ZERO).await.unwrap();
    for node in 10..20 {
        lose_one(&*b, NodeId(node), LONG).await;
        b.renew(NodeId(node), Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_is_ended_by_its_node_at_once() {
    let (a, b) = two().await;
    a.renew(A, LONG).await.unwrap();
    create(&*a, Some(A), &["run"]).await;
    a.renew(A, Duration::ZERO).await.unwrap();
    let free = b.claim_free(RunKind::Workflow, &[], B, LONG, 9).await;
    assert_eq!(free.unwrap().len(), 1);
}

#[tokio::test]
async fn free_runs_are_each_taken_once_oldest_first() {
    let (a, b) = two().await;
    let names: Vec<String> = (0..40).map(|n| format!("run{n:02}")).collect();
    let runs: Vec<&str> = names.iter().map(String::as_str).collect();
    create(&*a, None, &runs).await;
    let some = |store: Arc<dyn Storage>, node| async move {
        let mut taken = Vec::new();
        loop {
            let except = [id("run07")];
            let free = store.claim_free(RunKind::Workflow, &except, node, LONG, 5);
            let free = free.await.unwrap();
            if free.is_empty() {
                return taken;
            }
            assert!(free.len() <= 5);
            assert!(free.is_sorted_by_key(|listed| listed.record.created_at));
            taken.extend(free.into_iter().map(|listed| listed.run.to_string()));
        }
    };
    let of_a = tokio::spawn(some(Arc::clone(&a), A));
    let of_b = tokio::spawn(some(Arc::clone(&b), B));
    let mut taken = [of_a.await.unwrap(), of_b.await.unwrap()].concat();
    taken.sort();
    let expected: Vec<String> = names.into_iter().filter(|run| run != "run07").collect();
    assert_eq!(taken, expected);
}

#[tokio::test]
async fn only_active_runs_of_the_kind_are_free() {
    let (a, b) = two().await;
    for status in StoredStatus::ALL {
        let mut write = creation(&format!("{status:?}"));
        write.record.status = status;
        write.record.owner = None;
        let mut actor = write.clone();
        actor.run = id(&format!("{status:?} actor"));
        actor.record.kind = RunKind::Actor;
        let batch = Batch {
            writes: vec![write, actor],
            ..Batch::default()
        };
        drop(a.commit(batch).await.unwrap());
    }
    let free = b.claim_free(RunKind::Workflow, &[], B, LONG, 99).await;
    let mut free: Vec<_> = free
        .unwrap()
        .into_iter()
        .map(|free| free.run.to_string())
        .collect();
    free.sort();
    assert_eq!(free, ["Pending", "Running"]);
}

#[tokio::test]
async fn a_listing_tells_apart_what_is_owned_no_longer() {
    let (a, b) = two().await;
    create(&*a, Some(A), &["run"]).await;
    let not_by_a = RunQuery {
        not_owned_by: Some(A),
        ..RunQuery::default()
    };
    assert!(b.list(&not_by_a).await.unwrap().runs.is_empty());
    a.renew(A, SHORT).await.unwrap();
    until(async || !b.list(&not_by_a).await.unwrap().runs.is_empty()).await;
}

/// What the other one hears, until it has heard this.
async fn hears(store: &dyn Storage, wanted: &Notice) {
    let hearing = async { while !store.notices().await.contains(wanted) {} };
    tokio::time::timeout(LONG, hearing)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} is not heard"));
}

#[tokio::test]
async fn processes_hear_of_what_others_do_that_concerns_them() {
    let (a, b) = two().await;
    a.renew(A, LONG).await.unwrap();
    create(&*a, Some(A), &["mine"]).await;
    // When it has begun to listen it may have missed something.
    hears(&*a, &Notice::Missed).await;

    let message = Send {
        to: id("mine"),
        key: None,
        sent_at: Timestamp(1),
        body: "x".into(),
        blobs: vec![],
        only_with: None,
    };
    let batch = Batch {
        messages: vec![message],
        ..Batch::default()
    };
    drop(b.commit(batch).await.unwrap());
    hears(&*a, &Notice::Mail(id("mine"))).await;
    b.want(&id("mine")).await.unwrap();
    hears(&*a, &Notice::Wanted(id("mine"))).await;
    create(&*b, None, &["free"]).await;
    hears(&*a, &Notice::Free).await;

    create(&*b, Some(B), &["theirs"]).await;
    a.watch(&[id("theirs")]).await.unwrap();
    let mut end = creation("theirs");
    end.expect = keepstep_storage::Expect::Epoch(Epoch::FIRST);
    end.record = run_record();
    end.record.status = StoredStatus::Failed;
    let batch = Batch {
        writes: vec![end],
        ..Batch::default()
    };
    drop(b.commit(batch).await.unwrap());
    hears(&*a, &Notice::Changed(id("theirs"))).await;
}

#[tokio::test]
async fn a_server_that_does_not_sync_is_said_to_survive_crashes_and_no_power_cut() {
    let url = server::url();
    let (client, _) = server::client(&url).await;
    let row = client.query_one("SHOW fsync", &[]).await.unwrap();
    let durability = match row.get(0) {
        "off" => Durability::Crash,
        _ => Durability::PowerLoss,
    };
    assert_eq!(open(&url).await.describe().durability, durability);
}

#[tokio::test]
async fn what_waits_for_a_time_and_is_nobodys_is_told_of() {
    let (a, b) = two().await;
    hears(&*a, &Notice::Missed).await;
    for (kind, run) in [(RunKind::Actor, "actor"), (RunKind::Schedule, "schedule")] {
        let mut write = creation(run);
        write.record.kind = kind;
        write.record.wake_at = Some(keepstep_storage::Timestamp(7));
        let batch = Batch {
            writes: vec![write],
            deletes: vec![],
            messages: vec![],
        };
        drop(b.commit(batch).await.unwrap());
        hears(&*a, &Notice::Free).await;
    }
}

#[tokio::test]
async fn a_run_that_is_locked_for_a_moment_is_claimed_all_the_same() {
    let url = server::url();
    let store = open(&url).await;
    create(&*store, None, &["run"]).await;
    let (other, schema) = server::client(&url).await;
    let (client, _) = server::client(&url).await;
    // As by a message that is being sent to it.
    let lock = format!("BEGIN; SELECT FROM {schema}.run FOR NO KEY UPDATE");
    other.batch_execute(&lock).await.unwrap();
    let claiming = Arc::clone(&store);
    let claim = tokio::spawn(async move {
        let free = claiming.claim_free(RunKind::Workflow, &[], A, LONG, 9);
        free.await.unwrap()
    });
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%\"{schema}\".claim_free(%'"
    );
    until(async || {
        claim.is_finished()
            || client
                .query_one(&waits, &[])
                .await
                .unwrap()
                .get::<_, bool>(0)
    })
    .await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(claim.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_new_store_is_made_once_however_many_open_it() {
    let url = server::url();
    let opening = (0..8).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { keepstep_storage::open(&url).await })
    });
    for opened in opening.collect::<Vec<_>>() {
        let store = opened.await.unwrap().unwrap();
        assert!(store.is_shared());
    }
}

#[tokio::test]
async fn an_address_where_nobody_answers_is_an_error_without_secrets() {
    let url = "postgres://me:se%40cret@127.0.0.1:1/runs?connect_timeout=1";
    let error = keepstep_storage::open(url).await.unwrap_err();
    assert!(
        matches!(error, StorageError::Unavailable { .. }),
        "{error:?}"
    );
    assert!(error.is_retryable());
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1:1/runs"), "{shown}");
    assert!(!shown.contains("cret"), "{shown}");
}

#[tokio::test]
async fn a_claim_passes_over_many_runs_that_are_left_to_others() {
    let (a, _) = two().await;
    let ids: Vec<String> = (0..10_000).map(|n| format!("left-{n:05}")).collect();
    let left: Vec<&str> = ids.iter().map(String::as_str).collect();
    create(&*a, None, &left).await;
    create(&*a, None, &["left-last"]).await;
    let except: Vec<_> = left.iter().map(|run| id(run)).collect();
    let free = a.claim_free(RunKind::Workflow, &except, A, LONG, 9).await;
    let free: Vec<_> = free.unwrap().into_iter().map(|run| run.run).collect();
    assert_eq!(free, [id("left-last")]);
}

#[tokio::test]
async fn a_claim_does_not_walk_past_runs_that_have_ended() {
    let url = server::url();
    let store = open(&url).await;
    let (client, schema) = server::client(&url).await;
    // That one in a hundred is free does not tell the planner that these are the last.
    let runs = format!(
        "INSERT INTO {schema}.run (id, kind, status, epoch, incarnation, workflow, plan_hash, created_at, first_entry, next_entry,
            journal_bytes, steps_total, steps_done, steps_failed, build_label, build_steps)
        SELECT 'run-' || n, 1, CASE WHEN n > 19800 THEN 2 ELSE 4 END, 1, n, 'step', decode(repeat('00', 32), 'hex'), n, 0, 0, 0, 0, 0, 0, '', 0 FROM generate_series(1, 20000) n;
        ANALYZE {schema}.run"
    );
    client.batch_execute(&runs).await.unwrap();
    let free = store.claim_free(RunKind::Workflow, &[], A, LONG, 9).await;
    assert_eq!(free.unwrap().len(), 9);

    // The server counts what its sessions read when they have had nothing to do for a while, up to version 14 with what they do next.
    let read = format!(
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_all_indexes WHERE schemaname = '{schema}' AND relname = 'run'"
    );
    let read = async || -> i64 { client.query_one(&read, &[]).await.unwrap().get(0) };
    let unknown = id("unknown");
    until(async || store.record(&unknown).await.unwrap().is_none() && read().await > 0).await;
    let read = read().await;
    assert!(read < 1_000, "{read} rows were looked at");
}

#[tokio::test]
async fn a_store_that_is_closed_keeps_no_blob() {
    let (a, b) = two().await;
    for n in 0..3u8 {
        let blob = a.put_blob(vec![n; 10].into()).await.unwrap();
        // One that this process would have said no more of before its next renewal.
        if n == 2 {
            a.unpin_blob(&blob);
        }
    }
    assert_eq!(b.maintain().await.unwrap().blobs_removed, 0);
    a.close().await.unwrap();
    assert_eq!(b.maintain().await.unwrap().blobs_removed, 3);
}

#[tokio::test]
async fn what_waits_at_a_node_is_told_while_its_lease_lasts() {
    let (a, b) = two().await;
    // Nobody who never had a lease says anything.
    a.say_waits(A, "never".into()).await.unwrap();
    assert_eq!(b.waits().await.unwrap(), []);
    a.renew(A, LONG).await.unwrap();
    b.renew(B, SHORT).await.unwrap();
    a.say_waits(A, "first".into()).await.unwrap();
    b.say_waits(B, "other".into()).await.unwrap();
    a.say_waits(A, "second".into()).await.unwrap();
    let of_a = (A, "second".into());
    let mut said = b.waits().await.unwrap();
    said.retain(|(node, _)| *node == A);
    assert_eq!(said, std::slice::from_ref(&of_a));
    until(async || b.waits().await.unwrap() == std::slice::from_ref(&of_a)).await;
    a.say_waits(A, Default::default()).await.unwrap();
    assert_eq!(b.waits().await.unwrap(), []);
}

#[tokio::test]
async fn the_end_of_a_lease_is_told_of_when_it_comes() {
    let (a, b) = two().await;
    hears(&*b, &Notice::Missed).await;
    create(&*a, Some(A), &["run"]).await;
    // Longer than heartbeats are apart: one of them comes before it ends.
    let lease = Duration::from_secs(7);
    a.renew(A, lease).await.unwrap();
    loop {
        hears(&*b, &Notice::Free).await;
        // It may have been the end of what the first renewal began.
        if record(&*b, "run").await.owner.is_none() {
            break;
        }
    }
    let free = b.claim_free(RunKind::Workflow, &[], B, LONG, 9).await;
    assert_eq!(free.unwrap().len(), 1);
}
