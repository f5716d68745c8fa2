//! `Engine::check` of actors and schedules.

use keepstep::prelude::*;
use keepstep::storage::{Batch, Expect, RunId, RunWrite, Send, Timestamp, ValueKey, WriteOutcome};
use keepstep::{Cause, Certainty, Holder, StoredState};
use serde::{Deserialize, Serialize};

use crate::common::Lab;

/// One actor, as versions of a program have it.
macro_rules! versions {
    ($($module:ident($($options:tt)*) { $($fields:tt)* } $methods:tt)*) => {
        $(
            mod $module {
                use super::*;

                #[derive(Debug, Serialize, Deserialize)]
                pub(super) struct Account { $($fields)* }

                #[virtual_actor($($options)*)]
                impl Account $methods
            }
        )*
    };
}

versions! {
    first(name = "check/account") { cents: u64 } {
        pub(super) fn new() -> Self { Account { cents: 150 } }
        pub(super) async fn add(&mut self, n: u64) -> u64 { self.cents += n; self.cents }
    }
    grown(name = "check/account/grown") { cents: u64, #[serde(default)] name: String } {
        pub(super) fn new() -> Self { Account { cents: 0, name: String::new() } }
        pub(super) async fn add(&mut self, n: u64) -> usize { self.cents += n; self.name.len() }
    }
    other(name = "check/account/other") { cents: String } {
        pub(super) fn new() -> Self { Account { cents: String::new() } }
        pub(super) async fn add(&mut self, n: String) { self.cents += &n; }
    }
    refusing(name = "check/account/refusing", version = 2, migrate = refuse) { micros: u64 } {
        pub(super) fn new() -> Self { Account { micros: 0 } }
        pub(super) async fn sub(&mut self, n: u64) { self.micros -= n; }
    }
}

fn refuse(old: StoredState) -> anyhow::Result<refusing::Account> {
    anyhow::bail!("version {} is too old", old.version())
}

fn id_of(name: &str) -> RunId {
    RunId::of_parts(&["actor", name, "a"]).unwrap()
}

/// Makes what is stored of the actor of the first version that of one of another type, calls that wait included.
async fn as_if_of(lab: &Lab, name: &str) {
    let from = id_of("check/account");
    let record = lab.store.record(&from).await.unwrap().unwrap();
    let state = lab.store.value(&from, &ValueKey::State).await.unwrap();
    let write = RunWrite {
        run: id_of(name),
        expect: Expect::New,
        record,
        entry: None,
        truncate: false,
        values: vec![(ValueKey::State, state)],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    };
    let inbox = lab.store.inbox(&from, None, 9).await.unwrap();
    let messages = inbox.into_iter().map(|message| Send {
        to: id_of(name),
        key: None,
        sent_at: message.sent_at,
        body: message.body,
        blobs: vec![],
        only_with: None,
    });
    let batch = Batch {
        writes: vec![write],
        messages: messages.collect(),
        ..Batch::default()
    };
    let committed = lab.store.commit(batch).await.unwrap();
    assert_eq!(committed.writes, [WriteOutcome::Written]);
}

/// What is found of an actor of the first version in a program in which it is of another type.
async fn found_as(name: &str) -> Vec<(Certainty, Cause)> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let account = first::Account::on(&engine)
        .get_or_create("a")
        .await
        .unwrap();
    // It waits in the inbox, since the engine that could make the call is gone.
    let body = [&[1, 0, 3][..], b"add", &[1, 2, 1, 5, 0, 0]].concat();
    let message = Send {
        to: id_of("check/account"),
        key: None,
        sent_at: Timestamp(1),
        body: body.into(),
        blobs: vec![],
        only_with: None,
    };
    drop(account);
    lab.crash(engine).await;
    let batch = Batch {
        messages: vec![message],
        ..Batch::default()
    };
    lab.store.commit(batch).await.unwrap();
    as_if_of(&lab, name).await;
    let engine = lab.engine().await;
    let report = engine.check().await.unwrap();
    assert_eq!(report.actors, 2);
    assert_eq!(report.is_ok(), report.problems().is_empty(), "{report}");
    let found = report.problems().iter().map(|problem| {
        assert_eq!(problem.holder, Holder::Actor);
        assert_eq!(problem.ids, [format!("actor/{name}/a")]);
        (problem.certainty, problem.cause.clone())
    });
    let found = found.collect();
    engine.shutdown().await.unwrap();
    found
}

#[tokio::test]
async fn an_actor_that_fits_has_no_problem() {
    assert_eq!(found_as("check/account/grown").await, []);
}

#[tokio::test]
async fn a_state_and_a_call_that_do_not_decode_are_found() {
    let found = found_as("check/account/other").await;
    let [(Certainty::Certain, state), (Certainty::Certain, call)] = &*found else {
        panic!("{found:?}");
    };
    assert!(
        matches!(state, Cause::State { actor, version: 1, field, .. } if actor == "check/account/other" && field == "cents"),
        "{state}"
    );
    assert!(
        matches!(call, Cause::Argument { step, param, .. } if step == "check/account/other::add" && param == "n"),
        "{call}"
    );
}

#[tokio::test]
async fn a_migration_that_fails_and_a_method_that_is_gone_are_found() {
    let found = found_as("check/account/refusing").await;
    let [(_, state), (_, method)] = &*found else {
        panic!("{found:?}");
    };
    assert!(
        state.to_string().contains("version 1 is too old"),
        "{state}"
    );
    let expected = Cause::UnknownMethod {
        actor: "check/account/refusing".into(),
        method: "add".into(),
    };
    assert_eq!(method, &expected);
}

#[tokio::test]
async fn an_actor_that_is_gone_is_found_with_the_calls_that_wait_for_it() {
    let actor = "check/account/gone".to_owned();
    assert_eq!(
        found_as(&actor.clone()).await,
        [(Certainty::Certain, Cause::UnknownActor { actor })]
    );
}

#[cfg(feature = "schedules")]
mod schedules {
    use super::*;

    #[step(name = "check/tick")]
    async fn tick(n: u64) -> u64 {
        n
    }

    #[step(name = "check/tock")]
    async fn tock(n: String) -> String {
        n
    }

    #[tokio::test]
    async fn the_runs_that_a_schedule_is_to_start_are_checked() {
        let lab = Lab::new();
        let engine = lab.engine().await;
        engine
            .schedule("nightly", "0 3 * * *", tick(7))
            .await
            .unwrap();
        let report = engine.check().await.unwrap();
        assert_eq!(report.schedules, 1);
        report.assert_ok();
        lab.crash(engine).await;

        // As if it had been made of the other step.
        let id = RunId::of_parts(&["schedule", "nightly"]).unwrap();
        let record = lab.store.record(&id).await.unwrap().unwrap();
        let spec = lab
            .store
            .value(&id, &ValueKey::State)
            .await
            .unwrap()
            .unwrap();
        let mut spec = spec.to_vec();
        let at = spec.windows(10).position(|name| name == b"check/tick");
        let at = at.unwrap();
        spec[at..at + 10].copy_from_slice(b"check/tock");
        let write = RunWrite {
            run: id,
            expect: Expect::Epoch(record.epoch),
            record,
            entry: None,
            truncate: false,
            values: vec![(ValueKey::State, Some(spec.into()))],
            blobs: vec![],
            consumed: vec![],
            only_with: None,
        };
        let batch = Batch {
            writes: vec![write],
            ..Batch::default()
        };
        lab.store.commit(batch).await.unwrap();
        let engine = lab.engine().await;
        let report = engine.check().await.unwrap();
        let [problem] = report.problems() else {
            panic!("{report}");
        };
        assert_eq!(problem.holder, Holder::Schedule);
        assert_eq!(problem.ids, ["schedule/nightly"]);
        assert!(
            matches!(&problem.cause, Cause::Argument { step, param, .. } if step == "check/tock" && param == "n"),
            "{report}"
        );
        engine.shutdown().await.unwrap();
    }
}
