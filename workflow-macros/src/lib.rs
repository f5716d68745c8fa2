//! The `#[step]` macro of keepstep.

use proc_macro::TokenStream;

/// Makes a step of a function.
#[proc_macro_attribute]
pub fn step(_options: TokenStream, item: TokenStream) -> TokenStream {
    item
}
