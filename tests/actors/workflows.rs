//! Methods that return workflows, and calls that are steps of one.

use std::time::Duration;

use keepstep::Status;
use keepstep::prelude::*;

use crate::common::{Do, Lab};
use crate::troupe::{Counter, sum};

#[tokio::test]
async fn the_state_is_committed_then_the_workflow_runs_and_others_do_not_wait() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("bill", Do::Hold);
    let bill = tokio::spawn(counter.bill("bill").into_future());
    lab.world.until("bill").await;
    assert_eq!(counter.get().await.unwrap(), 1);
    assert_eq!(counter.incr().await.unwrap(), 2);
    let runs = engine.list(Status::Running).await.unwrap().runs;
    assert_eq!(runs.len(), 1);
    assert!(
        runs[0].id.starts_with("actor/counter/c/bill/"),
        "{}",
        runs[0].id
    );
    lab.world.tell("bill", Do::Succeed);
    assert_eq!(bill.await.unwrap().unwrap(), 100);
    // Actors have their own listing, apart from runs.
    assert_eq!(
        engine
            .list(keepstep::Filter::all())
            .await
            .unwrap()
            .runs
            .len(),
        1
    );
}

#[tokio::test]
async fn a_finished_workflow_is_a_value_and_needs_no_run() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    assert_eq!(counter.finished().await.unwrap(), 1);
    assert!(
        engine
            .list(keepstep::Filter::all())
            .await
            .unwrap()
            .runs
            .is_empty()
    );
}

#[tokio::test]
async fn a_workflow_that_fails_is_told_and_the_state_stays_committed() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("bill", Do::Fail);
    let error = counter.bill("bill").id("b").await.unwrap_err();
    let Error::Failed { run, error } = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.message, "bill failed");
    assert_eq!(counter.get().await.unwrap(), 1);
    // The same call again is the same run, which can be resumed.
    let again = counter.bill("bill").id("b").await.unwrap_err();
    assert!(
        matches!(again, Error::Failed { run: ref same, .. } if *same == run),
        "{again}"
    );
    lab.world.tell("bill", Do::Succeed);
    assert_eq!(
        engine.resume::<u64>(&run).await.unwrap().await.unwrap(),
        100
    );
    assert_eq!(counter.bill("bill").id("b").await.unwrap(), 100);
    assert_eq!(counter.get().await.unwrap(), 1);
}

#[tokio::test]
async fn calls_behind_an_exclusive_one_wait_for_its_workflow() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("settle", Do::Hold);
    let settled = tokio::spawn(counter.settle("settle").into_future());
    lab.world.until("settle").await;
    let behind = tokio::spawn(counter.act("behind").into_future());
    assert_eq!(counter.get().await.unwrap(), 1, "queries do not wait");
    tokio::task::yield_now().await;
    assert_eq!(lab.world.log(), ["settle"]);
    lab.world.tell("settle", Do::Succeed);
    assert_eq!(settled.await.unwrap().unwrap(), 100);
    assert_eq!(behind.await.unwrap().unwrap(), 2);
    // Also if it fails.
    lab.world.tell("settle", Do::Fail);
    let failed = counter.settle("settle").await.unwrap_err();
    assert!(matches!(failed, Error::Failed { .. }), "{failed}");
    assert_eq!(counter.incr().await.unwrap(), 4);
}

#[tokio::test]
async fn exclusiveness_survives_a_crash() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("settle", Do::Hold);
    counter.settle("settle").send().await.unwrap();
    lab.world.until("settle").await;
    counter.act("behind").send().await.unwrap();
    drop(counter);
    lab.crash(engine).await;
    lab.world.log();

    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    // Nobody resumed the workflow: the actor does.
    lab.world.until("settle").await;
    assert_eq!(lab.world.log(), ["settle"]);
    lab.world.tell("settle", Do::Succeed);
    assert_eq!(counter.incr().await.unwrap(), 3);
    assert_eq!(lab.world.log(), ["behind"]);
}

#[tokio::test]
async fn an_exclusive_call_lets_those_of_its_own_workflow_through() {
    let lab = Lab::new();
    let engine = lab
        .builder()
        .max_concurrent_steps(1)
        .max_running_runs(1)
        .build()
        .await
        .unwrap();
    let me = Counter::on(&engine).get_or_create("me").await.unwrap();
    assert_eq!(me.twice().await.unwrap(), 5);
    assert_eq!(me.incr().await.unwrap(), 4);
}

#[tokio::test]
async fn calls_are_steps_of_a_workflow() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    let one = counter.incr().step();
    // A step may be given what another yields, and each happens once.
    let w = sum(counter.add(&one).step(), &one);
    assert_eq!(engine.run("w", &w).await.unwrap(), 3);
    assert_eq!(engine.run("w", &w).await.unwrap(), 3);
    assert_eq!(counter.get().await.unwrap(), 2);
    assert_eq!(engine.run("q", counter.get().step()).await.unwrap(), 2);
    assert_eq!(engine.run("v", counter.incr().step()).await.unwrap(), 3);
    let error = counter.add(one).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "argument `n` of step \"counter::add\" cannot be stored: it is a workflow: make the call a step with `.step()`"
    );
}

#[tokio::test]
async fn a_call_that_fails_fails_its_step_once() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("bad", Do::Panic);
    let error = engine
        .run("w", counter.act("bad").step())
        .await
        .unwrap_err();
    let Error::Failed { error, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (error.kind, error.attempts),
        (keepstep::StepErrorKind::Panic, 1)
    );
    assert_eq!(lab.world.log(), ["bad"]);
    // A run that is resumed tries again.
    lab.world.tell("bad", Do::Succeed);
    assert_eq!(engine.resume::<u64>("w").await.unwrap().await.unwrap(), 1);
}

#[tokio::test]
async fn a_step_that_waits_for_a_call_keeps_nobody_from_a_place() {
    let lab = Lab::new();
    let engine = lab
        .builder()
        .max_concurrent_steps(1)
        .max_running_runs(1)
        .build()
        .await
        .unwrap();
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    // The workflow of the call needs the place of the step that waits for it.
    let w = sum(counter.bill("a").step(), counter.settle("b").step());
    assert_eq!(engine.run("w", w).await.unwrap(), 300);
}

#[tokio::test]
async fn a_step_that_is_cut_short_calls_once() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("bill", Do::Hold);
    let w = counter.bill("bill").step();
    let _ = engine.start("w", &w).await.unwrap();
    lab.world.until("bill").await;
    drop(counter);
    drop(w);
    lab.crash(engine).await;

    lab.world.tell("bill", Do::Succeed);
    let engine = lab.engine().await;
    let handle = engine.resume::<u64>("w").await.unwrap();
    assert_eq!(handle.await.unwrap(), 100);
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    assert_eq!(counter.get().await.unwrap(), 1);
}

#[step]
async fn inside() -> anyhow::Result<u64> {
    let counter = Counter::get_or_create("made in a step").await?;
    counter.incr().send().await?;
    Ok(counter.incr().await?)
}

#[tokio::test]
async fn inside_a_step_actors_are_those_of_its_engine() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    assert_eq!(engine.run("w", inside()).await.unwrap(), 2);
    let counter = Counter::on(&engine)
        .get_actor("made in a step")
        .await
        .unwrap();
    assert_eq!(counter.get().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_sent_call_runs_its_workflow_too() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    counter
        .bill("bill")
        .delay(Duration::from_secs(60))
        .send()
        .await
        .unwrap();
    lab.world.until("bill").await;
    assert_eq!(counter.get().await.unwrap(), 1);
}

async fn only_run(engine: &Engine) -> String {
    let runs = engine.list(keepstep::Filter::all()).await.unwrap().runs;
    assert_eq!(runs.len(), 1);
    runs[0].id.clone()
}

/// What does not wait for somebody's doing is done within an hour of paused time.
async fn after_an_hour<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(3600), future)
        .await
        .ok()
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_resume_the_suspended_workflow_that_it_waits_behind() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("settle", Do::Hold);
    let settled = tokio::spawn(counter.settle("settle").into_future());
    lab.world.until("settle").await;
    let early = tokio::spawn(counter.incr().into_future());
    let run = only_run(&engine).await;
    engine.suspend(&run).await.unwrap();
    lab.world.log();
    // Whoever awaits is told, and what was sent, or is a step, waits until somebody resumes the run.
    for call in [settled, early] {
        let error = call.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Suspended { run: suspended, .. } if suspended.as_str() == run),
            "{error}"
        );
    }
    counter.add(10).send().await.unwrap();
    let step = engine.start("step", counter.add(100).step()).await.unwrap();
    let waiting = engine.start("waiting", counter.get().step()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), 1);
    let error = counter.incr().await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error}");
    let error = counter.delete().await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error}");
    assert!(after_an_hour(step.clone().into_future()).await.is_none());
    assert_eq!(engine.status(&run).await.unwrap(), Status::Suspended);
    assert!(lab.world.log().is_empty(), "nobody has resumed it");

    lab.world.tell("settle", Do::Succeed);
    let resumed = engine.resume::<u64>(&run).await.unwrap();
    assert_eq!(resumed.await.unwrap(), 100);
    assert_eq!(lab.world.log(), ["settle"]);
    assert_eq!(
        after_an_hour(step.into_future()).await.unwrap().unwrap(),
        111
    );
    assert_eq!(counter.incr().await.unwrap(), 112);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_workflow_that_is_canceled_lets_calls_go_on() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("settle", Do::Hold);
    counter.settle("settle").send().await.unwrap();
    lab.world.until("settle").await;
    let run = only_run(&engine).await;
    engine.suspend(&run).await.unwrap();
    counter.add(10).send().await.unwrap();
    drop(counter);
    lab.crash(engine).await;
    lab.world.log();

    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    let counter = Counter::on(&engine).get_actor("c").await.unwrap();
    let error = counter.incr().await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error}");
    assert_eq!(engine.status(&run).await.unwrap(), Status::Suspended);
    engine.cancel(&run).await.unwrap();
    let incr = after_an_hour(counter.incr().into_future()).await;
    assert_eq!(incr.unwrap().unwrap(), 12);
    assert!(lab.world.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_made_again_does_not_resume_the_workflow_it_returned() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("bill", Do::Hold);
    let step = engine
        .start("step", counter.bill("bill").step())
        .await
        .unwrap();
    let bill = tokio::spawn(counter.bill("bill").id("b").into_future());
    lab.world.until("bill").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let runs = engine.list(Status::Running).await.unwrap().runs;
    let bills: Vec<_> = runs
        .into_iter()
        .map(|run| run.id)
        .filter(|id| id != "step")
        .collect();
    assert_eq!(bills.len(), 2);
    for run in &bills {
        engine.suspend(run).await.unwrap();
    }
    assert!(matches!(bill.await.unwrap(), Err(Error::Suspended { .. })));
    lab.world.log();
    let again = counter.bill("bill").id("b").await.unwrap_err();
    assert!(matches!(again, Error::Suspended { .. }), "{again}");
    // The step waits, also after a crash.
    assert!(after_an_hour(step.clone().into_future()).await.is_none());
    drop((counter, step));
    lab.crash(engine).await;
    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    let step = engine.resume::<u64>("step").await.unwrap();
    assert!(after_an_hour(step.clone().into_future()).await.is_none());
    assert!(lab.world.log().is_empty(), "nobody has resumed it");
    lab.world.tell("bill", Do::Succeed);
    for run in &bills {
        assert_eq!(engine.status(run).await.unwrap(), Status::Suspended);
        let _ = engine.resume::<u64>(run).await.unwrap();
    }
    assert_eq!(
        after_an_hour(step.into_future()).await.unwrap().unwrap() % 100,
        0
    );
}
