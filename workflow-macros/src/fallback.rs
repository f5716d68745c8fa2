//! What is left of a step that has mistakes: enough for the rest of the crate, and for editors, to go on.

use proc_macro2::TokenStream;
use quote::quote;

use crate::diag::Diag;
use crate::step::Step;

/// The item as it is, and what is wrong with it.
pub(crate) fn item(item: TokenStream, diag: Diag) -> TokenStream {
    let errors = diag.into_compile_errors();
    quote!(#item #errors)
}

pub(crate) fn stub(_step: &Step, errors: TokenStream) -> TokenStream {
    errors
}
