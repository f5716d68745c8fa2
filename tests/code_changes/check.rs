//! `Engine::check`: what a program could not go on with is found before anything runs, and nothing is touched by looking.

use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::Recorded;
use keepstep::storage::memory;
use keepstep::{Cause, Certainty, Holder, Problem, Report};
use serde::{Deserialize, Serialize};

use super::{a_moment, lab, rename};
use crate::common::{Do, Lab, Tampered, World};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    price: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct NewOrder {
    lines: Vec<NewLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NewLine {
    price: u64,
}

#[step(name = "check/load")]
async fn load(id: u64, #[resource] world: &World) -> Result<Order, String> {
    world.act("load").await?;
    let lines = vec![Line { price: "3".into() }; 2];
    Ok(Order { id, lines })
}

#[step(name = "check/was", retries = 0)]
async fn was(order: Order, #[resource] world: &World) -> Result<u64, String> {
    world.act("was").await?;
    Ok(order.id)
}

/// As a program has it in which a field has another type.
#[step(name = "check/bad", retries = 0)]
async fn bad(order: NewOrder) -> u64 {
    order.lines.iter().map(|line| line.price).sum()
}

/// As a program has it that needs what no engine here has.
#[step(name = "check/res", retries = 0)]
async fn with_resource(order: Order, #[resource] _pool: &Pool) -> u64 {
    order.id
}

#[derive(Debug)]
struct Pool;

#[step(name = "check/gate")]
async fn gate(#[resource] world: &World) -> Result<(), String> {
    world.act("gate").await
}

#[step(name = "check/many")]
async fn many(orders: Vec<Order>) -> usize {
    orders.len()
}

#[step(name = "check/mony")]
async fn many_new(orders: Vec<NewOrder>) -> usize {
    orders.len()
}

fn order() -> Order {
    let lines = vec![Line { price: "3".into() }];
    Order { id: 17, lines }
}

async fn interrupted<T>(lab: &Lab, id: &str, workflow: Workflow<T>) {
    let engine = lab.engine().await;
    drop(engine.start(id, workflow).await.unwrap());
    a_moment().await;
    lab.crash(engine).await;
}

/// What a program says in which `check/was` is called otherwise.
async fn checked(store: &Tampered, lab: &Lab, names: &[(&'static str, &'static str)]) -> Report {
    rename(store, names);
    let engine = lab.engine().await;
    let report = engine.check().await.unwrap();
    lab.crash(engine).await;
    store.heal();
    report
}

fn only(report: &Report) -> &Problem {
    match report.problems() {
        [problem] => problem,
        _ => panic!("{report}"),
    }
}

fn argument(field: &str, problem: &Problem) -> bool {
    matches!(&problem.cause, Cause::Argument { step, version: 1, param, field: found, .. }
        if step == "check/bad" && param == "order" && found == field)
}

#[tokio::test(start_paused = true)]
async fn a_program_that_can_go_on_is_told_so_whatever_runs_wait_for() {
    let (_store, lab) = lab();
    lab.world.tell("gate", Do::Hold);
    interrupted(&lab, "held", was(order()).after(&gate())).await;
    interrupted(&lab, "event", was(event::<Order>("order"))).await;
    interrupted(&lab, "child", child("inner", was(load(3)).after(&gate()))).await;
    interrupted(&lab, "many", many([load(1), load(2)]).after(&gate())).await;
    let report = {
        let engine = lab.engine().await;
        // Runs that have ended are none of its business.
        engine.run("ended", was(load(1))).await.unwrap();
        engine.check().await.unwrap()
    };
    assert!(report.is_ok() && report.problems().is_empty(), "{report}");
    assert_eq!(report.runs, 5);
    report.assert_ok();
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_gone_is_found_with_the_runs_that_call_it() {
    let (store, lab) = lab();
    lab.world.tell("gate", Do::Hold);
    for n in 0..7 {
        interrupted(&lab, &format!("run-{n}"), was(order()).after(&gate())).await;
    }
    let report = checked(&store, &lab, &[("check/was", "check/xxx")]).await;
    let problem = only(&report);
    let expected = Cause::UnknownStep {
        step: "check/xxx".into(),
        version: 1,
        known: vec![],
    };
    assert_eq!(problem.cause, expected);
    assert_eq!(
        (problem.certainty, problem.holder, problem.count),
        (Certainty::Certain, Holder::Run, 7)
    );
    assert_eq!(problem.ids[..2], ["run-0", "run-1"]);
    assert!(!report.is_ok());
}

#[tokio::test(start_paused = true)]
async fn arguments_and_results_that_are_there_are_decoded() {
    let (store, lab) = lab();
    lab.world.tell("gate", Do::Hold);
    interrupted(&lab, "literal", was(order()).after(&gate())).await;
    interrupted(&lab, "result", was(load(3)).after(&gate())).await;
    let report = checked(&store, &lab, &[("check/was", "check/bad")]).await;
    let problem = only(&report);
    assert!(argument("lines[0].price", problem), "{report}");
    assert_eq!((problem.certainty, problem.count), (Certainty::Certain, 2));
    assert_eq!(problem.ids, ["literal", "result"]);
    let told = report.to_string();
    for part in [
        "`order`",
        "\"check/bad\"",
        "`lines[0].price`",
        "accepts = 1",
        "literal, result",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let json = serde_json::to_string(&report).unwrap();
    assert!(
        json.contains(r#""certainty":"certain","holder":"run","problem":"argument""#),
        "{json}"
    );
}

#[tokio::test(start_paused = true)]
async fn results_that_are_not_there_yet_are_told_apart_by_their_types() {
    let (store, lab) = lab();
    lab.world.tell("load", Do::Hold);
    interrupted(&lab, "run", was(load(3))).await;
    let report = checked(&store, &lab, &[("check/was", "check/bad")]).await;
    let problem = only(&report);
    assert!(argument("lines[].price", problem), "{report}");
    assert_eq!(problem.certainty, Certainty::Possible);
    assert!(report.is_ok(), "what is only possible is no failure");
    assert!(report.to_string().contains("perhaps: "), "{report}");
}

#[tokio::test(start_paused = true)]
async fn elements_of_containers_are_compared_too() {
    let (store, lab) = lab();
    lab.world.tell("load", Do::Hold);
    interrupted(&lab, "run", many([load(1), load(2)])).await;
    let report = checked(&store, &lab, &[("check/many", "check/mony")]).await;
    assert!(
        matches!(&only(&report).cause, Cause::Argument { field, .. } if field == "[].lines[].price"),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn events_are_judged_by_the_recorded_type_until_they_have_come() {
    let (store, lab) = lab();
    interrupted(&lab, "run", was(event::<Order>("order"))).await;
    let names = [("check/was", "check/bad")];
    let report = checked(&store, &lab, &names).await;
    assert_eq!(only(&report).certainty, Certainty::Possible, "{report}");
    // The message is there, and the run has not read it: it is known.
    let engine = lab.engine().await;
    engine.send_event("run", "order", &order()).await.unwrap();
    lab.crash(engine).await;
    let report = checked(&store, &lab, &names).await;
    let problem = only(&report);
    assert_eq!(problem.certainty, Certainty::Certain, "{report}");
    assert!(argument("lines[0].price", problem), "{report}");
}

#[tokio::test(start_paused = true)]
async fn failed_runs_are_a_class_of_their_own() {
    let (store, lab) = lab();
    lab.world.tell("was", Do::Fail);
    let engine = lab.engine().await;
    engine.run("run", was(order())).await.unwrap_err();
    lab.crash(engine).await;
    let report = checked(&store, &lab, &[("check/was", "check/bad")]).await;
    assert_eq!(only(&report).holder, Holder::FailedRun);
    assert!(report.is_ok());
    assert!(report.to_string().contains("(failed run run)"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn the_plans_of_children_that_are_not_begun_are_looked_into() {
    let (store, lab) = lab();
    lab.world.tell("gate", Do::Hold);
    interrupted(&lab, "run", child("inner", was(order())).after(&gate())).await;
    let report = checked(&store, &lab, &[("check/was", "check/bad")]).await;
    assert!(argument("lines[0].price", only(&report)), "{report}");
    assert_eq!(only(&report).ids, ["run"]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_resource_is_found() {
    let (store, lab) = lab();
    lab.world.tell("gate", Do::Hold);
    interrupted(&lab, "run", was(order()).after(&gate())).await;
    let names = [("check/was", "check/res")];
    let report = checked(&store, &lab, &names).await;
    assert!(
        matches!(&only(&report).cause, Cause::Resource { step, param, .. } if step == "check/res" && param == "_pool"),
        "{report}"
    );
    rename(&store, &names);
    let engine = lab.builder().resource(Pool).build().await.unwrap();
    engine.check().await.unwrap().assert_ok();
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_run_is_a_problem_and_keeps_no_other_from_being_checked() {
    let (store, lab) = lab();
    lab.world.tell("gate", Do::Hold);
    interrupted(&lab, "damaged", gate()).await;
    interrupted(&lab, "sound", was(order()).after(&gate())).await;
    store.with(|run, entry| (run.as_str() != "damaged").then_some(entry));
    let engine = lab.engine().await;
    let report = engine.check().await.unwrap();
    assert!(
        matches!(&only(&report).cause, Cause::Damaged { message } if message.contains("hole at entry 0")),
        "{report}"
    );
    assert_eq!(report.runs, 2);
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_argument_that_is_missing_is_a_problem_and_keeps_no_other_from_being_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let world = World::default();
    world.tell("gate", Do::Hold);
    let builder = || Engine::builder().resource(world.clone());
    let engine = builder().open(path).await.unwrap();
    let lines = vec![Line { price: "3".into() }; 20_000];
    let long = Order { id: 1, lines };
    for (id, order) in [("long", long), ("short", order())] {
        drop(engine.start(id, was(order).after(&gate())).await.unwrap());
    }
    engine.shutdown().await.unwrap();
    // It was kept in a file of its own.
    std::fs::remove_dir_all(dir.path().join("data/blobs")).unwrap();
    let engine = builder().open(path).await.unwrap();
    let report = engine.check().await.unwrap();
    let problem = only(&report);
    assert!(
        matches!(&problem.cause, Cause::Damaged { message } if message.contains("is missing")),
        "{report}"
    );
    assert_eq!((&*problem.ids, report.runs), (&["long".to_owned()][..], 2));
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_runs_are_read_page_by_page_and_nothing_is_written() {
    let recorded = Arc::new(Recorded::new(memory()));
    let lab = Lab::on(recorded.clone());
    lab.world.tell("gate", Do::Hold);
    let engine = lab.engine().await;
    for n in 0..600 {
        drop(
            engine
                .start(format!("run-{n}"), was(order()).after(&gate()))
                .await
                .unwrap(),
        );
    }
    a_moment().await;
    lab.crash(engine).await;
    lab.world.log();
    let engine = lab.engine().await;
    let before = recorded.log().len();
    let report = engine.check().await.unwrap();
    assert_eq!(report.runs, 600);
    report.assert_ok();
    assert_eq!(recorded.log().len(), before, "something was written");
    assert!(lab.world.log().is_empty(), "something was run");
    // Nobody has taken them over.
    assert_eq!(engine.status("run-7").await.unwrap(), Status::Resumable);
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_store_on_disk_is_checked_by_its_path_and_a_wrong_path_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let missing = keepstep::testing::check_store(path).await.unwrap_err();
    assert!(missing.to_string().contains("data"), "{missing}");
    assert!(!std::path::Path::new(path).exists());
    let engine = Engine::builder()
        .resource(World::default())
        .open(path)
        .await
        .unwrap();
    engine.run("run", was(load(1))).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    keepstep::testing::check_store(path)
        .await
        .unwrap()
        .assert_ok();
}
