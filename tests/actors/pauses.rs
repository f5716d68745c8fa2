//! How often an actor is tried again whose store fails, and what a shutdown does then.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{StorageError, memory};

use crate::common::{Do, Lab};
use crate::troupe::{Counter, CounterRef};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// More faults than a test has commits.
const MANY: u64 = 20_000;

fn unavailable() -> StorageError {
    StorageError::Unavailable {
        backend: "faulty",
        location: "nowhere".to_owned(),
        operation: "commit",
        source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("injected")),
    }
}

/// An actor with a call that is due in a minute.
async fn with_a_call(store: &Arc<Faulty>) -> (Lab, Engine, CounterRef) {
    let lab = Lab::on(store.clone());
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("me").await.unwrap();
    counter.act("act").delay(MINUTE).send().await.unwrap();
    // It is in the agenda by then: the store itself says when it is due.
    tokio::time::sleep(MINUTE / 2).await;
    (lab, engine, counter)
}

/// Commits fail from now on, in a way that may pass.
fn fail_for_long(store: &Faulty) {
    for nth in 1..=MANY {
        store.inject(Fault::at(Call::Commit, nth, Effect::Fail).with_error(unavailable()));
    }
}

async fn shut_down(lab: &Lab, engine: Engine) {
    let begun_at = lab.clock.now();
    engine.shutdown().await.unwrap();
    let took = lab.clock.now().duration_since(begun_at).unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_commits_fail_is_made_ever_more_rarely() {
    let store = Arc::new(Faulty::new(memory()));
    let (lab, engine, counter) = with_a_call(&store).await;
    fail_for_long(&store);
    let mut an_hour = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(HOUR).await;
        an_hour.push(lab.world.log().len());
    }
    assert!((10..=24).contains(&an_hour[0]), "{an_hour:?}");
    assert!(
        an_hour[1..].iter().all(|n| (10..=17).contains(n)),
        "{an_hour:?}"
    );
    // It goes on without anybody's doing.
    store.heal();
    tokio::time::sleep(6 * MINUTE).await;
    assert_eq!(lab.world.log(), ["act"]);
    assert_eq!(counter.get().await.unwrap(), 1);
    // What succeeded begins with short pauses again.
    counter.act("act").send().await.unwrap();
    store.inject(Fault::next(Call::Commit, Effect::Fail).with_error(unavailable()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(lab.world.log(), ["act", "act"]);
    assert_eq!(counter.get().await.unwrap(), 2);
    shut_down(&lab, engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_made_again_while_the_store_takes_no_more_writes() {
    let store = Arc::new(Faulty::new(memory()));
    let (lab, engine, counter) = with_a_call(&store).await;
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let full = StorageError::Io {
        operation: "write",
        path: "a full disk".into(),
        source: Arc::new(full),
    };
    store.inject(Fault::next(Call::Commit, Effect::Poison).with_error(full));
    tokio::time::sleep(5 * HOUR).await;
    // The first one met the full disk, the second one a store that is done with writing.
    assert_eq!(lab.world.log(), ["act", "act"]);
    // Who calls is told.
    let error = counter.incr().await.unwrap_err();
    assert!(
        matches!(error, Error::Storage(StorageError::Poisoned { .. })),
        "{error}"
    );
    tokio::time::sleep(HOUR).await;
    let begun_at = lab.clock.now();
    drop(engine.shutdown().await);
    assert!(lab.clock.now().duration_since(begun_at).unwrap() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_what_fails() {
    let store = Arc::new(Faulty::new(memory()));
    let (lab, engine, counter) = with_a_call(&store).await;
    for n in 0..50 {
        let other = Counter::on(&engine)
            .get_or_create(format!("{n}"))
            .await
            .unwrap();
        other.act("other").delay(MINUTE).send().await.unwrap();
    }
    counter.act("tick").every("tick", MINUTE).await.unwrap();
    tokio::time::sleep(MINUTE / 4).await;
    fail_for_long(&store);
    tokio::time::sleep(HOUR).await;
    lab.world.log();
    let begun_at = lab.clock.now();
    engine.shutdown().await.unwrap();
    assert!(lab.clock.now().duration_since(begun_at).unwrap() < Duration::from_secs(2));
    // Nothing is woken from then on.
    tokio::time::sleep(HOUR).await;
    assert!(lab.world.log().is_empty());
}

#[step(name = "pauses::child")]
async fn in_child(#[resource] world: &crate::common::World) -> Result<u64, String> {
    world.act("child").await?;
    Ok(7)
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_commits_fail_is_begun_ever_more_rarely() {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    let engine = lab.engine().await;
    lab.world.tell("child", Do::Hold);
    let parent = engine
        .start("parent", child("child", in_child()))
        .await
        .unwrap();
    lab.world.until("child").await;
    fail_for_long(&store);
    lab.world.tell("child", Do::Succeed);
    tokio::time::sleep(HOUR).await;
    let n = lab.world.log().len();
    assert!((10..=30).contains(&n), "{n}");
    store.heal();
    assert_eq!(parent.await.unwrap(), 7);
    shut_down(&lab, engine).await;
}
