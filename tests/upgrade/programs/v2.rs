//! The second version of a program, which goes on with what the first one began.

mod driver;
mod steps_of_v2;

use keepstep::prelude::*;

#[step(name = "shop/ship")]
async fn ship(what: String) -> String {
    format!("shipped, {what}")
}

fn main() {
    driver::drive("v2", ship("nothing"));
}
