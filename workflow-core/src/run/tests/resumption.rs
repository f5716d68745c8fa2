//! Canceling is final; suspending and failing are not.

use proptest::prelude::*;

use super::cases;
use super::programs::{Index, value_of};
use super::sim::{End, Sim};
use super::strategy::programs;
use crate::run::{Event, Settled, StepId};

proptest! {
    #![proptest_config(cases(800))]

    #[test]
    fn a_canceled_run_ignores_late_results(program in programs(), seed: u64, ticks in 1..60usize) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed);
        if sim.drive_for(ticks).is_none() && sim.cancel() {
            prop_assert_eq!(sim.drive(), End::Canceled);
            let mut recovered = sim.recover(sim.n_events(), seed);
            for run in [&mut sim.run, &mut recovered.run] {
                prop_assert!(run.is_canceled());
                for step in 0..run.next {
                    let value = value_of(0);
                    run.apply(Event::StepSucceeded { step: StepId(step), value }).unwrap();
                }
                run.apply(Event::RunResumed).unwrap();
                prop_assert_eq!(run.settle(true), Settled::Stopped);
                prop_assert!(run.is_canceled());
                prop_assert!(run.take_ready().is_empty());
            }
        }
    }

    #[test]
    fn a_suspended_run_goes_on_to_the_same_end(program in programs(), seed: u64, lives in prop::collection::vec(1..40usize, 1..5)) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed).with_restores();
        for (n, ticks) in lives.into_iter().enumerate() {
            if let Some(end) = sim.drive_for(ticks) {
                sim.check_end(&end);
                return Ok(());
            }
            sim.suspend();
            match sim.drive() {
                End::Suspended => sim = sim.resume(seed ^ n as u64),
                end => {
                    sim.check_end(&end);
                    return Ok(());
                }
            }
        }
        let end = sim.drive();
        sim.check_end(&end);
    }

    /// What failed runs again, and nothing else that is finished: the driver sees to that.
    #[test]
    fn a_failed_run_that_was_mended_succeeds_when_it_is_resumed(program in programs(), seed: u64) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed).with_restores();
        let mut end = sim.drive();
        let mut n = 0;
        while let End::Failed(_) = end {
            sim.check_end(&end);
            n += 1;
            prop_assert!(n <= index.steps().count() as u64, "mending does not help");
            sim = sim.resume(seed ^ n);
            end = sim.drive();
        }
        sim.check_end(&end);
    }
}
