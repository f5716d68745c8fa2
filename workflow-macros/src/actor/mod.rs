//! `#[virtual_actor]`: parse → model and check → expand.

mod expand;
mod model;

use proc_macro2::TokenStream;
use quote::quote;
use syn::ItemImpl;
use syn::parse::{Parse, ParseStream};

use crate::diag::Diag;
use crate::fallback;
use crate::options::{ACTOR, Options};
use model::Actor;

/// Turns an `impl` block into an actor. What is wrong with it is reported, and the rest of the crate goes on compiling.
pub(crate) fn actor(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut diag = Diag::default();
    let options = Options::parse(ACTOR, options, &mut diag);
    let block = match syn::parse2::<Block>(item.clone()) {
        Ok(Block(block)) => block,
        Err(error) => {
            diag.push(error);
            return fallback::item(&item, diag);
        }
    };
    let (block, actor) = Actor::of(block, options, &mut diag);
    let handles = actor.as_ref().map(expand::handles);
    let errors = diag.into_compile_errors();
    // `pub` says that a method can be called, also in a type that is not public.
    let code = quote!(#[allow(unreachable_pub)] #block #handles #errors);
    let is_asked = |actor: &Actor| {
        std::env::var("KEEPSTEP_DEBUG_MACRO").is_ok_and(|asked| actor.ident == asked)
    };
    if actor.as_ref().is_some_and(is_asked) {
        eprintln!("{code}");
    }
    code
}

/// The block that `#[virtual_actor]` stands on.
struct Block(ItemImpl);

impl Parse for Block {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let ahead = input.fork();
        ahead.call(syn::Attribute::parse_outer)?;
        if !(ahead.peek(syn::Token![impl]) || ahead.peek(syn::Token![unsafe])) {
            let message = "`#[virtual_actor]` goes on an `impl` block: that of the constructor and the methods of the actor";
            return Err(ahead.error(message));
        }
        Ok(Self(input.parse()?))
    }
}
