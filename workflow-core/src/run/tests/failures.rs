//! A failure goes to the nearest catch, or it fails the run; what nobody needs any more is stopped.

use keepstep_storage::Timestamp;

use super::script::{Script, catch, step, value};
use crate::error::{StepErrorKind, SuspendReason};
use crate::run::{Event, Settled};

#[test]
fn an_uncaught_failure_stops_what_is_running_and_fails_the_run() {
    let mut script = Script::new(&[step("a", &[]), step("b", &[]), step("c", &["a", "b"])]);
    assert_eq!(script.start(), ["a", "b"]);
    script.fails("a");
    assert_eq!(script.stops(), ["b"]);
    assert_eq!(script.run.settle(false), Settled::Waiting(None));
    assert_eq!(script.run.settle(true), Settled::By(Event::RunFailed));
    assert_eq!(script.run.failure(), None);
    script.run.stopped(script.id("b"));
    script.apply(Event::RunFailed);
    assert_eq!(script.run.settle(true), Settled::Stopped);
    assert_eq!(script.run.failure().unwrap().step, "a");
    assert_eq!(script.start(), [""; 0]);
    assert_eq!(script.progress(), [3, 0, 0, 2, 1]);
}

#[test]
fn the_first_of_two_failures_fails_the_run() {
    let mut script = Script::new(&[step("a", &[]), step("b", &[]), step("c", &["a", "b"])]);
    script.start();
    script.fails("b");
    script.fails("a");
    script.apply(Event::RunFailed);
    assert_eq!(script.run.failure().unwrap().step, "b");
    assert_eq!(script.progress(), [3, 0, 0, 1, 2]);
}

#[test]
fn both_failed_steps_of_a_resumed_run_run_again_and_the_finished_one_does_not() {
    let parts = [
        step("a", &[]),
        step("b", &[]),
        step("c", &[]),
        step("d", &["a", "b", "c"]),
    ];
    let mut script = Script::new(&parts);
    script.start();
    script.fails("b");
    script.succeeds("c");
    script.fails("a");
    script.apply(Event::RunFailed);
    script.crash();
    script.apply(Event::RunResumed);
    assert_eq!(script.progress(), [4, 1, 0, 3, 0]);
    let mut started = script.start();
    started.sort();
    assert_eq!(started, ["a", "b"]);
    assert_eq!(script.run.attempts(script.id("a")), (None, 0));
    script.succeeds("a");
    script.succeeds("b");
    assert_eq!(script.start(), ["d"]);
}

#[test]
fn a_catch_gives_an_error_or_a_value() {
    let parts = [step("a", &[]), catch("caught", "a"), step("b", &["caught"])];
    let mut script = Script::new(&parts);
    script.start();
    script.fails("a");
    assert_eq!(script.start(), ["b"]);
    script.succeeds("b");
    assert_eq!(script.output().as_deref(), Some("b"));
    assert_eq!(script.progress(), [2, 1, 0, 0, 1]);

    let mut script = Script::new(&parts[..2]);
    script.start();
    script.succeeds("a");
    let output = script.run.output().unwrap().decode::<Result<String, ()>>();
    assert_eq!(output.unwrap().unwrap(), "a");
}

#[test]
fn a_failure_three_expansions_deep_is_caught_and_stops_all_beside_it() {
    let mut script = Script::new(&[step("outer", &[]), catch("caught", "outer")]);
    script.start();
    let level = |inner, beside, last| {
        [
            step(inner, &[]),
            step(beside, &[]),
            step(last, &[inner, beside]),
        ]
    };
    script.expands("outer", &level("middle", "beside 1", "last 1"));
    script.start();
    script.expands("middle", &level("inner", "beside 2", "last 2"));
    script.start();
    script.expands("inner", &level("innermost", "beside 3", "last 3"));
    script.start();
    assert_eq!(script.progress(), [10, 0, 4, 6, 0]);

    script.fails("innermost");
    assert_eq!(script.stops(), ["beside 1", "beside 2", "beside 3"]);
    let error = script.caught();
    assert_eq!(error.step, "innermost");
    assert_eq!(error.kind, StepErrorKind::Panic);
    assert_eq!(error.path, ["outer", "middle", "inner", "innermost"]);
    assert_eq!(script.run.settle(true), Settled::Successful);
    assert_eq!(script.progress(), [10, 9, 0, 0, 1]);
    assert_eq!(script.run.live_bytes(), 0);

    // A result that comes too late changes nothing.
    script.succeeds("beside 2");
    assert_eq!(script.progress(), [10, 9, 0, 0, 1]);
}

#[test]
fn a_step_that_something_outside_the_catch_needs_goes_on() {
    let mut script = Script::new(&[
        step("a", &[]),
        step("shared", &[]),
        step("b", &["a", "shared"]),
        catch("caught", "b"),
        step("c", &["caught", "shared"]),
    ]);
    script.start();
    script.fails("a");
    assert_eq!(script.stops(), [""; 0]);
    script.succeeds("shared");
    assert_eq!(script.start(), ["c"]);
}

#[test]
fn a_failure_that_is_caught_on_one_way_and_not_on_another_fails_the_run() {
    let mut script = Script::new(&[
        step("a", &[]),
        catch("caught", "a"),
        step("b", &["caught", "a"]),
    ]);
    script.start();
    script.fails("a");
    assert_eq!(script.run.settle(true), Settled::By(Event::RunFailed));
    script.apply(Event::RunFailed);
    script.apply(Event::RunResumed);
    script.start();
    script.succeeds("a");
    assert_eq!(script.start(), ["b"]);
}

#[test]
fn a_catch_keeps_its_error_until_what_it_comes_after_is_done() {
    for restores in [false, true] {
        let mut script = Script::new(&[
            step("a", &[]),
            step("b", &[]),
            catch("caught", "a").after(&["b"]),
        ]);
        script.start();
        script.fails("a");
        assert_eq!(script.run.output(), None);
        if restores {
            script.restore();
            assert_eq!(script.start(), ["b"]);
        }
        script.succeeds("b");
        assert_eq!(script.caught().step, "a");
    }
}

#[test]
fn a_catch_does_not_catch_what_it_comes_after() {
    for first in ["a", "b"] {
        let mut script = Script::new(&[
            step("a", &[]),
            step("b", &[]),
            catch("inner", "a").after(&["b"]),
            catch("outer", "inner"),
        ]);
        script.start();
        script.fails(first);
        if first == "a" {
            assert_eq!(script.stops(), [""; 0]);
            script.fails("b");
        } else {
            assert_eq!(script.stops(), ["a"]);
        }
        assert_eq!(script.caught().step, "b");
    }
    // Not even if it is the very step that it would catch.
    let mut script = Script::new(&[step("a", &[]), catch("caught", "a").after(&["a"])]);
    script.start();
    script.fails("a");
    assert_eq!(script.run.settle(true), Settled::By(Event::RunFailed));
}

#[test]
fn a_failure_passes_along_order_without_data_also_through_plain_values() {
    let mut script = Script::new(&[
        step("a", &[]),
        value("v").after(&["a"]),
        step("b", &[]).after(&["v"]),
        catch("caught", "b"),
    ]);
    assert_eq!(script.start(), ["a"]);
    script.fails("a");
    assert_eq!(script.caught().step, "a");
    assert_eq!(script.progress(), [2, 1, 0, 0, 1]);
}

#[test]
fn the_first_of_two_failures_is_caught_and_the_other_comes_too_late() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut script = Script::new(&[
            step("a", &[]),
            step("b", &[]),
            step("c", &["a", "b"]),
            catch("caught", "c"),
            step("d", &["caught"]),
            catch("outer", "d"),
        ]);
        script.start();
        script.fails(first);
        assert_eq!(script.stops(), [second]);
        script.fails(second);
        assert_eq!(script.start(), ["d"]);
        assert_eq!(script.progress(), [4, 2, 1, 0, 1]);
        script.fails("d");
        assert_eq!(script.caught().step, "d");
    }
}

#[test]
fn a_failure_while_the_run_is_being_suspended_is_tried_again_when_it_is_resumed() {
    let mut script = Script::new(&[step("a", &[])]);
    script.start();
    script.run.suspend(SuspendReason::Requested);
    assert_eq!(script.stops(), ["a"]);
    script.fails("a");
    let Settled::By(event) = script.run.settle(true) else {
        panic!("{:?}", script.run.settle(true));
    };
    script.apply(event);
    assert_eq!(script.run.suspended(), Some(&SuspendReason::Requested));
    script.crash();
    assert_eq!(script.run.settle(true), Settled::Stopped);
    script.apply(Event::RunResumed);
    assert_eq!(script.start(), ["a"]);
}

#[test]
fn a_path_names_the_given_names_and_counts_tail_calls() {
    let mut script = Script::new(&[step("a", &[]).named("first")]);
    script.start();
    script.expands("first", &[step("b", &[])]);
    script.start();
    script.expands("b", &[step("c", &[])]);
    script.start();
    script.expands("c", &[step("d", &[]), step("e", &["d"])]);
    script.start();
    script.fails("d");
    script.apply(Event::RunFailed);
    assert_eq!(
        script.run.failure().unwrap().path,
        ["first", "d (tail call 2)"]
    );
}

#[test]
fn a_long_path_is_shortened_in_its_middle() {
    let mut script = Script::new(&[step("f", &[]), step("g", &["f"])]);
    for _ in 0..99 {
        script.start();
        script.expands("f", &[step("f", &[]), step("g", &["f"])]);
    }
    script.start();
    script.fails("f");
    script.apply(Event::RunFailed);
    let path = &script.run.failure().unwrap().path;
    assert_eq!(path.iter().filter(|step| *step == "f").count(), 32);
    assert_eq!(path[16], "… 68 more …");
}

/// The value of `a` is not stored, so that after a crash it runs again, and may fail.
mod of_a_step_that_runs_again {
    use super::*;

    #[test]
    fn does_not_touch_a_step_that_used_its_value() {
        let mut script = Script::new(&[
            step("a", &[]),
            step("b", &["a"]),
            step("c", &["a"]),
            catch("caught", "c"),
            step("d", &["b", "caught"]),
        ]);
        script.start();
        script.runs("a");
        script.start();
        script.succeeds("b");
        script.crash();
        assert_eq!(script.start(), ["a"]);
        script.fails("a");
        assert_eq!(script.start(), ["d"]);
        script.succeeds("d");
        assert_eq!(script.progress(), [4, 3, 0, 0, 1]);
        assert_eq!(script.output().as_deref(), Some("d"));
    }

    #[test]
    fn does_not_touch_a_step_that_expanded_with_its_value() {
        let mut script = Script::new(&[
            step("a", &[]),
            step("b", &["a"]),
            step("c", &["a"]),
            catch("caught", "c"),
            step("d", &["b", "caught"]),
        ]);
        script.start();
        script.runs("a");
        script.start();
        script.expands("b", &[step("e", &[])]);
        script.crash();
        script.start();
        script.fails("a");
        script.succeeds("e");
        assert_eq!(script.start(), ["d"]);
    }

    #[test]
    fn leaves_no_timer_of_a_step_that_waits_for_its_next_attempt() {
        let mut script = Script::new(&[
            step("a", &[]),
            step("b", &["a"]),
            catch("caught", "b"),
            step("c", &["caught"]),
        ]);
        script.start();
        script.runs("a");
        script.start();
        script.attempt_fails("b", Some(1000));
        script.crash();
        assert_eq!(script.run.next_timer(), Some(Timestamp(1000)));
        script.start();
        script.fails("a");
        assert_eq!(script.run.next_timer(), None);
        assert_eq!(script.start(), ["c"]);
    }
}
