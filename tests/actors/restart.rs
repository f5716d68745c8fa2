//! What a crash leaves, and what it does not.

use keepstep::Error;

use crate::common::{Do, Lab};
use crate::troupe::Counter;

#[tokio::test]
async fn what_was_returned_is_there_after_a_crash_and_what_was_not_is_as_if_never_called() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    assert_eq!(counter.incr().await.unwrap(), 1);
    assert_eq!(counter.incr().id("two").await.unwrap(), 2);
    lab.world.tell("cut", Do::Hold);
    let cut = tokio::spawn(counter.act("cut").into_future());
    lab.world.until("cut").await;
    drop(counter);
    drop(engine);
    let error = cut.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ShutDown), "{error}");

    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    assert_eq!(counter.get().await.unwrap(), 2);
    assert_eq!(counter.incr().id("two").await.unwrap(), 2);
    assert_eq!(counter.incr().await.unwrap(), 3);
}

#[tokio::test]
async fn calls_that_were_sent_are_made_after_a_crash_in_their_order() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("1", Do::Hold);
    for who in ["1", "2", "3", "4"] {
        counter.act(who).send().await.unwrap();
    }
    lab.world.until("1").await;
    drop(counter);
    lab.crash(engine).await;
    assert_eq!(lab.world.log(), ["1", "1 dropped"]);

    lab.world.tell("1", Do::Succeed);
    let engine = lab.engine().await;
    engine.resume_all().await.unwrap();
    lab.world.until("4").await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    assert_eq!(counter.incr().await.unwrap(), 5);
    assert_eq!(lab.world.log(), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_shutdown_ends_calls_and_another_engine_goes_on() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    assert_eq!(counter.incr().await.unwrap(), 1);
    let other = lab.engine().await;
    // Another engine on the same store takes the actor over; the first one learns of it when it writes.
    let taken = Counter::on(&other).get_actor("c").await.unwrap();
    assert_eq!(taken.incr().await.unwrap(), 2);
    let error = counter.incr().await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(taken.incr().await.unwrap(), 3);
}
