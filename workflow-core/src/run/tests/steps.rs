//! Runs end as their programs say, having run the bodies that it takes, and no other ones again.

use keepstep_storage::Timestamp;
use proptest::prelude::*;

use super::cases;
use super::programs::Index;
use super::script::{Script, catch, plan, step, text, value};
use super::sim::Sim;
use super::strategy::programs;
use crate::run::{Event, Run, Settled, StepId};

proptest! {
    #![proptest_config(cases(2000))]

    /// The driver checks every body that starts, the audit every count after each event.
    #[test]
    fn a_run_ends_as_its_program_says(program in programs(), seed: u64) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed);
        let end = sim.drive();
        sim.check_end(&end);
    }
}

#[test]
fn a_node_that_is_used_twice_runs_once() {
    let mut script = Script::new(&[
        step("a", &[]),
        step("b", &["a"]),
        step("c", &["a", "a"]),
        step("d", &["b", "c", "b"]),
    ]);
    assert_eq!(script.start(), ["a"]);
    assert_eq!(script.progress(), [4, 0, 1, 3, 0]);
    script.succeeds("a");
    assert_eq!(script.start(), ["b", "c"]);
    script.succeeds("c");
    assert_eq!(script.start(), [""; 0]);
    script.succeeds("b");
    assert_eq!(script.start(), ["d"]);
    script.succeeds("d");
    assert_eq!(script.output().as_deref(), Some("d"));
    assert_eq!(script.progress(), [4, 4, 0, 0, 0]);
}

#[test]
fn inputs_come_in_the_order_of_the_arguments() {
    let mut script = Script::new(&[step("a", &[]), step("b", &[]), step("c", &["b", "a", "b"])]);
    script.start();
    script.succeeds("a");
    script.succeeds("b");
    let ready = script.run.take_ready();
    let start = script.run.start(ready[0]).unwrap();
    assert_eq!(start.inputs, [text("b"), text("a"), text("b")]);
    assert_eq!(start.attempt, 1);
    assert!(script.run.start(ready[0]).is_none(), "it is running");
}

#[test]
fn a_step_that_comes_after_another_waits_and_does_not_get_its_result() {
    let mut script = Script::new(&[step("a", &[]), step("b", &[]).after(&["a", "a"])]);
    assert_eq!(script.start(), ["a"]);
    script.succeeds("a");
    let ready = script.run.take_ready();
    assert_eq!(script.run.start(ready[0]).unwrap().inputs, []);
}

#[test]
fn a_workflow_of_values_alone_is_finished_at_once() {
    let script = Script::new(&[value("v")]);
    assert_eq!(script.run.settle(true), Settled::Successful);
    assert_eq!(script.output().as_deref(), Some("plain"));
    assert_eq!(script.progress(), [0; 5]);
    let script = Script::new(&[value("v"), catch("c", "v")]);
    let output = script.run.output().unwrap().decode::<Result<String, ()>>();
    assert_eq!(output.unwrap().unwrap(), "plain");
}

#[test]
fn a_step_that_failed_runs_again_when_it_is_due_and_not_before() {
    let mut script = Script::new(&[step("a", &[])]);
    for (failed, due_at) in [(1, 1000), (2, 3000)] {
        script.start();
        script.attempt_fails("a", Some(due_at));
        assert_eq!(script.run.next_timer(), Some(Timestamp(due_at)));
        let waiting = Settled::Waiting(Some(Timestamp(due_at)));
        assert_eq!(script.run.settle(true), waiting);
        assert_eq!(script.run.attempts(script.id("a")), (None, failed));
        script.run.retry_due(Timestamp(due_at - 1));
        assert_eq!(script.start(), [""; 0]);
        script.run.retry_due(Timestamp(due_at));
        assert_eq!(script.run.next_timer(), None);
        let ready = script.run.take_ready();
        assert_eq!(script.run.start(ready[0]).unwrap().attempt, failed + 1);
    }
    script.fails("a");
    script.apply(Event::RunFailed);
    assert_eq!(script.run.failure().unwrap().attempts, 3);
}

#[test]
fn a_timer_and_the_attempts_survive_crash_and_compaction() {
    for restores in [false, true] {
        let mut script = Script::new(&[step("a", &[])]);
        script.start();
        script.attempt_fails("a", Some(1000));
        if restores {
            script.restore();
        } else {
            script.crash();
        }
        assert_eq!(script.start(), [""; 0]);
        script.run.retry_due(Timestamp(1000));
        let ready = script.run.take_ready();
        assert_eq!(script.run.start(ready[0]).unwrap().attempt, 2);
    }
}

#[test]
fn a_step_that_was_stopped_is_ready_again() {
    let mut script = Script::new(&[step("a", &[])]);
    script.start();
    script.run.stopped(script.id("a"));
    assert_eq!(script.progress(), [1, 0, 0, 1, 0]);
    assert_eq!(script.start(), ["a"]);
}

#[test]
fn the_first_of_the_steps_that_are_ready_stands_last() {
    let mut script = Script::new(&[
        step("a", &[]),
        step("b", &[]),
        step("c", &["a"]),
        step("d", &["a"]),
        step("e", &["b", "c", "d"]),
    ]);
    assert_eq!(script.start(), ["a", "b"]);
    script.succeeds("a");
    assert_eq!(script.start(), ["c", "d"]);
}

#[test]
fn a_value_is_let_go_when_its_last_user_is_done() {
    let mut script = Script::new(&[
        step("a", &[]),
        step("b", &["a"]),
        step("c", &["a"]),
        step("d", &["b", "c"]),
    ]);
    let empty = script.run.live_bytes();
    let bytes = text("a").len() as u64;
    script.succeeds("a");
    assert_eq!(script.run.live_bytes(), empty + bytes);
    script.succeeds("b");
    assert_eq!(script.run.live_bytes(), empty + 2 * bytes);
    script.succeeds("c");
    assert_eq!(script.run.live_bytes(), empty + 2 * bytes);
    script.succeeds("d");
    assert_eq!(script.run.live_bytes(), 0);
}

#[test]
fn a_step_whose_value_is_not_stored_runs_again_only_if_something_still_needs_it() {
    let parts = [
        step("a", &[]),
        step("b", &["a"]),
        step("c", &["a"]),
        step("d", &["b", "c"]),
    ];
    let mut script = Script::new(&parts);
    script.start();
    script.runs("a");
    assert_eq!(script.start(), ["b", "c"]);
    script.succeeds("b");
    script.crash();
    assert_eq!(script.start(), ["a"]);
    script.runs("a");
    assert_eq!(script.start(), ["c"]);
    script.succeeds("c");
    script.crash();
    assert_eq!(script.start(), ["d"]);
    assert_eq!(script.progress(), [4, 3, 1, 0, 0]);
}

#[test]
fn the_inputs_of_a_value_that_is_not_stored_are_kept_until_nothing_needs_it() {
    let mut script = Script::new(&[step("a", &[]), step("b", &["a"]), step("c", &["b"])]);
    script.start();
    script.succeeds("a");
    script.start();
    script.runs("b");
    script.restore();
    assert_eq!(script.start(), ["b"]);
    script.runs("b");
    script.start();
    script.succeeds("c");
    assert_eq!(script.run.live_bytes(), 0);
}

#[test]
fn a_result_that_becomes_the_plans_result_is_always_stored() {
    let script = Script::new(&[
        step("a", &[]),
        step("b", &["a"]),
        catch("c", "b"),
        catch("d", "c"),
    ]);
    assert!(!script.run.must_store(script.id("a")));
    // A catch hands it on.
    assert!(script.run.must_store(script.id("b")));
}

#[test]
fn results_of_named_nodes_are_told_once() {
    let mut script = Script::new(&[
        value("v").named("plain value"),
        step("a", &["v"]).named("first"),
        catch("c", "a").named("caught"),
        step("b", &["c"]),
    ]);
    let named = script.run.take_named();
    assert_eq!(named, [("plain value".into(), text("plain"))]);
    script.succeeds("first");
    let named = script.run.take_named();
    let caught = text("first").ok();
    assert_eq!(
        named,
        [("first".into(), text("first")), ("caught".into(), caught)]
    );
    assert!(script.run.take_named().is_empty());
}

#[test]
fn the_last_result_of_a_watched_step_is_found_by_the_last_part_of_its_path() {
    for (watched, found) in [("shop::pay", Some("2")), ("pay", Some("2")), ("ay", None)] {
        let mut run = Run::with_history(Some(watched.to_owned()));
        let mut plan = plan(&[
            step("first", &[]),
            step("second", &["first"]),
            step("b", &["second"]),
        ]);
        for step in &mut plan.steps[..2] {
            step.name = "shop::pay".into();
        }
        let plan = plan.into();
        run.apply(Event::Created { plan }).unwrap();
        for (id, value) in [(0, "1"), (1, "2"), (2, "3")] {
            let (step, value) = (StepId(id), text(value));
            run.apply(Event::StepSucceeded { step, value }).unwrap();
        }
        assert_eq!(run.watched_result().cloned(), found.map(text), "{watched}");
    }
}
