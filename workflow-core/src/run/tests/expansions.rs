//! A step that gives a workflow is done when that is.

use super::script::{Script, catch, step, text, value};
use crate::run::Settled;

#[test]
fn the_result_of_an_expansion_is_the_steps_result() {
    let mut script = Script::new(&[step("a", &[]), step("b", &["a"])]);
    script.start();
    script.expands("a", &[step("c", &[]), step("d", &["c"])]);
    assert_eq!(script.progress(), [4, 0, 0, 4, 0]);
    assert_eq!(script.start(), ["c"]);
    script.succeeds("c");
    script.start();
    script.succeeds("d");
    let ready = script.run.take_ready();
    assert_eq!(script.run.start(ready[0]).unwrap().inputs, [text("d")]);
    assert_eq!(script.run.segments.len(), 1);
    script.succeeds("b");
    assert_eq!(script.progress(), [4, 4, 0, 0, 0]);
}

#[test]
fn the_inputs_of_a_step_are_let_go_when_it_expands() {
    let mut script = Script::new(&[step("a", &[]), step("b", &["a"])]);
    script.succeeds("a");
    script.start();
    let before = script.run.live_bytes();
    script.expands("b", &[step("c", &[])]);
    let plan = script.run.segments.last_key_value().unwrap().1.plan_bytes;
    let after = before - text("a").len() as u64 + plan;
    assert_eq!(script.run.live_bytes(), after);
}

#[test]
fn an_expansion_of_values_alone_is_finished_at_once() {
    let mut script = Script::new(&[step("a", &[]), step("b", &["a"])]);
    script.start();
    script.expands("a", &[value("v"), catch("c", "v")]);
    let ready = script.run.take_ready();
    let inputs = script.run.start(ready[0]).unwrap().inputs;
    assert_eq!(inputs, [text("plain").ok()]);
    assert_eq!(script.run.segments.len(), 1);
}

#[test]
fn an_expansion_is_caught_and_used_and_named_like_a_value() {
    for fails in [false, true] {
        let mut script = Script::new(&[
            step("a", &[]).named("first"),
            catch("caught", "a"),
            step("b", &["caught"]).after(&["caught"]),
        ]);
        script.start();
        script.expands("first", &[step("c", &[])]);
        script.start();
        if fails {
            script.fails("c");
            assert!(script.run.take_named().is_empty());
        } else {
            script.succeeds("c");
            assert_eq!(script.run.take_named(), [("first".into(), text("c"))]);
        }
        assert_eq!(script.start(), ["b"]);
        script.succeeds("b");
        assert_eq!(script.run.settle(true), Settled::Successful);
        assert_eq!(script.run.live_bytes(), 0);
    }
}

#[test]
fn an_expansion_goes_with_the_step_that_is_no_longer_needed() {
    let mut script = Script::new(&[
        step("a", &[]),
        step("b", &[]),
        step("c", &["a", "b"]),
        catch("caught", "c"),
    ]);
    script.start();
    script.expands(
        "b",
        &[step("d", &[]), step("e", &[]), step("f", &["d", "e"])],
    );
    script.start();
    script.expands("e", &[step("g", &[]), step("h", &["g"])]);
    script.start();
    script.attempt_fails("d", Some(1000));
    script.fails("a");
    assert_eq!(script.stops(), ["g"]);
    assert_eq!(script.run.next_timer(), None);
    assert_eq!(script.caught().step, "a");
    assert_eq!(script.progress(), [8, 7, 0, 0, 1]);
    assert!(script.run.segments.is_empty());
}

#[test]
fn expansions_survive_crash_and_compaction() {
    for restores in [false, true] {
        let mut script = Script::new(&[step("a", &[]), step("b", &["a"])]);
        script.start();
        script.expands("a", &[step("c", &[]), step("d", &["c"])]);
        script.start();
        script.succeeds("c");
        script.start();
        script.expands(
            "d",
            &[step("e", &[]), step("f", &[]), step("g", &["e", "f"])],
        );
        script.start();
        script.succeeds("e");
        if restores {
            script.restore();
        } else {
            script.crash();
        }
        assert_eq!(script.progress(), [7, 3, 0, 4, 0]);
        assert_eq!(script.start(), ["f"]);
        script.succeeds("f");
        assert_eq!(script.start(), ["g"]);
        script.succeeds("g");
        assert_eq!(script.start(), ["b"]);
    }
}

#[test]
fn what_a_step_gives_twice_counts_once() {
    let mut script = Script::new(&[step("a", &[]), step("b", &["a"])]);
    script.start();
    script.expands("a", &[step("c", &[])]);
    script.expands("a", &[step("d", &[])]);
    script.succeeds("a");
    script.fails("a");
    assert_eq!(script.start(), ["c"]);
    assert_eq!(script.progress(), [3, 0, 1, 2, 0]);
}
