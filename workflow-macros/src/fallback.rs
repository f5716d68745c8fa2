//! What is left of a step that has mistakes: enough for the rest of the crate, and for editors, to go on.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{FnArg, Type};

use crate::diag::Diag;
use crate::step::Step;
use crate::types::{self, Places, as_reference, bare};

/// The item as it is, and what is wrong with it.
pub(crate) fn item(item: &TokenStream, diag: Diag) -> TokenStream {
    let errors = diag.into_compile_errors();
    quote!(#item #errors)
}

/// A constructor that can be called but not run, so that calls of the step are not wrong, too; and the function itself
/// within it, so that its body is checked.
pub(crate) fn stub(step: &Step) -> TokenStream {
    let Step {
        attrs, vis, sig, ..
    } = step;
    let (name, generics, root) = (&sig.ident, &sig.generics, &step.options.root);
    let (type_params, _, bounds) = generics.split_for_impl();
    let receiver = sig
        .inputs
        .iter()
        .filter(|input| matches!(input, FnArg::Receiver(_)));
    let params = step.values().map(|param| {
        let (name, ty) = (&param.name, param_type(&param.ty, step));
        quote!(#name: #ty)
    });
    let inputs = receiver.map(|receiver| quote!(#receiver)).chain(params);
    let value = syn::parse2::<Type>(step.returns.value.clone()).map(|value| types::owned(&value));
    let value = value.unwrap_or_else(|_| syn::parse_quote!(()));
    let function = function(step);
    quote! {
        #(#attrs)*
        #[allow(dead_code, unused_variables, clippy::all)]
        #vis fn #name #type_params(#(#inputs),*) -> #root::Workflow<#value> #bounds {
            #function
            ::core::panic!("this step did not compile")
        }
    }
}

fn param_type(written: &Type, step: &Step) -> TokenStream {
    let root = &step.options.root;
    let referent = as_reference(written).map_or(written, |reference| &reference.elem);
    let is_open = !Places::of(written).impl_traits.is_empty();
    if is_open || matches!(bare(referent), Type::TraitObject(_)) {
        return quote!(#written);
    }
    let owned = types::owned(written);
    quote!(impl #root::IntoArg<#owned>)
}

/// Methods stay out: nested, they would only be wrong once more.
fn function(step: &Step) -> Option<TokenStream> {
    let Step {
        body_attrs,
        sig,
        body,
        ..
    } = step;
    let is_method = sig.receiver().is_some() || names_self(&sig.to_token_stream());
    let can_be_nested = !is_method && sig.variadic.is_none();
    can_be_nested.then(|| quote!(#(#body_attrs)* #sig #body))
}

fn names_self(tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == "Self",
        TokenTree::Group(group) => names_self(&group.stream()),
        _ => false,
    })
}
