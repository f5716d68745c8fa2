//! Schedules: a run for each time, once, whatever crashes.

#![cfg(feature = "schedules")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod clocks;
mod failures;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Do, Lab, World};
use keepstep::prelude::*;
use keepstep::storage::fault::{Effect, Fault, Faulty, On};
use keepstep::storage::memory;
use keepstep::{Filter, Missed};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

#[step(name = "tick")]
async fn tick(n: u64, #[resource] world: &World) -> Result<u64, String> {
    world.act("tick").await?;
    Ok(n)
}

async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Lets it become ten seconds past a full hour, so that what is about hours begins alike.
async fn full_hour(lab: &Lab) {
    let now = lab
        .clock
        .now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let past = Duration::from_secs(now.as_secs() % 3600);
    after(HOUR - past + Duration::from_secs(10)).await;
}

/// The ids of all runs, oldest first, and that each has the time of its id.
async fn runs(engine: &Engine) -> Vec<String> {
    let page = engine.list(Filter::all().limit(1000)).await.unwrap();
    page.runs.into_iter().map(|run| run.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_run_is_started_at_each_time() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    full_hour(&lab).await;
    engine
        .schedule("hourly", "0 * * * *", tick(7))
        .await
        .unwrap();
    assert!(runs(&engine).await.is_empty());
    after(3 * HOUR).await;
    let ids = runs(&engine).await;
    assert_eq!(ids.len(), 3);
    assert_eq!(lab.world.log(), ["tick"; 3]);
    for id in &ids {
        let (name, time) = id.split_once('@').unwrap();
        assert_eq!(name, "hourly");
        assert!(
            time.ends_with(":00:00Z") && time.len() == "2026-11-23T03:00:00Z".len(),
            "{time}"
        );
        assert_eq!(engine.output::<u64>(id).await.unwrap(), 7);
    }
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), 3);
    let schedules = engine.schedules().await.unwrap();
    let [schedule] = &schedules[..] else {
        panic!("{schedules:?}")
    };
    assert_eq!(
        (&*schedule.name, &*schedule.cron, &*schedule.workflow),
        ("hourly", "0 * * * *", "tick")
    );
    assert_eq!((schedule.missed, schedule.is_paused), (Missed::One, false));
    assert_eq!(schedule.last_run.as_ref(), ids.last());
    let left = schedule
        .next_at
        .unwrap()
        .duration_since(lab.clock.now())
        .unwrap();
    assert!(left < HOUR && left > HOUR - MINUTE, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_paused_resumed_changed_and_removed() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    full_hour(&lab).await;
    engine.schedule("s", "0 * * * *", tick(1)).await.unwrap();
    engine.pause_schedule("s").await.unwrap();
    engine.pause_schedule("s").await.unwrap();
    assert!(engine.schedules().await.unwrap()[0].is_paused);
    assert_eq!(engine.schedules().await.unwrap()[0].next_at, None);
    // Said again, it stays paused.
    engine.schedule("s", "0 * * * *", tick(1)).await.unwrap();
    after(2 * HOUR).await;
    assert!(runs(&engine).await.is_empty());
    engine.resume_schedule("s").await.unwrap();
    after(MINUTE).await;
    assert!(
        runs(&engine).await.is_empty(),
        "times of the pause have no runs"
    );
    after(HOUR).await;
    assert_eq!(runs(&engine).await.len(), 1);
    // Another workflow, more often.
    engine.schedule("s", "*/20 * * * *", tick(2)).await.unwrap();
    after(HOUR).await;
    let ids = runs(&engine).await;
    assert_eq!(ids.len(), 4);
    assert_eq!(engine.output::<u64>(&ids[3]).await.unwrap(), 2);
    engine.remove_schedule("s").await.unwrap();
    after(2 * HOUR).await;
    assert_eq!(runs(&engine).await.len(), 4);
    assert!(engine.schedules().await.unwrap().is_empty());
    for error in [
        engine.remove_schedule("s").await.unwrap_err(),
        engine.pause_schedule("s").await.unwrap_err(),
        engine.resume_schedule("s").await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), r#"there is no schedule "s""#);
    }
}

#[tokio::test(start_paused = true)]
async fn missed_times_follow_the_policy() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    full_hour(&lab).await;
    let policies = [Missed::Skip, Missed::One, Missed::All];
    for missed in policies {
        engine
            .schedule(format!("{missed:?}"), "0 * * * *", tick(1))
            .missed(missed)
            .await
            .unwrap();
    }
    after(HOUR).await;
    assert_eq!(runs(&engine).await.len(), 3);
    lab.crash(engine).await;
    lab.world.log();
    after(150 * HOUR + 30 * MINUTE).await;

    let engine = lab.engine().await;
    after(2 * HOUR).await;
    assert!(lab.world.log().is_empty(), "opening runs nothing");
    // Saying one of them again sets all of them going.
    engine.schedule("One", "0 * * * *", tick(1)).await.unwrap();
    after(MINUTE).await;
    let mut counts = Vec::new();
    let ids = runs(&engine).await;
    for missed in policies {
        let of_it = format!("{missed:?}@");
        counts.push(ids.iter().filter(|id| id.starts_with(&of_it)).count());
    }
    assert_eq!(counts, [1, 2, 153]);
    // From here on all go on alike.
    after(HOUR).await;
    assert_eq!(runs(&engine).await.len(), 1 + 2 + 153 + 3);
    let unique: BTreeSet<_> = runs(&engine).await.into_iter().collect();
    assert_eq!(unique.len(), 159);
}

#[tokio::test(start_paused = true)]
async fn a_restart_runs_no_time_twice_and_forgets_none() {
    let lab = Lab::new();
    let mut engine = lab.builder().resume_on_open(true).build().await.unwrap();
    full_hour(&lab).await;
    engine.schedule("s", "0 * * * *", tick(1)).await.unwrap();
    for n in 0..6 {
        // Before and after the hour, by turns.
        after(if n % 2 == 0 {
            HOUR - 20 * Duration::from_secs(1)
        } else {
            HOUR + 20 * Duration::from_secs(1)
        })
        .await;
        lab.crash(engine).await;
        engine = lab.builder().resume_on_open(true).build().await.unwrap();
    }
    after(Duration::from_secs(1)).await;
    assert_eq!(runs(&engine).await.len(), 6);
    assert_eq!(lab.world.log(), ["tick"; 6]);
}

#[tokio::test(start_paused = true)]
async fn two_engines_start_one_run() {
    let lab = Lab::new();
    let (one, other) = (lab.engine().await, lab.engine().await);
    full_hour(&lab).await;
    for engine in [&one, &other] {
        engine.schedule("s", "0 * * * *", tick(1)).await.unwrap();
    }
    after(5 * HOUR).await;
    let ids = runs(&one).await;
    assert_eq!(ids.len(), 5);
    assert_eq!(lab.world.log(), ["tick"; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_delays_a_run_and_makes_no_second() {
    for effect in [Effect::Fail, Effect::FailAfter] {
        let store = Arc::new(Faulty::new(memory()));
        let lab = Lab::on(store.clone());
        let engine = lab.engine().await;
        full_hour(&lab).await;
        engine
            .schedule("s", "0 * * * *", tick(1))
            .missed(Missed::All)
            .await
            .unwrap();
        for _ in 0..3 {
            store.inject(Fault::next(On::AnyWrite, effect.clone()));
            after(HOUR).await;
        }
        store.heal();
        after(MINUTE).await;
        // One whose creation was not answered for is there, and nobody's until it is resumed.
        engine.resume_all().await.unwrap();
        after(MINUTE).await;
        assert_eq!(runs(&engine).await.len(), 3, "{effect:?}");
        assert_eq!(lab.world.log(), ["tick"; 3], "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn runs_of_a_schedule_take_places_and_fail_as_others_do() {
    let lab = Lab::new();
    let engine = lab.builder().max_running_runs(1).build().await.unwrap();
    full_hour(&lab).await;
    lab.world.tell("tick", Do::Hold);
    engine
        .schedule("s", "0 * * * *", tick(1).retries(0))
        .await
        .unwrap();
    after(2 * HOUR).await;
    let ids = runs(&engine).await;
    assert_eq!(engine.status(&ids[0]).await.unwrap(), Status::Running);
    assert_eq!(engine.status(&ids[1]).await.unwrap(), Status::Pending);
    lab.world.tell("tick", Do::Fail);
    after(HOUR).await;
    for id in &ids {
        assert_eq!(engine.status(id).await.unwrap(), Status::Failed);
    }
    assert_eq!(runs(&engine).await.len(), 3);
}

#[tokio::test]
async fn what_is_no_schedule_is_said_and_nothing_is_stored() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let error = engine
        .schedule("s", "0 25 * * *", tick(1))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidSchedule { .. }), "{error}");
    let error = engine.schedule("", "0 3 * * *", tick(1)).await.unwrap_err();
    assert!(matches!(error, Error::InvalidRunId(_)), "{error}");
    let error = engine
        .schedule("x".repeat(240), "0 3 * * *", tick(1))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidRunId(_)), "{error}");
    let bare = Engine::open("memory:").await.unwrap();
    let error = bare.schedule("s", "0 3 * * *", tick(1)).await.unwrap_err();
    assert!(matches!(error, Error::MissingResource { .. }), "{error}");
    assert!(engine.schedules().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_of_large_values_survives_maintenance() {
    #[step(name = "length")]
    async fn length(text: String) -> usize {
        text.len()
    }
    let lab = Lab::new();
    let engine = lab.engine().await;
    full_hour(&lab).await;
    engine
        .schedule("s", "0 3 * * *", length("x".repeat(200_000)))
        .await
        .unwrap();
    after(HOUR).await;
    engine.maintain().await.unwrap();
    // A day in all: whatever the time of day is, it has one time of the schedule.
    after(DAY - HOUR).await;
    let ids = runs(&engine).await;
    assert_eq!(ids.len(), 1);
    assert_eq!(engine.output::<usize>(&ids[0]).await.unwrap(), 200_000);
}
