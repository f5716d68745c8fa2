//! The second version of a program, in which somebody forgot that runs still have to ship.

mod driver;
mod steps_of_v2;

use keepstep::prelude::*;

fn main() {
    driver::drive("v2-forgetful", Workflow::value(String::new()));
}
