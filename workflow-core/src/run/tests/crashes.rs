//! From whatever a crash leaves of a journal, a run goes on to the same end, and runs nothing again that was durable.

use proptest::prelude::*;

use super::cases;
use super::programs::Index;
use super::sim::Sim;
use super::strategy::programs;
use crate::run::{Event, Run, StepId};

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn every_prefix_of_the_journal_leads_to_the_same_end(program in programs(), seed: u64) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed);
        sim.drive();
        for n_events in 1..=sim.n_events() {
            let mut again = sim.recover(n_events, seed ^ n_events as u64);
            let end = again.drive();
            again.check_end(&end);
        }
    }

    #[test]
    fn every_prefix_of_a_compacted_journal_leads_to_the_same_end(program in programs(), seed: u64) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed).with_restores();
        let end = sim.drive();
        sim.check_end(&end);
        for n_events in 1..=sim.n_events() {
            let mut again = sim.recover(n_events, seed ^ n_events as u64);
            let end = again.drive();
            again.check_end(&end);
        }
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_run_survives_one_crash_after_the_other(program in programs(), seed: u64, lives in prop::collection::vec(1..40usize, 1..8)) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed).with_restores();
        for (n, ticks) in lives.into_iter().enumerate() {
            sim.drive_for(ticks);
            // A run without a first entry was never accepted.
            if sim.n_events() > 0 {
                sim = sim.recover(sim.n_events(), seed ^ n as u64);
            }
        }
        let end = sim.drive();
        sim.check_end(&end);
    }

    /// A value that is not stored may be another one, or none, when its step runs again: the run still comes to an end.
    #[test]
    fn a_run_whose_bodies_do_as_they_like_comes_to_rest(program in programs(), seed: u64, lives in prop::collection::vec(1..40usize, 1..8)) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed).with_restores().with_chaos();
        for (n, ticks) in lives.into_iter().enumerate() {
            sim.drive_for(ticks);
            if sim.n_events() > 0 {
                sim = sim.recover(sim.n_events(), seed ^ n as u64);
            }
        }
        sim.drive();
    }

    /// What looks at a run later folds its journal in a run that forgets no segment.
    #[test]
    fn a_run_with_a_history_comes_to_the_same_counts(program in programs(), seed: u64) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed);
        sim.drive();
        let mut run = Run::with_history(None);
        let mut plain = Run::default();
        for event in sim.journal.iter().flat_map(|entry| &entry.events) {
            run.apply(event.clone()).unwrap();
            plain.apply(event.clone()).unwrap();
            crate::run::audit::audit(&run, &run.ready);
            prop_assert_eq!(run.counts(), plain.counts());
            prop_assert_eq!(run.output(), plain.output());
        }
        prop_assert_eq!(run.failure(), plain.failure());
        let n_steps = run.counted().len() as u64;
        prop_assert_eq!(n_steps, run.counts().total);
        let is_lost = |event: &Event| matches!(event, Event::StepRan { .. });
        if !sim.journal.iter().flat_map(|entry| &entry.events).any(is_lost) {
            prop_assert_eq!(run.output(), sim.run.output());
            prop_assert_eq!(run.counts(), sim.run.counts());
        }
        let ids: Vec<StepId> = run.nodes().map(|node| node.id).collect();
        prop_assert!(ids.is_sorted());
    }
}
