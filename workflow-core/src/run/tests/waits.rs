//! Times, messages, other runs, and the first of several.

use keepstep_storage::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use super::cases;
use super::programs::value_of;
use super::script::{
    Part, Script, all, catch, child, event, listen, race, select, sleep, sleep_until_500, step,
    value,
};
use super::strategy::plans_with_waits;
use crate::error::StepErrorKind;
use crate::run::audit::audit;
use crate::run::{Due, Event, Failure, Run, Settled, StepId};
use crate::value::Value;

impl Script {
    /// It is this time: clocks start, and what is due happens.
    fn at(&mut self, time: u64) {
        let at = Timestamp(time);
        self.run.retry_due(at);
        while let Some(due) = self.run.first_due(at, at) {
            let event = self.run.event_of_due(due);
            self.apply(event.expect("what is due is waited for"));
        }
        let steps = self.run.take_clocks();
        if !steps.is_empty() {
            self.apply(Event::ClockStarted { at, steps });
        }
    }

    /// The time of the next timer.
    fn timer(&self) -> Option<u64> {
        self.run.next_timer().map(|at| at.0)
    }

    fn listener(&self) -> Option<StepId> {
        self.run.listener("paid")
    }

    /// A message comes for the node that is first in line.
    fn paid(&mut self, text: &str) {
        let step = self.listener().expect("nobody listens");
        let value = super::script::text(text);
        self.apply(Event::StepSucceeded { step, value });
    }

    fn output_as<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        self.run.output().map(|output| output.decode().unwrap())
    }

    /// As it would be after a crash, and from a snapshot.
    fn each_way(parts: &[Part], then: impl Fn(&mut Self)) {
        for way in [|_: &mut Self| {}, Self::crash, Self::restore] {
            let mut script = Self::new(parts);
            script.at(1_000);
            way(&mut script);
            then(&mut script);
        }
    }
}

#[test]
fn a_sleep_ends_when_its_time_is_over_whatever_happened_since() {
    Script::each_way(&[sleep("nap"), step("then", &["nap"])], |script| {
        assert_eq!(script.timer(), Some(1_100));
        assert!(!script.run.waits_for_others());
        script.at(1_099);
        assert_eq!(script.progress(), [2, 0, 0, 2, 0]);
        script.at(1_100);
        assert_eq!(script.progress(), [2, 1, 0, 1, 0]);
        assert_eq!(script.timer(), None);
        assert_eq!(script.start(), ["then"]);
        script.succeeds("then");
        assert_eq!(script.output().unwrap(), "then");
    });
}

#[test]
fn the_clock_of_a_sleep_starts_when_it_is_reached() {
    let mut script = Script::new(&[step("first", &[]), sleep("nap").after(&["first"])]);
    script.at(1);
    assert_eq!(script.timer(), None);
    script.start();
    script.succeeds("first");
    assert_eq!(script.run.settle(true), Settled::Waiting(None));
    script.at(50);
    assert_eq!(script.timer(), Some(150));
    // Another process reads the journal, and does not start the clock again.
    script.crash();
    script.at(120);
    assert_eq!(script.timer(), Some(150));
    script.at(150);
    assert_eq!(script.run.settle(true), Settled::Successful);
    assert_eq!(script.output_as::<()>(), Some(()));
}

#[test]
fn a_clock_that_nobody_could_start_is_started_after_the_crash() {
    let mut script = Script::new(&[sleep("nap")]);
    script.crash();
    script.at(7);
    assert_eq!(script.timer(), Some(107));
}

#[test]
fn a_time_that_is_past_is_due_at_once() {
    let mut script = Script::new(&[sleep_until_500("then")]);
    assert_eq!(script.timer(), Some(500));
    script.at(10_000);
    assert_eq!(script.run.settle(true), Settled::Successful);
}

#[test]
fn messages_go_to_the_waits_in_their_order() {
    Script::each_way(
        &[event("a"), event("b"), step("both", &["a", "b"])],
        |script| {
            assert!(script.run.waits_for_others());
            assert_eq!(script.run.settle(true), Settled::Waiting(None));
            assert_eq!(script.listener(), Some(StepId(0)));
            script.paid("one");
            assert_eq!(script.listener(), Some(StepId(1)));
            script.paid("two");
            assert_eq!(script.listener(), None);
            assert!(!script.run.waits_for_others());
            let ready = script.run.take_ready();
            let start = script.run.start(ready[0]).unwrap();
            let inputs: Vec<String> = start.inputs.iter().map(|v| v.decode().unwrap()).collect();
            assert_eq!(inputs, ["one", "two"]);
        },
    );
}

#[test]
fn a_wait_of_limited_time_fails_when_that_is_over() {
    Script::each_way(&[event("a").within(30), catch("result", "a")], |script| {
        assert_eq!(script.timer(), Some(1_030));
        script.at(1_029);
        assert!(script.listener().is_some());
        script.at(1_030);
        assert_eq!(script.listener(), None);
        let error = script.caught();
        assert_eq!(error.kind, StepErrorKind::Timeout);
        assert_eq!(error.message, "it took longer than 30µs");
        assert_eq!(error.path, ["paid"]);
        assert_eq!(script.progress(), [1, 0, 0, 0, 1]);
    });
    Script::each_way(&[event("a").within(30)], |script| {
        script.paid("in time");
        assert_eq!(script.timer(), None);
        assert_eq!(script.output().unwrap(), "in time");
    });
}

#[test]
fn a_failed_wait_has_its_whole_time_again_when_the_run_is_resumed() {
    let mut script = Script::new(&[event("a").within(30)]);
    script.at(0);
    script.at(30);
    assert_eq!(script.run.settle(true), Settled::By(Event::RunFailed));
    script.apply(Event::RunFailed);
    assert_eq!(script.timer(), None);
    script.crash();
    script.apply(Event::RunResumed);
    script.at(1_000);
    assert_eq!(script.timer(), Some(1_030));
    script.paid("late");
    assert_eq!(script.output().unwrap(), "late");

    let mut script = Script::new(&[event("a"), event("b"), all("both", &["a", "b"]).within(30)]);
    script.at(0);
    script.paid("one");
    script.at(30);
    script.apply(Event::RunFailed);
    script.apply(Event::RunResumed);
    script.at(100);
    assert_eq!(script.timer(), Some(130));
    script.paid("two");
    assert_eq!(
        script.output_as(),
        Some(["one".to_owned(), "two".to_owned()])
    );
    assert_eq!(script.timer(), None);
}

#[test]
fn the_time_of_a_whole_is_counted_from_the_beginning_of_its_part() {
    let parts = [
        step("first", &[]),
        event("a").after(&["first"]),
        all("list", &["a"]).within(50),
        catch("result", "list"),
    ];
    let mut script = Script::new(&parts);
    script.at(1_000);
    assert_eq!(script.timer(), Some(1_050));
    script.start();
    script.at(1_050);
    assert_eq!(script.caught().kind, StepErrorKind::Timeout);
    assert_eq!(script.stops(), ["first"]);
    assert_eq!(script.listener(), None);
    assert_eq!(script.run.settle(true), Settled::Successful);
}

#[test]
fn the_first_of_two_counts_and_the_other_is_called_off() {
    type Outcome = either::Either<String, ()>;
    let parts = [event("a"), sleep("nap"), race("first", "a", "nap")];
    Script::each_way(&parts, |script| {
        script.paid("yes");
        assert_eq!(script.output_as(), Some(Outcome::Left("yes".into())));
        assert_eq!(script.timer(), None);
        assert_eq!(script.progress(), [2, 2, 0, 0, 0]);
    });
    Script::each_way(&parts, |script| {
        script.at(1_100);
        assert_eq!(script.output_as(), Some(Outcome::Right(())));
        assert_eq!(script.listener(), None);
    });
}

#[test]
fn a_running_loser_is_stopped_and_one_that_expanded_is_dropped() {
    let mut script = Script::new(&[
        step("a", &[]),
        step("b", &[]),
        step("c", &[]),
        select("first", &["a", "b", "c"]),
        step("last", &["first"]),
    ]);
    script.start();
    script.expands("b", &[step("inner", &[]), step("outer", &["inner"])]);
    script.start();
    script.succeeds("c");
    assert_eq!(script.stops(), ["a", "inner"]);
    assert_eq!(script.start(), ["last"]);
    script.crash();
    // A result that comes too late changes nothing.
    script.succeeds("a");
    let ready = script.run.take_ready();
    let start = ready.into_iter().find_map(|step| script.run.start(step));
    let start = start.unwrap();
    let first: (usize, String) = start.inputs[0].decode().unwrap();
    assert_eq!(first, (2, "c".into()));
}

#[test]
fn of_what_is_done_already_the_leftmost_counts() {
    let mut script = Script::new(&[value("a"), value("b"), select("first", &["a", "b"])]);
    assert_eq!(script.output_as(), Some((0, "plain".to_owned())));
    script.crash();
    assert_eq!(script.output_as(), Some((0, "plain".to_owned())));
    // It waits for what it comes after, although one of them is done.
    let mut script = Script::new(&[
        step("gate", &[]),
        event("a"),
        event("b"),
        race("first", "a", "b").after(&["gate"]),
    ]);
    script.paid("left");
    assert_eq!(script.run.output(), None);
    script.start();
    script.succeeds("gate");
    type Outcome = either::Either<String, String>;
    assert_eq!(script.output_as(), Some(Outcome::Left("left".into())));
}

#[test]
fn a_race_fails_as_its_first_branch_does_unless_that_is_caught() {
    let mut script = Script::new(&[
        step("a", &[]),
        event("b"),
        race("first", "a", "b"),
        catch("c", "first"),
    ]);
    script.start();
    script.fails("a");
    assert_eq!(script.caught().message, "no a");
    assert_eq!(script.listener(), None);

    let mut script = Script::new(&[
        step("a", &[]),
        catch("ok", "a"),
        event("b"),
        select("first", &["ok", "b"]),
    ]);
    script.start();
    script.fails("a");
    let (place, outcome) = script
        .output_as::<(usize, Result<String, crate::StepError>)>()
        .unwrap();
    assert_eq!(
        (place, outcome.unwrap_err().message),
        (0, "no a".to_owned())
    );
}

#[test]
fn what_a_race_or_a_list_is_made_of_is_always_stored() {
    let script = Script::new(&[
        step("a", &[]),
        step("b", &[]),
        step("c", &[]),
        catch("caught", "c"),
        select("first", &["a"]),
        all("list", &["caught"]),
        step("last", &["first", "list", "b"]),
    ]);
    let must_store = |name| script.run.must_store(script.id(name));
    assert!(must_store("a") && must_store("c") && must_store("last"));
    assert!(!must_store("b"));
}

#[test]
fn a_list_of_nothing_is_there_at_once() {
    let script = Script::new(&[all("none", &[])]);
    assert_eq!(script.output_as(), Some(Vec::<String>::new()));
}

#[test]
fn a_child_is_begun_once_and_looked_after_after_a_crash() {
    let mut script = Script::new(&[child("c")]);
    let begun = |script: &mut Script| -> Vec<bool> {
        let children = script.run.take_children();
        children.iter().map(|child| child.has_begun).collect()
    };
    assert_eq!(begun(&mut script), [false]);
    assert!(begun(&mut script).is_empty());
    script.crash();
    assert_eq!(begun(&mut script), [false]);
    let step = StepId(0);
    script.apply(Event::ChildBegan { step });
    assert!(begun(&mut script).is_empty());
    for way in [Script::crash, Script::restore] {
        way(&mut script);
        assert_eq!(begun(&mut script), [true]);
        assert!(script.run.waits_for_others());
        assert_eq!(script.run.children()[0].as_str(), "child");
    }
    let value = super::script::text("done");
    script.apply(Event::StepSucceeded { step, value });
    assert!(script.run.children().is_empty());
    assert_eq!(script.output().unwrap(), "done");
    assert!(script.run.take_orphans().is_empty());
}

#[test]
fn a_child_that_nothing_needs_is_an_orphan() {
    Script::each_way(
        &[child("c"), sleep("nap"), race("first", "c", "nap")],
        |script| {
            script.run.take_children();
            script.at(1_100);
            let orphans = script.run.take_orphans();
            assert_eq!(orphans.len(), 1);
            assert_eq!(orphans[0].as_str(), "child");
            assert!(script.run.children().is_empty());
            // It ends all the same.
            let (step, value) = (StepId(0), value_of(3));
            script.apply(Event::StepSucceeded { step, value });
            assert_eq!(script.run.settle(true), Settled::Successful);
        },
    );
}

#[test]
fn a_child_that_took_too_long_is_the_runs_until_nothing_may_need_it() {
    let parts = [
        child("c").within(50),
        step("b", &[]),
        race("first", "c", "b"),
    ];
    let mut script = Script::new(&parts);
    script.at(1_000);
    assert_eq!(script.start(), ["b"]);
    script.at(1_050);
    // The run fails; resumed, it would wait for the child again.
    assert!(script.run.is_failing());
    assert!(script.run.take_orphans().is_empty());
    assert_eq!(script.run.children()[0].as_str(), "child");
    script.crash();
    assert_eq!(script.run.children()[0].as_str(), "child");
    // Now it would not.
    script.runs("b");
    assert!(script.run.children().is_empty());
    assert_eq!(script.run.take_orphans()[0].as_str(), "child");
    assert_eq!(script.run.settle(true), Settled::By(Event::RunFailed));
}

#[test]
fn a_child_that_failed_is_left_alone() {
    let mut script = Script::new(&[child("c")]);
    script.run.take_children();
    script.apply(Event::AttemptFailed {
        step: StepId(0),
        failure: Failure {
            kind: StepErrorKind::Error,
            message: "there is a run of this id that this workflow did not start".to_owned(),
            causes: Vec::new(),
        },
        retry_at: None,
    });
    assert!(script.run.children().is_empty());
    assert!(script.run.take_orphans().is_empty());
}

#[test]
fn what_was_due_when_a_run_was_suspended_is_due_when_it_goes_on() {
    let mut script = Script::new(&[sleep("nap")]);
    script.at(0);
    let due = script.run.first_due(Timestamp(100), Timestamp(100));
    assert_eq!(due, Some(Due::Woken(StepId(0))));
    let reason = crate::SuspendReason::Requested;
    script.apply(Event::RunSuspended { reason });
    script.crash();
    script.apply(Event::RunResumed);
    script.at(100);
    assert_eq!(script.run.settle(true), Settled::Successful);
}

#[test]
fn an_event_of_a_listener_decides_what_it_ends_before_its_source_is_told() {
    let parts = [
        step("poll", &[]),
        step("tell", &["poll"]),
        listen("wait", "tell").within(300),
        catch("caught", "wait").within(300),
        event("event"),
        sleep("sleep"),
        race("inner", "sleep", "caught").within(300),
        select("root", &["event", "inner"]).within(300),
    ];
    for way in [|_: &mut Script| {}, Script::crash, Script::restore] {
        let mut script = Script::new(&parts);
        script.at(0);
        script.start();
        assert_eq!(script.timer(), Some(100));
        assert!(script.listener().is_some());
        script.succeeds("poll");
        way(&mut script);
        // Neither a time nor a message changes it, however long the source is not told.
        script.at(0);
        assert_eq!((script.timer(), script.listener()), (None, None));
        script.at(10_000);
        assert_eq!(script.start(), ["tell"]);
        script.succeeds("tell");
        assert_eq!(script.run.settle(true), Settled::Successful);
    }
}

#[test]
fn a_branch_that_another_one_has_beaten_is_kept_for_whoever_else_needs_it() {
    let mut script = Script::new(&[
        step("poll", &[]),
        step("tell", &["poll"]),
        listen("wait", "tell"),
        step("other", &[]),
        race("race", "wait", "other"),
        all("root", &["race", "other"]),
    ]);
    script.start();
    script.succeeds("poll");
    script.succeeds("other");
    script.start();
    script.succeeds("tell");
    assert_eq!(script.run.settle(true), Settled::Successful);
}

/// One of the things that can happen to a run now.
fn next(run: &mut Run, now: &mut u64, pick: usize) -> Option<Event> {
    let steps = run.take_clocks();
    if !steps.is_empty() {
        let at = Timestamp(*now);
        return Some(Event::ClockStarted { at, steps });
    }
    let outside = run.counted().into_iter();
    let mut possible: Vec<StepId> = outside
        .filter(|id| run.is_running(*id) || run.child(*id).is_some())
        .collect();
    possible.extend(run.listener("paid"));
    if pick % 5 == 4 || possible.is_empty() {
        *now = run.next_timer().map_or(*now + 1, |at| at.0);
        let at = Timestamp(*now);
        run.retry_due(at);
        let due = run.first_due(at, at);
        if let Some(event) = due.and_then(|due| run.event_of_due(due)) {
            return Some(event);
        }
    }
    let step = *possible.get(pick % possible.len().max(1))?;
    let value = value_of(pick as u32);
    Some(match pick % 7 {
        5 if run.child(step).is_some() => Event::ChildBegan { step },
        _ => Event::StepSucceeded { step, value },
    })
}

proptest! {
    #![proptest_config(cases(600))]

    /// What is folded from a journal, or from a snapshot, is what was lived through.
    #[test]
    fn a_run_with_waits_is_the_same_whoever_folds_it(plan in plans_with_waits(), picks in vec(0..1000usize, 1..60)) {
        let created = Event::Created { plan: plan.into() };
        let mut run = Run::default();
        run.apply(created.clone()).unwrap();
        let mut journal = vec![created];
        let mut now = 0;
        for pick in picks {
            for step in run.take_ready() {
                drop(run.start(step));
            }
            let Some(event) = next(&mut run, &mut now, pick) else { break };
            run.apply(event.clone()).unwrap();
            journal.push(event);
            let every: Vec<StepId> = run.nodes().map(|node| node.id).collect();
            audit(&run, &every);

            // A run that fails takes no snapshot.
            if !run.is_active() && run.output().is_none() {
                break;
            }
            let mut folded = Run::default();
            for event in &journal {
                folded.apply(event.clone()).unwrap();
            }
            prop_assert_eq!(folded.snapshot(), run.snapshot());
            let mut restored = Run::default();
            restored.apply(Event::Snapshot(Box::new(run.snapshot()))).unwrap();
            prop_assert_eq!(restored.snapshot(), run.snapshot());
            prop_assert_eq!(restored.next_timer(), folded.next_timer());
            prop_assert_eq!(restored.waits_for_others(), run.waits_for_others());
            prop_assert_eq!(restored.output(), run.output());
            let mut clocks = [restored.take_clocks(), folded.take_clocks()];
            clocks.iter_mut().for_each(|clocks| clocks.sort());
            prop_assert_eq!(&clocks[0], &clocks[1]);
        }
    }

    /// A run that is given all that it waits for comes to its end.
    #[test]
    fn a_run_with_waits_ends(plan in plans_with_waits(), picks in vec(0..1000usize, 200)) {
        let mut run = Run::default();
        run.apply(Event::Created { plan: plan.into() }).unwrap();
        let mut now = 0;
        let mut picks = picks.into_iter().cycle();
        for _ in 0..2_000 {
            for step in run.take_ready() {
                drop(run.start(step));
            }
            let pick = picks.next().unwrap();
            let Some(event) = next(&mut run, &mut now, pick) else {
                break;
            };
            run.apply(event).unwrap();
        }
        prop_assert!(
            run.output().is_some() || run.settle(true) == Settled::By(Event::RunFailed),
            "{:?}", run
        );
        if run.output().is_some() {
            prop_assert_eq!(run.next_timer(), None);
            prop_assert!(!run.waits_for_others());
            let counts = run.counts();
            prop_assert_eq!(counts.done + counts.failed, counts.total);
        }
    }
}

#[test]
fn values_of_all_kinds_reach_those_who_use_a_list() {
    let mut script = Script::new(&[
        step("a", &[]),
        catch("b", "a"),
        event("c"),
        all("list", &["a", "b", "c"]),
    ]);
    script.start();
    script.succeeds("a");
    script.paid("p");
    let list = script
        .output_as::<(String, Result<String, ()>, String)>()
        .unwrap();
    assert_eq!(list, ("a".into(), Ok("a".into()), "p".into()));
    let _: Value = Value::of_nothing();
}
