//! Whatever a journal says, as long as its plans are sound: folding it never panics, and never makes the counts wrong.

use keepstep_storage::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use super::cases;
use super::programs::value_of;
use super::strategy::{plans_with_waits, programs};
use crate::error::{StepErrorKind, SuspendReason};
use crate::plan::Plan;
use crate::run::audit::audit_counts;
use crate::run::{Event, Failure, Run, StepId};

#[derive(Debug, Clone)]
enum Deed {
    Event(Event),
    Start,
    Stopped(StepId),
    Wake,
    Cancel,
    Suspend,
    /// Folds a snapshot of the run into itself.
    Restore,
}

fn deeds() -> impl Strategy<Value = Deed> {
    let step = || (0..24u64).prop_map(StepId);
    let failure = Failure {
        kind: StepErrorKind::Timeout,
        message: String::new(),
        causes: vec![],
    };
    let reason = SuspendReason::Requested;
    let event = prop_oneof![
        6 => step().prop_map(|step| Event::StepSucceeded { step, value: value_of(1) }),
        3 => step().prop_map(|step| Event::StepRan { step, value: Some(value_of(2)) }),
        1 => step().prop_map(|step| Event::StepRan { step, value: None }),
        3 => (step(), plans()).prop_map(|(step, plan)| Event::StepExpanded { step, plan: plan.into() }),
        3 => (step(), prop::option::of(0..9u64)).prop_map(move |(step, retry_at)| Event::AttemptFailed {
            step,
            failure: failure.clone(),
            retry_at: retry_at.map(Timestamp),
        }),
        3 => (vec(step(), 0..4), 0..9u64).prop_map(|(steps, at)| Event::ClockStarted { steps, at: Timestamp(at) }),
        1 => step().prop_map(|step| Event::ChildBegan { step }),
        1 => (vec(step(), 0..4), 0..9u64).prop_map(|(steps, at)| Event::Interrupted { steps, at: Timestamp(at) }),
        1 => Just(Event::RunFailed),
        1 => Just(Event::RunSuspended { reason }),
        3 => Just(Event::RunResumed),
        1 => plans().prop_map(|plan| Event::Created { plan: plan.into() }),
    ];
    prop_oneof![
        20 => event.prop_map(Deed::Event),
        4 => Just(Deed::Start),
        2 => step().prop_map(Deed::Stopped),
        2 => Just(Deed::Wake),
        1 => Just(Deed::Suspend),
        1 => Just(Deed::Restore),
        1 => prop_oneof![9 => Just(Deed::Wake), 1 => Just(Deed::Cancel), 1 => Just(Deed::Event(Event::RunCanceled))],
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    prop_oneof![
        programs().prop_map(|program| program.plan()),
        plans_with_waits()
    ]
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn no_journal_makes_a_run_panic_or_count_wrong(plan in plans(), deeds in vec(deeds(), 1..40)) {
        let mut run = Run::default();
        run.apply(Event::Created { plan: plan.into() }).unwrap();
        let mut was_canceled = false;
        for deed in deeds {
            match deed {
                Deed::Event(event) => {
                    was_canceled |= event == Event::RunCanceled;
                    // It may be called impossible.
                    drop(run.apply(event));
                }
                Deed::Start => {
                    for step in run.take_ready() {
                        drop(run.start(step));
                    }
                }
                Deed::Stopped(step) => run.stopped(step),
                Deed::Wake => {
                    run.retry_due(Timestamp(5));
                    let _ = run.first_due(Timestamp(5), Timestamp(5));
                }
                Deed::Cancel => run.cancel(),
                Deed::Suspend => run.suspend(SuspendReason::Requested),
                Deed::Restore if run.is_active() => {
                    run.apply(Event::Snapshot(Box::new(run.snapshot()))).unwrap();
                }
                Deed::Restore => {}
            }
            audit_counts(&run);
            run.settle(true);
            run.settle(false);
            prop_assert!(!was_canceled || run.is_canceled(), "a canceled run came back");
        }
    }
}

#[test]
fn a_journal_begins_with_a_plan_and_has_one() {
    let plan = || super::script::plan(&[super::script::step("a", &[])]).into();
    let mut run = Run::default();
    assert!(run.apply(Event::RunResumed).is_err());
    run.apply(Event::Created { plan: plan() }).unwrap();
    assert!(run.apply(Event::Created { plan: plan() }).is_err());
    assert!(run.apply(Event::RunFailed).is_err());
}
