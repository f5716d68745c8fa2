//! Stored calls of older versions of a step.

use keepstep::SuspendReason;
use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use super::{a_moment, lab, rename};
use crate::common::{Do, Lab, Tampered, World};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Money {
    cents: u64,
    currency: String,
}

/// As the program has it that wrote the runs.
#[step(name = "pay/was", retries = 3, backoff = "1h..1h")]
async fn pay_was(cents: u64, to: String, #[resource] world: &World) -> Result<String, String> {
    world.act("was").await?;
    Ok(format!("{cents} to {to}"))
}

/// As a later program has it: other arguments, in another order.
#[step(name = "pay/now", version = 2, accepts = 1, migrate = from_v1, retries = 3, backoff = "1h..1h")]
async fn pay_now(to: &str, amount: Money, #[resource] world: &World) -> String {
    let context = context();
    world.note(format!(
        "{} in attempt {} of {}, {} {} to {to}",
        context.step_name(),
        context.attempt(),
        context.idempotency_key(),
        amount.cents,
        amount.currency,
    ));
    "paid".into()
}

fn from_v1(cents: u64, to: String) -> (String, Money) {
    let currency = "EUR".into();
    (to, Money { cents, currency })
}

/// A migration that refuses.
#[step(name = "pay/bad", version = 2, accepts(1, migrate = refuse))]
async fn pay_bad(amount: Money) {
    drop(amount);
}

fn refuse(cents: u64, to: String) -> anyhow::Result<Money> {
    Err(anyhow::anyhow!("no account {to:?}").context(format!("{cents} cents are nobody's")))
}

/// A migration that panics.
#[step(name = "pay/boo", version = 3, accepts(2), accepts(1, migrate = panics))]
async fn pay_boo(amount: Money) {
    drop(amount);
}

fn panics(cents: u64, _to: String) -> Money {
    panic!("{cents} are too many")
}

/// Its old arguments are not those that were stored.
#[step(name = "pay/odd", version = 2, accepts = 1, migrate = of_text)]
async fn pay_odd(amount: Money) {
    drop(amount);
}

fn of_text(cents: String, _to: String) -> Money {
    let cents = cents.len() as u64;
    let currency = String::new();
    Money { cents, currency }
}

/// The same arguments, with another meaning.
#[step(name = "pay/sam", version = 2, accepts = 1)]
async fn pay_sam(cents: u64, to: String, #[resource] world: &World) -> String {
    world.note(format!("{cents} for {to}"));
    "paid".into()
}

/// Both versions are there: each runs its own calls.
#[step(name = "pay/two", version = 1)]
async fn pay_two_v1(_cents: u64, _to: String, #[resource] world: &World) -> String {
    world.note("version 1");
    "paid".into()
}

#[step(name = "pay/two", version = 2, accepts = 1, migrate = from_v1)]
async fn pay_two(_to: String, _amount: Money, #[resource] world: &World) -> String {
    world.note("version 2");
    "paid".into()
}

/// It takes fewer arguments than were stored.
#[step(name = "pay/few", version = 1)]
async fn pay_few(to: String) -> String {
    to
}

/// A run whose payment failed once, and is to be tried again in an hour, interrupted.
async fn interrupted() -> (std::sync::Arc<Tampered>, Lab) {
    let (store, lab) = lab();
    lab.world.tell("was", Do::Fail);
    let engine = lab.engine().await;
    drop(engine.start("run", pay_was(7, "Ann")).await.unwrap());
    lab.world.until("was").await;
    a_moment().await;
    lab.crash(engine).await;
    lab.world.log();
    (store, lab)
}

async fn suspended_in(program: &'static str) -> SuspendReason {
    let (store, lab) = interrupted().await;
    rename(&store, &[("pay/was", program)]);
    let engine = lab.engine().await;
    let Err(Error::Suspended { reason, .. }) = engine.resume::<String>("run").await.unwrap().await
    else {
        panic!("not suspended");
    };
    // Nothing is lost: the program that can goes on.
    lab.crash(engine).await;
    rename(&store, &[("pay/was", "pay/now")]);
    let engine = lab.engine().await;
    let handle = engine.resume::<String>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), "paid");
    engine.shutdown().await.unwrap();
    reason
}

#[tokio::test(start_paused = true)]
async fn a_call_of_an_older_version_is_migrated_and_stays_the_same_call() {
    let (store, lab) = interrupted().await;
    rename(&store, &[("pay/was", "pay/now")]);
    let engine = lab.engine().await;
    let handle = engine.resume::<String>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), "paid");
    engine.shutdown().await.unwrap();
    let log = lab.world.log();
    let [told] = &*log else { panic!("{log:?}") };
    // The attempt that failed counts, and the key is that of the step.
    assert!(told.starts_with("pay/now in attempt 2 of run/"), "{told}");
    assert!(told.ends_with("/0, 7 EUR to Ann"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_version_can_be_accepted_with_its_arguments_as_they_are() {
    let (store, lab) = interrupted().await;
    rename(&store, &[("pay/was", "pay/sam")]);
    let engine = lab.engine().await;
    engine.resume::<String>("run").await.unwrap().await.unwrap();
    assert_eq!(lab.world.log(), ["7 for Ann"]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_the_version_it_was_made_for_while_that_is_there() {
    let (store, lab) = interrupted().await;
    rename(&store, &[("pay/was", "pay/two")]);
    let engine = lab.engine().await;
    engine.resume::<String>("run").await.unwrap().await.unwrap();
    let amount = Money {
        cents: 1,
        currency: "PLN".into(),
    };
    engine.run("new", pay_two("Bob", amount)).await.unwrap();
    assert_eq!(lab.world.log(), ["version 1", "version 2"]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_fails_suspends_the_run() {
    let reason = suspended_in("pay/bad").await;
    let expected = SuspendReason::Unmigratable {
        step: "pay/bad".into(),
        version: 1,
        to: 2,
        message: "7 cents are nobody's: no account \"Ann\"".into(),
    };
    assert_eq!(reason, expected);
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_panics_suspends_the_run() {
    let reason = suspended_in("pay/boo").await;
    match reason {
        SuspendReason::Unmigratable { to: 3, message, .. } => {
            assert_eq!(message, "it panicked: 7 are too many");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn old_arguments_that_the_migration_does_not_take_suspend_the_run() {
    match suspended_in("pay/odd").await {
        SuspendReason::Undecodable {
            step,
            version,
            param,
            ..
        } => assert_eq!((&*step, version, &*param), ("pay/odd", 1, "1")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn more_arguments_than_parameters_suspend_the_run() {
    // By their places alone, the second would be taken for the first.
    match suspended_in("pay/few").await {
        SuspendReason::Undecodable { step, message, .. } => {
            assert_eq!(step, "pay/few");
            assert!(message.contains("has 2 arguments"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[step(name = "size/was")]
async fn size_was(object: ObjectRef<Vec<u8>>, #[resource] world: &World) -> Result<u64, String> {
    world.act("was").await?;
    Ok(object.get().await.map_err(|error| error.to_string())?.len() as u64)
}

#[step(name = "size/now", version = 2, accepts = 1, migrate = to_list)]
async fn size_now(objects: Vec<ObjectRef<Vec<u8>>>, factor: u64) -> keepstep::Result<u64> {
    let mut size = 0;
    for object in &objects {
        size += object.get().await?.len() as u64;
    }
    Ok(size * factor)
}

fn to_list(object: ObjectRef<Vec<u8>>) -> (Vec<ObjectRef<Vec<u8>>>, u64) {
    (vec![object.clone(), object], 10)
}

#[tokio::test(start_paused = true)]
async fn a_migration_takes_references_and_hands_them_on() {
    let (store, lab) = lab();
    lab.world.tell("was", Do::Hold);
    let engine = lab.engine().await;
    let object = engine.put(&vec![1; 100]).await.unwrap();
    drop(engine.start("run", size_was(object)).await.unwrap());
    lab.world.until("was").await;
    a_moment().await;
    lab.crash(engine).await;
    rename(&store, &[("size/was", "size/now")]);
    let engine = lab.engine().await;
    engine.maintain().await.unwrap();
    engine.check().await.unwrap().assert_ok();
    let handle = engine.resume::<u64>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), 2_000);
    engine.shutdown().await.unwrap();
}
