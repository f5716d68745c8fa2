//! Calls that are made later, and again and again.

use std::time::{Duration, SystemTime};

use crate::common::{Do, Lab};
use crate::troupe::Counter;

const MINUTE: Duration = Duration::from_secs(60);

async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A second more or less does not matter to a clock of microseconds on a timer of milliseconds.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_delayed_call_is_made_when_its_time_comes() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter.incr().delay(MINUTE).send().await.unwrap();
    counter
        .add(10)
        .at(lab.clock.now() + 2 * MINUTE)
        .send()
        .await
        .unwrap();
    counter
        .add(100)
        .at(SystemTime::UNIX_EPOCH)
        .send()
        .await
        .unwrap();
    after(SOON).await;
    assert_eq!(counter.get().await.unwrap(), 100);
    after(MINUTE - 2 * SOON).await;
    assert_eq!(counter.get().await.unwrap(), 100);
    after(2 * SOON).await;
    assert_eq!(counter.get().await.unwrap(), 101);
    after(MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 111);
}

#[tokio::test(start_paused = true)]
async fn delayed_calls_come_by_time_then_in_the_order_in_which_they_were_sent() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    let at = lab.clock.now() + MINUTE;
    for who in ["3", "4", "5"] {
        counter.act(who).at(at + MINUTE).send().await.unwrap();
    }
    for who in ["1", "2"] {
        counter.act(who).at(at).send().await.unwrap();
    }
    after(3 * MINUTE).await;
    assert_eq!(lab.world.log(), ["1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_of_an_id_is_planned_once() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    for _ in 0..3 {
        counter
            .incr()
            .id("bill")
            .delay(MINUTE)
            .send()
            .await
            .unwrap();
    }
    after(2 * MINUTE).await;
    assert_eq!(counter.incr().id("bill").await.unwrap(), 1);
    assert_eq!(counter.get().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reminder_comes_again_and_again_until_it_is_forgotten() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter.incr().every("tick", MINUTE).await.unwrap();
    let reminders = counter.reminders().await.unwrap();
    assert_eq!(
        (
            &*reminders[0].name,
            &*reminders[0].method,
            reminders[0].every
        ),
        ("tick", "incr", MINUTE)
    );
    assert_eq!(counter.get().await.unwrap(), 0);
    for n in 1..=3 {
        after(MINUTE + SOON / 10).await;
        assert_eq!(counter.get().await.unwrap(), n);
    }
    // One of the same name takes its place.
    counter.add(10).every("tick", 10 * MINUTE).await.unwrap();
    after(9 * MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 3);
    after(2 * MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 13);
    counter.forget("tick").await.unwrap();
    counter.forget("never was").await.unwrap();
    assert!(counter.reminders().await.unwrap().is_empty());
    after(100 * MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 13);
}

#[tokio::test(start_paused = true)]
async fn what_was_due_before_a_call_was_sent_comes_before_it() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter.act("due").delay(MINUTE).send().await.unwrap();
    counter.act("tick").every("tick", 2 * MINUTE).await.unwrap();
    counter
        .act("forgotten")
        .every("tock", MINUTE)
        .await
        .unwrap();
    after(SOON).await;
    counter.forget("tock").await.unwrap();
    drop(counter);
    lab.crash(engine).await;
    after(3 * MINUTE).await;

    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    counter.act("sent").send().await.unwrap();
    counter.forget("tick").await.unwrap();
    counter.act("again").send().await.unwrap();
    after(SOON).await;
    assert_eq!(lab.world.log(), ["due", "tick", "sent", "again"]);
    after(10 * MINUTE).await;
    assert_eq!(lab.world.log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_reminder_keeps_its_first_time_when_it_takes_the_place_of_one_that_is_due() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter.act("old").every("tick", MINUTE).await.unwrap();
    after(SOON).await;
    drop(counter);
    lab.crash(engine).await;
    after(2 * MINUTE).await;

    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    counter.act("new").every("tick", 10 * MINUTE).await.unwrap();
    after(11 * MINUTE).await;
    assert_eq!(lab.world.log(), ["old", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_reminder_that_fails_comes_again() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("flaky", Do::FailTimes(2));
    counter.act("flaky").every("tick", MINUTE).await.unwrap();
    after(3 * MINUTE + SOON).await;
    assert_eq!(counter.get().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_comes_after_a_restart_and_missed_reminders_are_one() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter.incr().delay(MINUTE).send().await.unwrap();
    counter.add(10).every("tick", MINUTE).await.unwrap();
    drop(counter);
    lab.crash(engine).await;
    after(10 * MINUTE + SOON).await;

    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    after(SOON).await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    assert_eq!(counter.get().await.unwrap(), 11);
    after(MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 21);
    let counters = Counter::on(&engine)
        .list_actors(keepstep::ActorFilter::all())
        .await
        .unwrap();
    let wake_at = counters.actors[0].wake_at.unwrap();
    assert!(wake_at.duration_since(lab.clock.now()).unwrap() <= MINUTE);
}

#[tokio::test(start_paused = true)]
async fn the_first_use_of_an_actor_wakes_the_others() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for n in 0..20 {
        let counter = Counter::on(&engine)
            .get_or_create(format!("c{n}"))
            .await
            .unwrap();
        counter
            .act(format!("{n:02}"))
            .delay(MINUTE * n)
            .send()
            .await
            .unwrap();
        counter.incr().send().await.unwrap();
    }
    lab.world.log();
    lab.crash(engine).await;
    let engine = lab.engine().await;
    after(20 * MINUTE).await;
    assert!(
        lab.world.log().iter().all(|who| who == "00"),
        "opening runs nothing"
    );
    Counter::on(&engine).get_or_create("another").await.unwrap();
    after(SOON).await;
    let expected: Vec<_> = (1..20).map(|n| format!("{n:02}")).collect();
    let mut log = lab.world.sorted_log();
    log.retain(|who| who != "00");
    assert_eq!(log, expected);
    for n in 0..20 {
        let counter = Counter::on(&engine)
            .get_actor(format!("c{n}"))
            .await
            .unwrap();
        assert_eq!(counter.get().await.unwrap(), 2);
    }
}

/// How long calls take that come due together, by the clock on the wall.
async fn due_together(n: usize) -> Duration {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    let at = lab.clock.now() + 10 * MINUTE;
    for _ in 0..n {
        counter.incr().at(at).send().await.unwrap();
    }
    after(MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 0);
    let begun_at = std::time::Instant::now();
    after(10 * MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), n as u64);
    begun_at.elapsed()
}

#[tokio::test(start_paused = true)]
async fn calls_that_come_due_together_take_time_in_proportion() {
    let mut ratios = Vec::new();
    // The machine may be busy with something else at any time, but not each time.
    for _ in 0..4 {
        let (few, many) = (due_together(1_000).await, due_together(4_000).await);
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        if ratio < 8.0 {
            return;
        }
        ratios.push(ratio);
    }
    panic!("four times the calls take so many times as long: {ratios:?}");
}

#[tokio::test(start_paused = true)]
async fn many_calls_and_reminders_survive_a_crash() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter
        .add(1_000_000)
        .every("tick", 20 * MINUTE)
        .await
        .unwrap();
    for n in 0..1_000u32 {
        let delay = MINUTE + Duration::from_secs(u64::from(n % 10) * 60);
        counter.incr().delay(delay).send().await.unwrap();
    }
    after(5 * MINUTE + MINUTE / 2).await;
    assert_eq!(counter.get().await.unwrap(), 500);
    drop(counter);
    lab.crash(engine).await;
    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    after(6 * MINUTE).await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    assert_eq!(counter.get().await.unwrap(), 1_000);
    assert_eq!(counter.reminders().await.unwrap().len(), 1);
    after(10 * MINUTE).await;
    assert_eq!(counter.get().await.unwrap(), 1_001_000);
}
