//! States that change their shape, and calls of what is no longer there.

use keepstep::prelude::*;
use keepstep::{Result, StoredState};
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

/// Makes an actor of the first version one of another: names are what tells types of one program apart.
async fn as_if_of(lab: &Lab, name: &str) {
    use keepstep::storage::{Batch, Expect, RunId, RunWrite, ValueKey, WriteOutcome};
    let from = RunId::of_parts(&["actor", "changes/account", "a"]).unwrap();
    let record = lab.store.record(&from).await.unwrap().unwrap();
    let state = lab.store.value(&from, &ValueKey::State).await.unwrap();
    let write = RunWrite {
        run: RunId::of_parts(&["actor", name, "a"]).unwrap(),
        expect: Expect::New,
        record,
        entry: None,
        truncate: false,
        values: vec![(ValueKey::State, state)],
        blobs: vec![],
        consumed: vec![],
        only_with: None,
    };
    let batch = Batch {
        writes: vec![write],
        messages: vec![],
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
    let id = keepstep::storage::RunId::of_parts(&["actor", "changes/account/other", "a"]).unwrap();
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
    let id = keepstep::storage::RunId::of_parts(&["actor", "changes/account/grown", "a"]).unwrap();
    let body = [&[1, 0, 4][..], b"gone", &[0, 0, 0]].concat();
    let message = keepstep::storage::Send {
        to: id.clone(),
        key: None,
        body: body.into(),
        blobs: vec![],
        only_with: None,
    };
    let batch = keepstep::storage::Batch {
        writes: vec![],
        messages: vec![message],
    };
    lab.store.commit(batch).await.unwrap();
    let grown = grown::Account::on(&engine).get_actor("a").await.unwrap();
    grown.call("n").await.unwrap();
    assert_eq!(lab.store.inbox(&id, None, 9).await.unwrap().len(), 1);
    assert_eq!(first.add(0).await.unwrap(), 0);
}
