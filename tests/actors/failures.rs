//! Failing methods, and a failing store.

use std::sync::Arc;
use std::time::Duration;

use keepstep::storage::fault::{Effect, Fault, Faulty, On};
use keepstep::storage::memory;
use keepstep::{Error, StepErrorKind};

use crate::common::{Do, Lab};
use crate::troupe::{Counter, CounterRef};

async fn counter(lab: &Lab) -> (keepstep::Engine, CounterRef) {
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("me").await.unwrap();
    (engine, counter)
}

fn failure(error: Error) -> keepstep::StepError {
    match error {
        Error::CallFailed { error, .. } => *error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failed_call_leaves_the_state_and_blocks_nobody() {
    let lab = Lab::new();
    let (_engine, counter) = counter(&lab).await;
    assert_eq!(counter.incr().await.unwrap(), 1);
    lab.world.tell("bad", Do::Fail);
    lab.world.tell("worse", Do::Panic);
    let failed = failure(counter.act("bad").await.unwrap_err());
    assert_eq!(
        (&*failed.step, failed.kind, failed.attempts),
        ("counter::act", StepErrorKind::Error, 1)
    );
    assert_eq!(failed.message, "bad failed");
    let panicked = failure(counter.act("worse").await.unwrap_err());
    assert_eq!(
        (panicked.kind, &*panicked.message),
        (StepErrorKind::Panic, "worse panicked")
    );
    assert_eq!(counter.get().await.unwrap(), 1);
    assert_eq!(counter.incr().await.unwrap(), 2);
    // A call that failed can be made again, also under its id.
    lab.world.tell("flaky", Do::FailTimes(1));
    failure(counter.act("flaky").id("f").await.unwrap_err());
    assert_eq!(counter.act("flaky").id("f").await.unwrap(), 3);
    assert_eq!(counter.act("flaky").id("f").await.unwrap(), 3);
    // One that was sent and fails is over.
    counter.act("bad").send().await.unwrap();
    assert_eq!(counter.incr().await.unwrap(), 4);
    lab.world.log();
    assert_eq!(counter.incr().await.unwrap(), 5);
    assert!(lab.world.log().is_empty());
    failure(counter.watch("worse").await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn retries_are_made_where_the_method_asks_for_them() {
    let lab = Lab::new();
    let (_engine, counter) = counter(&lab).await;
    lab.world.tell("flaky", Do::FailTimes(2));
    assert_eq!(counter.persist("flaky").await.unwrap(), 1);
    assert_eq!(lab.world.log(), ["flaky"; 3]);
    lab.world.tell("bad", Do::Fail);
    let failed = failure(counter.persist("bad").await.unwrap_err());
    assert_eq!(failed.attempts, 3);
    assert_eq!(lab.world.log(), ["bad"; 3]);
    lab.world.tell("slow", Do::Hold);
    let late = failure(counter.hurry("slow").await.unwrap_err());
    assert_eq!(
        (late.kind, &*late.message),
        (StepErrorKind::Timeout, "it took longer than 5s")
    );
    assert_eq!(counter.get().await.unwrap(), 1);
}

#[tokio::test]
async fn a_call_that_would_wait_for_itself_says_so() {
    let lab = Lab::new();
    let (engine, me) = counter(&lab).await;
    let failed = failure(me.trip().await.unwrap_err());
    assert_eq!(
        failed.message,
        "`counter::incr` of actor/counter/me was awaited inside of a call that this actor is busy with, and would wait for itself for \
         ever; send it with `.send()`, or return it as a step with `.step()`"
    );
    // Also by way of another.
    Counter::on(&engine).get_or_create("other").await.unwrap();
    let failed = failure(me.ask("other".to_owned()).await.unwrap_err());
    assert!(
        failed.causes.concat().contains("would wait for itself"),
        "{failed:?}"
    );
    assert_eq!(me.get().await.unwrap(), 0);
    let failed = failure(me.run_inside().await.unwrap_err());
    assert!(
        failed
            .message
            .starts_with("`run` was called inside the step \"counter::run_inside\""),
        "{failed}"
    );
    assert_eq!(me.incr().await.unwrap(), 1);
}

#[tokio::test]
async fn an_actor_may_send_itself_calls() {
    let lab = Lab::new();
    let (_engine, me) = counter(&lab).await;
    me.again().await.unwrap();
    assert_eq!(me.incr().await.unwrap(), 2);
}

#[tokio::test]
async fn a_failed_write_reaches_every_caller_and_what_is_stored_counts() {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    let (_engine, counter) = counter(&lab).await;
    assert_eq!(counter.incr().await.unwrap(), 1);
    for effect in [Effect::Fail, Effect::FailAfter] {
        let before = counter.get().await.unwrap();
        store.inject(Fault::next(On::AnyWrite, effect.clone()));
        lab.world.tell("slow", Do::Hold);
        let (first, second) = (counter.incr(), counter.incr());
        let (first, second) = tokio::join!(first.into_future(), second.into_future());
        let error = first.unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{error}");
        let is_second_made = second.is_ok();
        store.heal();
        let after = counter.incr().await.unwrap();
        let made = after - before - 1;
        // Not a call was made whose caller got a result and which is not there.
        let least = u64::from(is_second_made);
        assert!((least..=2).contains(&made), "{effect:?}: {made}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_were_sent_survive_a_store_that_fails_for_a_while() {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    let (_engine, counter) = counter(&lab).await;
    lab.world.tell("slow", Do::Hold);
    counter.act("slow").send().await.unwrap();
    lab.world.until("slow").await;
    store.inject(Fault::next(On::AnyWrite, Effect::Fail));
    lab.world.tell("slow", Do::Succeed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.heal();
    // It is in the inbox still, and made again, before the next one.
    assert_eq!(counter.incr().await.unwrap(), 2);
}

mod brittle {
    use keepstep::prelude::*;
    use serde::{Deserialize, Deserializer, Serialize};

    /// Does not like to be read once it is broken.
    #[derive(Serialize)]
    pub(super) struct Brittle {
        is_broken: bool,
    }

    impl<'de> Deserialize<'de> for Brittle {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            #[derive(Deserialize)]
            struct Shape {
                is_broken: bool,
            }
            let Shape { is_broken } = Shape::deserialize(deserializer)?;
            assert!(!is_broken, "it is broken");
            Ok(Self { is_broken })
        }
    }

    #[virtual_actor(name = "brittle")]
    impl Brittle {
        pub(super) fn new(fails: bool) -> Result<Self, String> {
            match fails {
                true => Err("not today".to_owned()),
                false => Ok(Self { is_broken: false }),
            }
        }

        pub(super) async fn touch(&mut self) {}

        pub(super) async fn smash(&mut self) {
            self.is_broken = true;
        }

        pub(super) async fn look(&self) -> bool {
            self.is_broken
        }
    }
}

#[tokio::test]
async fn a_state_whose_decoding_panics_is_an_error_of_each_call() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let brittle = brittle::Brittle::on(&engine)
        .get_or_create("b", false)
        .await
        .unwrap();
    brittle.touch().await.unwrap();
    brittle.smash().await.unwrap();
    brittle.touch().send().await.unwrap();
    for _ in 0..2 {
        for error in [
            brittle.touch().await.unwrap_err(),
            brittle.look().await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, Error::Undecodable { message, .. } if message.contains("it is broken")),
                "{error:?}"
            );
        }
    }
    // It is the code that cannot: what was sent waits for other code.
    let id = keepstep::storage::RunId::of_parts(&["actor", "brittle", "b"]).unwrap();
    assert_eq!(lab.store.inbox(&id, None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_constructor_that_fails_makes_nothing() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let brittles = brittle::Brittle::on(&engine);
    let failed = failure(brittles.get_or_create("b", true).await.unwrap_err());
    assert_eq!(
        (&*failed.step, &*failed.message),
        ("brittle::new", "not today")
    );
    assert!(matches!(
        brittles.get_actor("b").await,
        Err(Error::ActorNotFound { .. })
    ));
    brittles.get_or_create("b", false).await.unwrap();
    // It exists: the constructor is not asked again.
    brittles.get_or_create("b", true).await.unwrap();
}
