//! The `#[step]` macro of keepstep.

mod diag;
mod duration;
mod fallback;
mod options;
mod paths;
mod step;
mod types;

use proc_macro::TokenStream;

/// Makes a step of a function.
#[proc_macro_attribute]
pub fn step(options: TokenStream, item: TokenStream) -> TokenStream {
    step::step(options.into(), item.into()).into()
}
