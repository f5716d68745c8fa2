//! Records of several kinds, writes that go together, and what is found without an index.

use super::kit::*;
use crate::{
    Epoch, Expect, Parent, RunId, RunKind, RunQuery, SendOutcome, Storage, StoredStatus, ValueKey,
    WriteOutcome,
};

fn actor(id: &str) -> Owned {
    let mut actor = Owned::new("placeholder");
    actor.run = RunId::of_parts(&["actor", "Counter", id]).unwrap();
    actor.record.kind = RunKind::Actor;
    actor
}

/// Kind and parent come back; an id of parts is as good as any other.
pub async fn kinds_and_parents_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    let counter = actor("é").wake_at(5).create(&*store).await;
    let mut child = Owned::new("child");
    child.record.parent = Some(Parent {
        run: counter.run.clone(),
        incarnation: 7,
        step: u64::MAX,
    });
    let child = child.create(&*store).await;
    for run in [&counter, &child] {
        assert_eq!(record(&*store, &run.run).await, Some(run.record.clone()));
    }
    sent(&*store, message(&counter, Some("key"), "call")).await;
    assert_eq!(bodies(&*store, &counter.run).await, ["call"]);
    let at_five = [(5, counter.run.as_str().to_owned())];
    assert_eq!(due_of(&*store, RunKind::Actor, 9, 9).await, at_five);
    assert!(due(&*store, 9, 9).await.is_empty());
    let claimed = store
        .claim(std::slice::from_ref(&counter.run), OTHER_NODE, LEASE)
        .await
        .unwrap();
    assert_eq!(claimed[0].as_ref().unwrap().kind, RunKind::Actor);
}

const LEASE: std::time::Duration = std::time::Duration::from_secs(30);

/// A listing has one kind, by creation and by status.
pub async fn listings_keep_kinds_apart(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("run").create(&*store).await;
    let counter = actor("a").create(&*store).await;
    let by = async |kind, statuses: &[StoredStatus]| {
        let query = RunQuery {
            kind,
            statuses: statuses.to_vec(),
            ..RunQuery::default()
        };
        listed(&*store, &query).await
    };
    for statuses in [
        &[][..],
        &[StoredStatus::Running],
        &[StoredStatus::Running, StoredStatus::Failed],
    ] {
        assert_eq!(by(RunKind::Workflow, statuses).await, [run.run.as_str()]);
        assert_eq!(by(RunKind::Actor, statuses).await, [counter.run.as_str()]);
        assert!(by(RunKind::Schedule, statuses).await.is_empty());
    }
    delete(&*store, &counter.run, counter.record.epoch).await;
    assert!(by(RunKind::Actor, &[]).await.is_empty());
}

/// Records are found by the beginning of their id, in order, page by page.
pub async fn records_are_listed_by_id(stores: Stores<'_>) {
    let store = stores.open().await;
    let ids = ["a", "a b", "a/b", "ab", "b", "é"];
    for (n, id) in [3, 0, 5, 1, 4, 2].map(|n| (n, ids[n])) {
        actor(id).created_at(n as u64).create(&*store).await;
    }
    let mut other = actor("c");
    other.run = RunId::of_parts(&["actor", "Counters", "c"]).unwrap();
    other.create(&*store).await;
    Owned::new("a").create(&*store).await;

    let counters = RunId::prefix_of_parts(&["actor", "Counter"]);
    let page = async |kind, prefix: &str, after: Option<&RunId>, limit| {
        let page = store.list_by_id(kind, prefix, after, limit).await.unwrap();
        assert!(page.len() <= limit);
        page
    };
    for limit in [1, 2, 5, 6, 7] {
        let mut found: Vec<String> = Vec::new();
        let mut after = None;
        loop {
            let next = page(RunKind::Actor, &counters, after.as_ref(), limit).await;
            found.extend(next.iter().map(|listed| {
                assert_eq!(listed.record.kind, RunKind::Actor);
                listed.run.parts().last().unwrap().to_owned()
            }));
            match next.last() {
                Some(last) => after = Some(last.run.clone()),
                None => break,
            }
        }
        assert_eq!(found, ids, "pages of {limit}");
    }
    let within = page(RunKind::Actor, &(counters.clone() + "a"), None, 9).await;
    assert_eq!(within.len(), 4);
    assert!(page(RunKind::Workflow, &counters, None, 9).await.is_empty());
    assert!(page(RunKind::Actor, &counters, None, 0).await.is_empty());
    let runs = page(RunKind::Workflow, "", None, 9).await;
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].run, id("a"));
    // An id before all of them, and one behind.
    let before = RunId::of_parts(&["actor", "Aaa", "x"]).unwrap();
    assert_eq!(
        page(RunKind::Actor, &counters, Some(&before), 9)
            .await
            .len(),
        6
    );
    assert!(
        page(RunKind::Actor, &counters, Some(&id("x")), 9)
            .await
            .is_empty()
    );
}

/// Who has messages is found, until they are consumed.
pub async fn runs_with_messages_are_found(stores: Stores<'_>) {
    let store = stores.open().await;
    let unread = async |after: Option<&RunId>, limit| {
        let runs = store.unread(after, limit).await.unwrap();
        runs.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(unread(None, 9).await.is_empty());
    let a = Owned::new("a").create(&*store).await;
    let b = Owned::new("a b").create(&*store).await;
    let quiet = Owned::new("ab").create(&*store).await;
    let counter = actor("c").create(&*store).await;
    for run in [&b, &counter, &a, &a] {
        sent(&*store, message(run, None, noise(9_000, 1))).await;
    }
    let all = [&counter, &a, &b].map(|run| run.run.to_string());
    assert_eq!(unread(None, 9).await, all);
    assert_eq!(unread(None, 2).await, all[..2]);
    assert_eq!(unread(Some(&a.run), 9).await, all[2..]);
    assert_eq!(unread(Some(&quiet.run), 9).await, [""; 0]);

    let messages = inbox(&*store, &a.run).await;
    write(&*store, a.consume(&[messages[0].id])).await;
    assert_eq!(unread(None, 9).await, all);
    write(&*store, a.consume(&[messages[1].id])).await;
    assert_eq!(unread(None, 9).await, [all[0].clone(), all[2].clone()]);
    delete(&*store, &counter.run, Epoch::FIRST).await;
    assert_eq!(unread(None, 9).await, all[2..]);
}

/// What is to be taken only with another write shares its fate.
pub async fn what_goes_together_is_taken_together(stores: Stores<'_>) {
    let store = stores.open().await;
    let counter = actor("c").create(&*store).await;
    let listener = Owned::new("listener").create(&*store).await;
    let together = |expect| {
        let state = counter.set(ValueKey::State, Some("new".into()));
        let state = crate::RunWrite { expect, ..state };
        let mut child = Owned::new("child").append("created");
        child.expect = Expect::New;
        child.only_with = Some(counter.run.clone());
        let mut hello = message(&listener, Some("key"), "hello");
        hello.only_with = Some(counter.run.clone());
        (vec![state, child], vec![hello])
    };
    let is_there = async |store: &dyn Storage| {
        let child = record(store, &id("child")).await.is_some();
        let state = value(store, &counter.run, ValueKey::State).await.is_some();
        let hello = bodies(store, &listener.run).await.len();
        (child, state, hello)
    };

    let (writes, messages) = together(Expect::Epoch(Epoch(9)));
    let (written, sent) = commit(&*store, writes, messages).await;
    assert!(matches!(written[0], WriteOutcome::Fenced { .. }));
    assert_eq!(written[1], WriteOutcome::Skipped);
    assert_eq!(sent, [SendOutcome::Skipped]);
    assert_eq!(is_there(&*store).await, (false, false, 0));

    let (writes, messages) = together(Expect::Epoch(Epoch::FIRST));
    let (written, sent) = commit(&*store, writes, messages).await;
    assert_eq!(written, [WriteOutcome::Written; 2]);
    assert!(matches!(sent[..], [SendOutcome::Accepted(_)]));
    assert_eq!(is_there(&*store).await, (true, true, 1));

    // Not the other way round.
    let (writes, messages) = together(Expect::Epoch(Epoch::FIRST));
    let (written, sent) = commit(&*store, writes, messages).await;
    assert_eq!(written, [WriteOutcome::Written, WriteOutcome::Exists]);
    assert_eq!(sent, [SendOutcome::Duplicate]);
}
