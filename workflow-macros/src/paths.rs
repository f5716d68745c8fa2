//! Where the code that the macros write finds keepstep.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::Path;

/// The crate that users depend on: `::keepstep`, or what `crate = path` names.
#[derive(Clone, Default)]
pub(crate) struct Root(Option<Path>);

impl Root {
    pub(crate) fn renamed(path: Path) -> Self {
        Self(Some(path))
    }

    /// Its path, shown at `span` whatever names it.
    pub(crate) fn at(&self, span: Span) -> TokenStream {
        let moved = self.to_token_stream().into_iter().map(|mut token| {
            token.set_span(token.span().located_at(span));
            token
        });
        moved.collect()
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
