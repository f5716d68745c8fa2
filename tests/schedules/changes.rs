//! Deploys: a schedule is said again, with something changed, by several processes, after times were missed.

use keepstep::prelude::*;
use keepstep::{Filter, Missed};

use crate::common::Lab;
use crate::{HOUR, MINUTE, after, full_hour, runs, tick};

/// The outputs of all runs, in the order of their ids.
async fn outputs(engine: &Engine) -> Vec<u64> {
    let page = engine.list(Filter::all().limit(1000)).await.unwrap();
    let mut ids: Vec<_> = page.runs.into_iter().map(|run| run.id).collect();
    ids.sort();
    let mut outputs = Vec::new();
    for id in ids {
        outputs.push(engine.output(&id).await.unwrap());
    }
    outputs
}

/// A schedule was said, one time had its run, and some were missed; then it is said again. What the runs gave, after a minute and
/// after another hour.
async fn deploy(missed: Missed, cron: &str) -> (Vec<u64>, Vec<u64>) {
    let lab = Lab::new();
    let engine = lab.engine().await;
    full_hour(&lab).await;
    let old = engine.schedule("s", "0 * * * *", tick(1));
    old.missed(missed).await.unwrap();
    after(HOUR).await;
    lab.crash(engine).await;
    after(3 * HOUR + 12 * MINUTE).await;
    let engine = lab.engine().await;
    let new = engine.schedule("s", cron, tick(2));
    new.missed(missed).await.unwrap();
    after(MINUTE).await;
    let first = outputs(&engine).await;
    after(HOUR).await;
    (first, outputs(&engine).await)
}

#[tokio::test(start_paused = true)]
async fn times_that_are_due_when_the_workflow_changes_have_runs_of_the_new_one() {
    let (first, later) = deploy(Missed::All, "0 * * * *").await;
    assert_eq!(first, [1, 2, 2, 2]);
    assert_eq!(later, [1, 2, 2, 2, 2]);
    let (first, later) = deploy(Missed::One, "0 * * * *").await;
    assert_eq!(first, [1, 2]);
    assert_eq!(later, [1, 2, 2]);
    let (first, later) = deploy(Missed::Skip, "0 * * * *").await;
    assert_eq!(first, [1]);
    assert_eq!(later, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn times_that_are_due_when_the_expression_changes_are_those_of_the_old_one() {
    // It is 12 minutes past the hour.
    let (first, later) = deploy(Missed::All, "5,30 * * * *").await;
    assert_eq!(first, [1, 2, 2, 2]);
    assert_eq!(later, [1, 2, 2, 2, 2, 2]);
    let (first, later) = deploy(Missed::One, "30 * * * *").await;
    assert_eq!(first, [1, 2]);
    assert_eq!(later, [1, 2, 2]);
    let (first, later) = deploy(Missed::Skip, "30 * * * *").await;
    assert_eq!(first, [1]);
    assert_eq!(later, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn many_times_that_are_due_when_a_schedule_changes_twice_have_a_run_each() {
    let lab = Lab::new();
    let builder = || lab.builder().max_running_runs(1).max_pending_runs(20);
    let engine = builder().build().await.unwrap();
    full_hour(&lab).await;
    let old = engine.schedule("s", "* * * * *", tick(1));
    old.missed(Missed::All).await.unwrap();
    lab.crash(engine).await;
    after(4 * HOUR).await;
    lab.world.tell("tick", crate::Do::Hold);
    // More than go into the queue, and into a commit.
    let engine = builder().build().await.unwrap();
    let new = engine.schedule("s", "*/2 * * * *", tick(2));
    new.missed(Missed::All).await.unwrap();
    after(MINUTE / 4).await;
    lab.crash(engine).await;
    lab.world.tell("tick", crate::Do::Succeed);
    let engine = builder().resume_on_open(true).build().await.unwrap();
    let new = engine.schedule("s", "0 0 1 1 *", tick(3));
    new.missed(Missed::All).await.unwrap();
    after(HOUR).await;
    let outputs = outputs(&engine).await;
    assert_eq!(outputs.len(), 240, "{outputs:?}");
    assert!(outputs.contains(&2) && outputs.contains(&3) && outputs.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn engines_that_start_together_say_a_changed_schedule_without_errors() {
    let lab = Lab::new();
    let engines = [lab.engine().await, lab.engine().await, lab.engine().await];
    full_hour(&lab).await;
    let crons = ["0 * * * *", "30 * * * *", "15 * * * *", "45 * * * *"];
    for (n, cron) in (0..40).zip(crons.into_iter().cycle()) {
        let [one, two, three] = &engines;
        let said = tokio::join!(
            one.schedule("s", cron, tick(n)).into_future(),
            two.schedule("s", cron, tick(n)).into_future(),
            three.schedule("s", cron, tick(n)).into_future(),
        );
        let paused = tokio::join!(
            one.pause_schedule("s"),
            two.pause_schedule("s"),
            three.pause_schedule("s"),
        );
        let resumed = tokio::join!(
            one.resume_schedule("s"),
            two.resume_schedule("s"),
            three.resume_schedule("s"),
        );
        for (one, two, three) in [said, paused, resumed] {
            assert_eq!([one, two, three].map(Result::unwrap), [(); 3]);
        }
    }
    after(2 * HOUR).await;
    assert_eq!(runs(&engines[0]).await.len(), 2);
    assert_eq!(lab.world.log(), ["tick"; 2]);
}
