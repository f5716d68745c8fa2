//! Faults and simulation: the whole engine on one thread and in virtual time, on a store that goes wrong on demand.

mod faults;
mod ledger;
mod programs;
mod regressions;
mod store;
mod world;
