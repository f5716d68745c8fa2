//! Much for one actor to do: it costs in proportion.

use std::sync::Arc;
use std::time::Duration;

use keepstep::storage::fault::{Call, Faulty};
use keepstep::storage::memory;

use crate::common::{Do, Lab};
use crate::troupe::Counter;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn calls_that_wait_in_the_inbox_are_read_many_at_a_time() {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(Arc::clone(&store) as _);
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("busy", Do::Hold);
    let busy = tokio::spawn(counter.act("busy").into_future());
    lab.world.until("busy").await;
    for _ in 0..2_000 {
        counter.incr().send().await.unwrap();
    }
    let before = store.calls(Call::Read);
    lab.world.tell("busy", Do::Succeed);
    assert_eq!(busy.await.unwrap().unwrap(), 1);
    // Those that were sent before come before this one.
    assert_eq!(counter.incr().await.unwrap(), 2_002);
    let reads = store.calls(Call::Read) - before;
    assert!((2_000 / 256..50).contains(&reads), "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn many_reminders_survive_a_crash() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    let n = 600;
    for i in 0..n {
        let first = MINUTE + Duration::from_secs(i);
        counter
            .incr()
            .every(format!("tick {i}"), first)
            .await
            .unwrap();
    }
    assert_eq!(counter.reminders().await.unwrap().len() as u64, n);
    tokio::time::sleep(MINUTE / 2).await;
    drop(counter);
    lab.crash(engine).await;
    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    // All but the first have come at least once, and none more often than there was time for.
    tokio::time::sleep(11 * MINUTE).await;
    let count = counter.get().await.unwrap();
    assert!((n..13 * n).contains(&count), "{count}");
    for i in 1..n {
        counter.forget(format!("tick {i}")).await.unwrap();
    }
    assert_eq!(counter.reminders().await.unwrap().len(), 1);
    let before = counter.get().await.unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    let since = counter.get().await.unwrap() - before;
    assert!((9..=11).contains(&since), "{since}");
}

#[tokio::test(start_paused = true)]
async fn reminders_that_are_due_and_forgotten_at_once_do_not_come() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    for i in 0..40 {
        let name = format!("tick {i}");
        counter.incr().every(name, MINUTE).await.unwrap();
    }
    lab.world.tell("busy", Do::Hold);
    let busy = tokio::spawn(counter.act("busy").into_future());
    lab.world.until("busy").await;
    // Some are forgotten before they are due, the others after that; one of these is set anew.
    for i in 0..10 {
        counter.forget(format!("tick {i}")).await.unwrap();
    }
    tokio::time::sleep(MINUTE + MINUTE / 2).await;
    for i in 10..20 {
        counter.forget(format!("tick {i}")).await.unwrap();
    }
    counter.add(1_000).every("tick 20", MINUTE).await.unwrap();
    lab.world.tell("busy", Do::Succeed);
    assert_eq!(busy.await.unwrap().unwrap(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Its own call, those that were due before they were forgotten or replaced, and those that go on.
    assert_eq!(counter.get().await.unwrap(), 1 + 30);
    assert_eq!(counter.reminders().await.unwrap().len(), 20);
}
