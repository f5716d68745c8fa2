//! Names of the user's that the generated code must not stumble over.

#![no_implicit_prelude]

use ::keepstep::step;

struct Vec;
struct String;
struct Box;
struct Option;
struct Some;
struct Workflow;
trait IntoArg {}
mod std {}
mod core {}

macro_rules! vec {
    () => {};
}

macro_rules! concat {
    () => {};
}

#[step]
async fn shadowed(input: i64, text: &str, list: &[u8], arg1: u8, (arg0, arg3): (u8, u8)) -> ::keepstep::Workflow<usize> {
    let _ = (Vec, String, Box, Option, Some, Workflow, input, text, list, arg0, arg1, arg3);
    ::keepstep::Workflow::value(1)
}

fn main() {
    let _ = shadowed(1, "text", ::std::vec::Vec::<u8>::new(), 1, (1, 2));
    vec!();
    concat!();
}
