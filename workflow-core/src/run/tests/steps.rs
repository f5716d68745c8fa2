//! Runs end as their programs say, having run the bodies that it takes, and no other ones again.

use proptest::prelude::*;

use super::cases;
use super::programs::Index;
use super::sim::Sim;
use super::strategy::programs;

proptest! {
    #![proptest_config(cases(3000))]

    /// The driver checks every body that starts, the audit every count after each event.
    #[test]
    fn a_run_ends_as_its_program_says(program in programs(), seed: u64) {
        let index = Index::new(&program);
        let mut sim = Sim::new(&index, seed);
        let end = sim.drive();
        sim.check_end(&end);
    }
}
