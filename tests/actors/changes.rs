//! States that change their shape, and calls of what is no longer there.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::{Batch, Expect, RunId, RunWrite, Timestamp, ValueKey, WriteOutcome};
use keepstep::{Result, StoredState, SuspendReason};
use serde::{Deserialize, Serialize};

use crate::common::Lab;

/// One actor, as three versions of a program have it.
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
    first(name = "changes/account") { cents: u64, unused: bool } {
        pub(super) fn new() -> Self { Account { cents: 150, unused: true } }
        pub(super) async fn add(&mut self, n: u64) -> u64 { self.cents += n; self.cents }
        pub(super) async fn gone(&mut self) { self.cents = 0; }
    }
    grown(name = "changes/account/grown") { cents: u64, #[serde(default)] name: String } {
        pub(super) fn new() -> Self { Account { cents: 0, name: String::new() } }
        pub(super) async fn show(&self) -> (u64, String) { (self.cents, self.name.clone()) }
        pub(super) async fn call(&mut self, name: String) { self.name = name; }
    }
    second(name = "changes/account/second", version = 2, migrate = from_first) { micros: u64 } {
        pub(super) fn new() -> Self { Account::of(0) }
        pub(super) fn of(micros: u64) -> Self { Account { micros } }
        pub(super) async fn micros(&self) -> u64 { self.micros }
        pub(super) async fn add(&mut self, n: u64) -> u64 { self.micros += n; self.micros }
    }
    refusing(name = "changes/account/refusing", version = 2, migrate = refuse) { micros: u64 } {
        pub(super) fn new() -> Self { Account { micros: 0 } }
        pub(super) async fn micros(&self) -> u64 { self.micros }
        #[method(retries = 2, backoff = "1h..1h")]
        pub(super) async fn add(&mut self, n: u64) { self.micros += n; }
    }
    panicking(name = "changes/account/panicking", version = 2, migrate = panic) { micros: u64 } {
        pub(super) fn new() -> Self { Account { micros: 0 } }
        pub(super) async fn micros(&self) -> u64 { self.micros }
        pub(super) async fn add(&mut self, n: u64) { self.micros += n; }
    }
    renamed(name = "changes/account/renamed") { cents: u64 } {
        pub(super) fn new() -> Self { Account { cents: 0 } }
        #[method(name = "add")]
        pub(super) async fn add_old(&mut self, n: u64) -> u64 { self.cents += n; self.cents }
        #[method(name = "add with a day")]
        pub(super) async fn add(&mut self, n: u64, day: String) -> u64 { self.cents += n; self.cents + day.len() as u64 }
    }
    dated(name = "changes/account/dated") { cents: u64 } {
        pub(super) fn new() -> Self { Account { cents: 0 } }
        pub(super) async fn add(&mut self, n: u64, day: String) { self.cents += n + day.len() as u64; }
    }
    other(name = "changes/account/other") { cents: String } {
        pub(super) fn new() -> Self { Account { cents: String::new() } }
        pub(super) async fn cents(&self) -> String { self.cents.clone() }
        pub(super) async fn touch(&mut self) {}
    }
}

fn from_first(old: StoredState) -> Result<second::Account> {
    assert_eq!(old.version(), 1);
    #[derive(Deserialize)]
    struct Old {
        cents: u64,
    }
    let old: Old = old.decode()?;
    Ok(second::Account::of(old.cents * 10_000))
}

fn refuse(old: StoredState) -> anyhow::Result<refusing::Account> {
    anyhow::bail!("version {} is too old", old.version())
}

fn panic(old: StoredState) -> anyhow::Result<panicking::Account> {
    panic!("version {} is too old", old.version())
}

fn id_of(name: &str) -> RunId {
    RunId::of_parts(&["actor", name, "a"]).unwrap()
}

/// Makes an actor of the first version one of another: names are what tells types of one program apart.
async fn as_if_of(lab: &Lab, name: &str) {
    as_if("changes/account", lab, name).await;
}

/// Makes an actor of one type one of another, with all that it is to do.
async fn as_if(from: &str, lab: &Lab, name: &str) {
    let (from, to) = (id_of(from), id_of(name));
    let record = lab.store.record(&from).await.unwrap().unwrap();
    let mut values = Vec::new();
    for key in [ValueKey::State, ValueKey::Agenda] {
        let value = lab.store.value(&from, &key).await.unwrap();
        values.push((key, value));
    }
    let write = RunWrite {
        run: to.clone(),
        expect: Expect::New,
        record,
        entry: None,
        truncate: false,
        values,
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    };
    let inbox = lab.store.inbox(&from, None, 9).await.unwrap();
    let messages = inbox.into_iter().map(|message| keepstep::storage::Send {
        to: to.clone(),
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
    assert_eq!(
        lab.store.commit(batch).await.unwrap().writes,
        [WriteOutcome::Written]
    );
}

#[tokio::test]
async fn fields_may_be_added_and_removed() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    first::Account::on(&engine)
        .get_or_create("a")
        .await
        .unwrap();
    as_if_of(&lab, "changes/account/grown").await;
    let grown = grown::Account::on(&engine).get_actor("a").await.unwrap();
    assert_eq!(grown.show().await.unwrap(), (150, String::new()));
    grown.call("n").await.unwrap();
    assert_eq!(grown.show().await.unwrap(), (150, "n".into()));
}

#[tokio::test]
async fn a_migration_makes_the_new_state_of_the_old_one() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    first::Account::on(&engine)
        .get_or_create("a")
        .await
        .unwrap();
    as_if_of(&lab, "changes/account/second").await;
    let second = second::Account::on(&engine).get_actor("a").await.unwrap();
    assert_eq!(second.micros().await.unwrap(), 1_500_000);
    // Written once it is changed, in the new version.
    assert_eq!(second.add(1).await.unwrap(), 1_500_001);
    assert_eq!(second.add(1).await.unwrap(), 1_500_002);
    assert_eq!(second.micros().await.unwrap(), 1_500_002);
}

#[tokio::test]
async fn a_state_that_does_not_decode_is_an_error_and_stays() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    first::Account::on(&engine)
        .get_or_create("a")
        .await
        .unwrap();
    as_if_of(&lab, "changes/account/other").await;
    let other = other::Account::on(&engine).get_actor("a").await.unwrap();
    for error in [
        other.cents().await.unwrap_err(),
        other.touch().await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Undecodable { field, .. } if field == "cents"),
            "{error}"
        );
    }
    // Calls that were sent wait for a program that can make them.
    other.touch().send().await.unwrap();
    assert!(other.touch().await.is_err());
    let id = id_of("changes/account/other");
    assert_eq!(lab.store.inbox(&id, None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_of_a_method_that_is_gone_waits_and_holds_up_nobody() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let first = first::Account::on(&engine)
        .get_or_create("a")
        .await
        .unwrap();
    as_if_of(&lab, "changes/account/grown").await;
    first.gone().send().await.unwrap();
    // The message of the one, to the other.
    let id = id_of("changes/account/grown");
    let body = [&[1, 0, 4][..], b"gone", &[0, 0, 0]].concat();
    let message = keepstep::storage::Send {
        to: id.clone(),
        key: None,
        sent_at: Timestamp(1),
        body: body.into(),
        blobs: vec![],
        only_with: None,
    };
    let batch = Batch {
        messages: vec![message],
        ..Batch::default()
    };
    lab.store.commit(batch).await.unwrap();
    let grown = grown::Account::on(&engine).get_actor("a").await.unwrap();
    grown.call("n").await.unwrap();
    assert_eq!(lab.store.inbox(&id, None, 9).await.unwrap().len(), 1);
    assert_eq!(first.add(0).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_were_sent_wait_while_the_state_cannot_be_migrated() {
    for name in ["changes/account/refusing", "changes/account/panicking"] {
        let lab = Lab::new();
        let engine = lab.engine().await;
        first::Account::on(&engine)
            .get_or_create("a")
            .await
            .unwrap();
        as_if_of(&lab, name).await;
        // Who awaits a call, looks, or makes it in a run is told what is wrong; nothing is tried again in vain.
        let errors = match name {
            "changes/account/refusing" => {
                let account = refusing::Account::on(&engine).get_actor("a").await.unwrap();
                account.add(1).send().await.unwrap();
                account
                    .add(1)
                    .delay(Duration::from_secs(1))
                    .send()
                    .await
                    .unwrap();
                let run = engine.run("run", account.add(1).step()).await;
                [
                    account.add(1).await.unwrap_err(),
                    account.micros().await.unwrap_err(),
                    run.unwrap_err(),
                ]
            }
            _ => {
                let account = panicking::Account::on(&engine)
                    .get_actor("a")
                    .await
                    .unwrap();
                account.add(1).send().await.unwrap();
                account
                    .add(1)
                    .delay(Duration::from_secs(1))
                    .send()
                    .await
                    .unwrap();
                let run = engine.run("run", account.add(1).step()).await;
                [
                    account.add(1).await.unwrap_err(),
                    account.micros().await.unwrap_err(),
                    run.unwrap_err(),
                ]
            }
        };
        let [called, looked, run] = errors;
        for error in [called, looked] {
            assert!(matches!(error, Error::Undecodable { .. }), "{error:?}");
            let told = error.to_string();
            assert!(told.starts_with("the state of actor"), "{told}");
            assert!(told.contains("version 1 is too old"), "{told}");
        }
        assert!(
            matches!(&run, Error::Suspended { reason: SuspendReason::Undecodable { param, .. }, .. } if param == "self"),
            "{run:?}"
        );
        // When what was delayed is due, it is not lost either.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let inbox = lab.store.inbox(&id_of(name), None, 9).await.unwrap();
        assert_eq!(inbox.len(), 1, "{name}");
        let agenda = lab.store.value(&id_of(name), &ValueKey::Agenda).await;
        assert!(agenda.unwrap().is_some(), "{name}");
        lab.crash(engine).await;
        // A program that can migrate makes both.
        as_if(name, &lab, "changes/account/second").await;
        let engine = lab.engine().await;
        let account = second::Account::on(&engine).get_actor("a").await.unwrap();
        assert_eq!(account.add(0).await.unwrap(), 1_500_002);
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn calls_whose_parameters_have_changed_wait_for_a_program_that_takes_them() {
    for name in ["changes/account/dated", "changes/account/other"] {
        let lab = Lab::new();
        let engine = lab.engine().await;
        let account = first::Account::on(&engine)
            .get_or_create("a")
            .await
            .unwrap();
        account
            .add(1)
            .delay(Duration::from_secs(60))
            .send()
            .await
            .unwrap();
        account
            .add(10)
            .every("again", Duration::from_secs(60))
            .await
            .unwrap();
        // They have moved from the inbox to what is planned.
        assert_eq!(account.add(0).await.unwrap(), 150);
        drop(account);
        lab.crash(engine).await;
        as_if("changes/account", &lab, name).await;
        let engine = lab.engine().await;
        match name {
            "changes/account/dated" => {
                let account = dated::Account::on(&engine).get_actor("a").await.unwrap();
                tokio::time::sleep(Duration::from_secs(90)).await;
                // Calls that fit go on.
                account.add(0, String::new()).await.unwrap();
            }
            _ => {
                let account = other::Account::on(&engine).get_actor("a").await.unwrap();
                tokio::time::sleep(Duration::from_secs(90)).await;
                account.touch().await.unwrap_err();
            }
        }
        lab.crash(engine).await;
        as_if(name, &lab, "changes/account/second").await;
        let engine = lab.engine().await;
        let account = second::Account::on(&engine).get_actor("a").await.unwrap();
        assert_eq!(account.add(0).await.unwrap(), 1_500_011, "{name}");
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn stored_calls_find_a_method_by_the_name_that_it_is_given() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let account = first::Account::on(&engine)
        .get_or_create("a")
        .await
        .unwrap();
    let in_a_minute = Duration::from_secs(60);
    account.add(1).delay(in_a_minute).send().await.unwrap();
    drop(account);
    lab.crash(engine).await;
    as_if_of(&lab, "changes/account/renamed").await;
    let engine = lab.engine().await;
    let account = renamed::Account::on(&engine).get_actor("a").await.unwrap();
    engine.check().await.unwrap().assert_ok();
    tokio::time::sleep(2 * in_a_minute).await;
    assert_eq!(account.add_old(0).await.unwrap(), 151);
    account.add(2, "Monday").send().await.unwrap();
    assert_eq!(account.add(0, "Monday").id("1").await.unwrap(), 159);
    let step = account.add(0, "Friday").step();
    assert_eq!(engine.run("run", step).await.unwrap(), 159);
    // An id is that of one method.
    let conflict = account.add_old(0).id("1").await.unwrap_err();
    assert!(
        matches!(&conflict, Error::CallConflict { method, .. } if method == "add with a day"),
        "{conflict:?}"
    );
    engine.shutdown().await.unwrap();
}
