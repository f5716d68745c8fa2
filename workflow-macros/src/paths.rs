//! Where the code that the macros write finds keepstep.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Path;

/// The crate that users depend on: `::keepstep`, or what `crate = path` names.
#[derive(Clone, Default)]
pub(crate) struct Root(Option<Path>);

impl Root {
    pub(crate) fn renamed(path: Path) -> Self {
        Self(Some(path))
    }

    /// The module that holds what only generated code uses.
    pub(crate) fn private(&self) -> TokenStream {
        quote!(#self::__private)
    }
}

impl ToTokens for Root {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match &self.0 {
            Some(path) => path.to_tokens(tokens),
            None => quote!(::keepstep).to_tokens(tokens),
        }
    }
}
