//! The clock is wrong for a while.

use std::sync::Arc;
use std::time::Duration;

use keepstep::Missed;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::memory;

use crate::common::Lab;
use crate::{DAY, HOUR, MINUTE, after, full_hour, runs, tick};

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_a_year_ahead_for_a_minute_stops_no_schedule() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    full_hour(&lab).await;
    engine.schedule("s", "0 * * * *", tick(1)).await.unwrap();
    after(HOUR).await;
    assert_eq!(runs(&engine).await.len(), 1);
    lab.clock.set(lab.clock.now() + YEAR);
    after(MINUTE).await;
    let wrong = runs(&engine).await.len();
    assert_eq!(wrong, 2);
    lab.clock.set(lab.clock.now() - YEAR);
    after(5 * HOUR).await;
    assert_eq!(runs(&engine).await.len(), wrong + 5);
    assert_eq!(lab.world.log(), ["tick"; 7]);
}

/// What came between the end of the wrong time and the end of the store's trouble is made up for.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_while_the_store_is_away_loses_no_time() {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    let engine = lab.engine().await;
    full_hour(&lab).await;
    engine.schedule("s", "0 * * * *", tick(1)).await.unwrap();
    after(55 * MINUTE).await;
    lab.clock.set(lab.clock.now() + YEAR);
    after(MINUTE).await;
    assert_eq!(runs(&engine).await.len(), 1);
    for nth in 1..=1_000 {
        store.inject(Fault::at(Call::Read, nth, Effect::Fail));
    }
    lab.clock.set(lab.clock.now() - YEAR);
    after(10 * MINUTE).await;
    store.heal();
    after(MINUTE).await;
    assert_eq!(runs(&engine).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_somebody_else_stored_by_a_wrong_clock_is_corrected() {
    let lab = Lab::new();
    let clock = keepstep::Clock::tokio();
    let builder = lab.builder().clock(clock.clone());
    full_hour(&lab).await;
    clock.set(lab.clock.now() + YEAR);
    let wrong = builder.build().await.unwrap();
    wrong.schedule("a", "0 * * * *", tick(1)).await.unwrap();
    wrong.schedule("b", "0 * * * *", tick(1)).await.unwrap();
    lab.crash(wrong).await;
    let next = async |engine: &keepstep::Engine| {
        let schedules = engine.schedules().await.unwrap();
        let left = |at: std::time::SystemTime| at.duration_since(lab.clock.now()).unwrap();
        let next = schedules
            .iter()
            .map(|schedule| left(schedule.next_at.unwrap()));
        next.max().unwrap()
    };

    // When the program says it again.
    let engine = lab.engine().await;
    assert!(next(&engine).await > DAY);
    engine.schedule("a", "0 * * * *", tick(1)).await.unwrap();
    let schedules = engine.schedules().await.unwrap();
    let a = schedules[0]
        .next_at
        .unwrap()
        .duration_since(lab.clock.now());
    assert!(a.unwrap() < HOUR);
    // The first use of any schedule corrects all others.
    after(SECOND).await;
    assert!(next(&engine).await < HOUR);

    // While the engine lives, too.
    clock.set(lab.clock.now() + YEAR);
    let builder = lab.builder().clock(clock.clone());
    let wrong = builder.build().await.unwrap();
    wrong.schedule("a", "30 * * * *", tick(1)).await.unwrap();
    drop(wrong);
    assert!(next(&engine).await > DAY);
    after(11 * MINUTE).await;
    assert!(next(&engine).await < HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_starts_no_time_twice() {
    for missed in [Missed::Skip, Missed::One, Missed::All] {
        let lab = Lab::new();
        let engine = lab.engine().await;
        full_hour(&lab).await;
        let hourly = engine.schedule("s", "0 * * * *", tick(1));
        hourly.missed(missed).await.unwrap();
        after(5 * HOUR).await;
        lab.clock.set(lab.clock.now() - 3 * HOUR);
        after(6 * HOUR).await;
        // Five hours, and three more after they had come again.
        let ids = runs(&engine).await;
        assert_eq!(ids.len(), 8, "{ids:?}");
        assert_eq!(lab.world.log(), ["tick"; 8]);
    }
}
