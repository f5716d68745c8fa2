//! A step that gives a workflow as the last thing of its own is replaced by it: a loop takes no memory.

use std::sync::Arc;

use super::script::{Part, Script, catch, plan, step, text};
use crate::run::audit::audit;
use crate::run::{Event, Run};

/// A round: work, and a last step that makes the next round.
fn round() -> [Part; 2] {
    [step("work", &[]), step("next", &["work"])]
}

#[test]
fn a_long_loop_never_has_more_than_two_segments() {
    let next_round = Arc::new(plan(&round()));
    let mut run = Run::default();
    let plan = Arc::new(plan(&[step("loop", &[]), step("end", &["loop"])]));
    run.apply(Event::Created { plan }).unwrap();
    let mut step = run.take_ready()[0];
    assert!(run.start(step).is_some());
    let mut most_bytes = 0;
    for n in 0..100_000u64 {
        let plan = Arc::clone(&next_round);
        run.apply(Event::StepExpanded { step, plan }).unwrap();
        assert_eq!(run.segments.len(), 2);
        let work = run.take_ready();
        assert_eq!(work.len(), 1);
        assert!(run.start(work[0]).is_some());
        let value = text("done");
        run.apply(Event::StepSucceeded {
            step: work[0],
            value,
        })
        .unwrap();
        let next = run.take_ready();
        assert!(run.start(next[0]).is_some());
        step = next[0];
        most_bytes = most_bytes.max(run.live_bytes());
        if n % 10_000 == 0 {
            audit(&run, &[]);
        }
        if n == 10 {
            assert!(most_bytes < 500);
            most_bytes = run.live_bytes();
        }
    }
    assert_eq!(most_bytes, run.live_bytes());
    assert_eq!(run.counts().total, 200_002);
    assert_eq!(run.counts().done, 199_999);
    let value = text("last");
    run.apply(Event::StepSucceeded { step, value }).unwrap();
    let end = run.take_ready();
    assert_eq!(run.start(end[0]).unwrap().inputs, [text("last")]);
    assert_eq!(run.segments.len(), 1);
}

#[test]
fn a_loop_survives_crash_and_compaction_in_any_round() {
    for restores in [false, true] {
        let mut script = Script::new(&[step("next", &[])]);
        for _ in 0..20 {
            assert_eq!(script.start(), ["next"]);
            script.expands("next", &round());
            assert_eq!(script.start(), ["work"]);
            script.succeeds("work");
            if restores {
                script.restore();
                assert_eq!(script.run.segments.len(), 2);
            } else {
                script.crash();
            }
        }
        script.succeeds("next");
        assert_eq!(script.output().as_deref(), Some("next"));
        assert_eq!(script.progress(), [41, 41, 0, 0, 0]);
        assert_eq!(script.run.live_bytes(), 0);
    }
}

#[test]
fn the_result_is_told_under_the_name_of_every_step_that_was_replaced() {
    for restores in [false, true] {
        let mut script = Script::new(&[step("a", &[]).named("a"), step("z", &["a"])]);
        script.expands("a", &[step("b", &[]).named("b")]);
        script.expands("b", &[step("c", &[])]);
        script.expands(
            "c",
            &[step("d", &[]).named("d"), step("e", &["d"]).named("b")],
        );
        script.succeeds("d");
        assert_eq!(script.run.take_named(), [("d".into(), text("d"))]);
        if restores {
            script.restore();
        }
        script.succeeds("b");
        let names = ["b", "b", "a"].map(|name| (name.into(), text("b")));
        assert_eq!(script.run.take_named(), names);
    }
}

#[test]
fn a_failure_in_a_late_round_is_caught_where_the_first_step_would_have_been() {
    let mut script = Script::new(&[step("next", &[]), catch("caught", "next")]);
    for _ in 0..7 {
        script.start();
        script.expands("next", &round());
        script.start();
        script.succeeds("work");
    }
    script.start();
    script.fails("next");
    assert_eq!(script.caught().path, ["next", "next (tail call 6)"]);
}

#[test]
fn only_the_root_of_an_expansion_is_replaced() {
    let mut script = Script::new(&[step("a", &[])]);
    // The root of the run's own plan stays: it is where the output goes.
    script.expands("a", &[step("b", &[]), step("c", &["b"])]);
    script.expands("b", &[step("d", &[])]);
    assert_eq!(script.run.segments.len(), 3);
    script.expands("d", &[step("e", &[])]);
    assert_eq!(script.run.segments.len(), 3);
    script.succeeds("e");
    script.succeeds("c");
    assert_eq!(script.output().as_deref(), Some("c"));
}
