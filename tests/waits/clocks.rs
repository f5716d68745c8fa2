//! The wall clock is set while runs wait. What is to last for a while lasts no longer because of that; dates are the clock's.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{Storage, memory};
use keepstep::{StepErrorKind, event};
use tokio::time::Instant;

use crate::common::{Do, Lab, World};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[step(retries = 1, backoff = "2s..2s")]
async fn note(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

/// Runs a workflow, sets the clock after a while, and returns how long the run took.
async fn took(lab: &Lab, workflow: Workflow<()>, set: impl AsyncFn(&Lab)) -> Duration {
    let engine = lab.engine().await;
    let start = Instant::now();
    let run = engine.start("run", workflow).await.unwrap();
    set(lab).await;
    run.await.unwrap();
    let took = start.elapsed();
    engine.shutdown().await.unwrap();
    took
}

async fn back_after(lab: &Lab, time: Duration) {
    tokio::time::sleep(time).await;
    lab.clock.set(lab.clock.now() - HOUR);
}

fn about(took: Duration, expected: Duration) {
    assert!(took >= expected && took < expected + SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sleep_lasts_no_longer_when_the_clock_is_set_back() {
    // In memory, and outside of it.
    for seconds in [4, 60, 1000, 100_000] {
        let (lab, time) = (Lab::new(), seconds * SECOND);
        let set = async |lab: &Lab| back_after(lab, time / 2).await;
        about(took(&lab, sleep(time), set).await, time);
    }
}

#[tokio::test(start_paused = true)]
async fn sleeps_and_limits_of_one_run_last_as_long_as_they_should_one_after_the_other() {
    let lab = Lab::new();
    let mut naps = sleep(4 * SECOND);
    for seconds in [4, 60, 1, 100, 3] {
        naps = sleep(seconds * SECOND).after(&naps);
    }
    let set = async |lab: &Lab| {
        back_after(lab, 2 * SECOND).await;
        back_after(lab, 50 * SECOND).await;
    };
    let naps = naps.timeout(24 * HOUR);
    about(took(&lab, naps, set).await, 172 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_pause_between_attempts_lasts_no_longer_when_the_clock_is_set_back() {
    let lab = Lab::new();
    lab.world.tell("a", Do::FailTimes(1));
    let engine = lab.engine().await;
    let start = Instant::now();
    let run = engine.start("run", note("a".to_owned())).await.unwrap();
    lab.world.until("a").await;
    back_after(&lab, SECOND / 2).await;
    run.await.unwrap();
    assert_eq!(lab.world.log(), ["a", "a"]);
    let took = start.elapsed();
    assert!(took >= SECOND && took < 3 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_comes_no_later_when_the_clock_is_set_back() {
    for seconds in [4, 60] {
        let lab = Lab::new();
        let engine = lab.engine().await;
        let start = Instant::now();
        let waits = event::<()>("never").timeout(seconds * SECOND);
        let run = engine.start("run", waits).await.unwrap();
        back_after(&lab, seconds * SECOND / 2).await;
        let error = run.await.unwrap_err();
        let Error::Failed { error, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(error.kind, StepErrorKind::Timeout);
        about(start.elapsed(), seconds * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sleep_is_due_when_the_clock_is_set_forward_and_a_date_is_the_clocks() {
    let lab = Lab::new();
    let set = async |lab: &Lab| {
        tokio::time::sleep(SECOND).await;
        lab.clock.set(lab.clock.now() + 2 * HOUR);
    };
    about(took(&lab, sleep(HOUR), set).await, SECOND);
    for time in [4 * SECOND, HOUR] {
        let lab = Lab::new();
        let date = sleep_until(lab.clock.now() + time);
        let set = async |lab: &Lab| back_after(lab, time / 2).await;
        about(took(&lab, date, set).await, time + HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_while_due_times_are_read_makes_nothing_go_round() {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(Arc::clone(&store) as Arc<dyn Storage>);
    let engine = lab.engine().await;
    let start = Instant::now();
    let run = engine.start("run", sleep(600 * SECOND)).await.unwrap();
    // It waits outside memory, and its time is near enough to be known there.
    tokio::time::sleep(540 * SECOND).await;
    store.inject(Fault::next(Call::Read, Effect::Delay));
    lab.clock.set(lab.clock.now() + HOUR);
    store.until_held(1).await;
    lab.clock.set(lab.clock.now() - HOUR);
    store.release_held();
    run.await.unwrap();
    about(start.elapsed(), 600 * SECOND);
    engine.shutdown().await.unwrap();
}
