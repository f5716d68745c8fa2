//! `#[event_listener]`: an implementation of `EventListener`, and the two steps that a stored run finds it by.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Generics, ItemImpl, Type};

use crate::diag::Diag;
use crate::options::{LISTENER, Options, duration_tokens};

/// Adds the steps to an implementation. What is wrong with it is reported, and the implementation stays.
pub(crate) fn event_listener(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut diag = Diag::default();
    let options = Options::parse(LISTENER, options, &mut diag);
    let mut code = item.clone();
    match syn::parse2::<ItemImpl>(item) {
        Ok(item) => code.extend(steps(&item, &options, &mut diag)),
        Err(error) => diag.push(syn::Error::new(
            error.span(),
            "this is not an implementation: put `#[event_listener]` on `impl EventListener for …`",
        )),
    }
    code.extend(diag.into_compile_errors());
    code
}

fn steps(item: &ItemImpl, options: &Options, diag: &mut Diag) -> Option<TokenStream> {
    let Some((trait_path, _)) = &item.trait_ else {
        diag.error(
            &item.self_ty,
            "this implements no trait: write `impl EventListener for …`",
        );
        return None;
    };
    let is_listener = |segment: &syn::PathSegment| segment.ident == "EventListener";
    if !trait_path.segments.last().is_some_and(is_listener) {
        diag.error(
            trait_path,
            "this is another trait: `#[event_listener]` is for `EventListener`",
        );
        return None;
    }
    if !is_plain(&item.generics) {
        diag.error(
            &item.generics,
            "a listener cannot be generic: a stored run has nothing but a name to find it by; write one for each type",
        );
        return None;
    }
    let Some(own_name) = type_name(&item.self_ty) else {
        diag.error(
            &item.self_ty,
            "a listener is a struct or an enum of its own",
        );
        return None;
    };
    Some(registration(item, options, &own_name))
}

fn is_plain(generics: &Generics) -> bool {
    generics.params.is_empty() && generics.where_clause.is_none()
}

/// The name of a type that was declared somewhere.
fn type_name(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        _ => None,
    }
}

fn registration(item: &ItemImpl, options: &Options, own_name: &str) -> TokenStream {
    let private = options.root.private();
    let ty = &item.self_ty;
    // Shown at the user's type, but known to be generated.
    let at = Span::mixed_site().located_at(ty.span());
    let name = |step: &str| match &options.name {
        Some(name) => quote!(::core::concat!(#name, "::", #step)),
        None => quote!(::core::concat!(::core::module_path!(), "::", #own_name, "::", #step)),
    };
    let (poll, checkpointed) = (name("poll"), name("checkpointed"));
    let version = options.version.unwrap_or(1);
    let retries = options.retries.map_or_else(
        || quote!(::core::primitive::u32::MAX),
        |n| n.into_token_stream(),
    );
    let pauses = options.backoff.map_or_else(
        || {
            quote! {
                ::core::time::Duration::from_secs(1), ::core::time::Duration::from_secs(60)
            }
        },
        |(min, max)| {
            let (min, max) = (duration_tokens(min), duration_tokens(max));
            quote!(#min, #max)
        },
    );
    quote_spanned! {at=>
        const _: () = {
            const fn definition(
                name: &'static ::core::primitive::str,
                params: &'static [&'static ::core::primitive::str],
                min: ::core::time::Duration,
                max: ::core::time::Duration,
                body: fn(#private::StepInput) -> #private::StepFuture,
                types: #private::StepTypes,
                retries: ::core::primitive::u32,
            ) -> #private::StepDef {
                #private::StepDef {
                    name,
                    version: #version,
                    params,
                    resources: &[],
                    options: #private::StepOptions {
                        retries,
                        backoff: #private::Backoff { min, max },
                        waits: true,
                        ..#private::StepOptions::DEFAULT
                    },
                    body: #private::StepBody::Async(body),
                    types,
                    accepts: &[],
                    file: ::core::file!(),
                    line: ::core::line!(),
                }
            }

            static POLL: #private::StepDef = definition(
                #poll, &["listener"], #pauses, #private::poll_listener::<#ty>, #private::poll_types::<#ty>(), #retries,
            );
            static CHECKPOINTED: #private::StepDef = definition(
                #checkpointed, &["polled"], #pauses, #private::tell_listener::<#ty>, #private::tell_types::<#ty>(),
                // The event is stored: what came of telling of it changes nothing for the run.
                ::core::primitive::u32::MAX,
            );

            #private::inventory::submit! { #private::Registered(&POLL) }
            #private::inventory::submit! { #private::Registered(&CHECKPOINTED) }

            impl #private::ListenerSteps for #ty {
                fn steps() -> [&'static #private::StepDef; 2] {
                    [&POLL, &CHECKPOINTED]
                }
            }
        };
    }
}
