//! Mistakes, collected so that all of them are reported at once.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::ToTokens;

/// The mistakes found so far.
#[derive(Default)]
pub(crate) struct Diag {
    errors: Option<syn::Error>,
}

impl Diag {
    /// Adds a mistake, shown under `tokens`.
    pub(crate) fn error(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// Adds a mistake that was found while parsing.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.errors {
            Some(errors) => errors.combine(error),
            None => self.errors = Some(error),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.errors.iter().flatten().count()
    }

    /// The mistakes as code that makes the compiler report them; nothing if there are none.
    pub(crate) fn into_compile_errors(self) -> Option<TokenStream> {
        self.errors.map(|errors| errors.into_compile_error())
    }
}
