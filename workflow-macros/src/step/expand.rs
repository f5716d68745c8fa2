//! The code that a step becomes.
//!
//! It is thin: what it calls does the work, once for all steps. Everything is nested in the constructor, so that nothing
//! but the constructor's name is taken; and the glue is one block deeper than the body, so that the body cannot see it.
//!
//! Spans that come from here are those of the macro, placed where the user has to look: so the compiler points there,
//! and lints take the code for what it is, generated.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::model::{Param, Returns, Shape, Step};
use crate::options::{Codec, Options, duration_tokens};
use crate::paths::Root;

/// The constructor, and in it the step.
pub(crate) fn step(step: &Step) -> TokenStream {
    let Step { attrs, vis, .. } = step;
    let root = &step.options.root;
    let private = root.private();
    let name = &step.sig.ident;
    let value = &step.returns.value;
    let arg_docs = arg_docs(step);
    let params: Vec<_> = step.values().map(|param| &param.name).collect();
    let types: Vec<_> = step.values().map(|param| &param.owned).collect();
    let impls = step.values().map(|param| {
        let (owned, at) = (&param.owned, here(param.ty.span()));
        let root = root.at(at);
        quote_spanned!(at=> impl #root::IntoArg<#owned>)
    });
    let body = body(step);
    let call = call(step);
    let definition = definition(step);
    let args = if params.is_empty() {
        quote!(::std::vec::Vec::new())
    } else {
        quote!(::std::vec![#(#root::IntoArg::<#types>::into_arg(#params)),*])
    };
    // A step is registered even if nothing in the program calls it any more: runs of earlier versions may still need it.
    quote! {
        #(#attrs)*
        #arg_docs
        #[allow(dead_code, clippy::impl_trait_in_params, clippy::too_many_arguments)]
        #vis fn #name(#(#params: #impls),*) -> #root::Workflow<#value> {
            #body
            {
                #call
                #definition
                #private::inventory::submit! { #private::Registered(&__KEEPSTEP_STEP) }
                #[allow(clippy::used_underscore_binding)]
                let args = #args;
                #private::build_step(&__KEEPSTEP_STEP, args)
            }
        }
    }
}

/// Docs of parameters, which the compiler does not take there.
fn arg_docs(step: &Step) -> Option<TokenStream> {
    let documented: Vec<_> = step
        .values()
        .filter(|param| !param.docs.is_empty())
        .collect();
    if documented.is_empty() {
        return None;
    }
    let entries = documented.iter().map(|param| {
        let head = format!("- `{}`:", param.label());
        let docs = &param.docs;
        quote!(#[doc = #head] #(#docs)*)
    });
    Some(quote!(#[doc = ""] #[doc = "# Arguments"] #(#entries)*))
}

/// The user's function under another name, so that `fib(n - 1)` in it is the constructor. Whether it is `async` says where
/// it runs, also if it awaits nothing.
fn body(step: &Step) -> TokenStream {
    let Step {
        body_attrs,
        sig,
        body,
        ..
    } = step;
    let (asyncness, inputs, output) = (&sig.asyncness, &sig.inputs, &sig.output);
    quote! {
        #(#body_attrs)*
        #[allow(clippy::unused_async)]
        #asyncness fn __keepstep_body(#inputs) #output #body
    }
}

/// What the engine calls: takes the arguments out of its input, and makes a result of what the body returns.
fn call(step: &Step) -> TokenStream {
    let private = step.options.root.private();
    let at = here(step.sig.ident.span());
    let takes = step
        .params
        .iter()
        .enumerate()
        .scan(0usize, |next, (index, param)| {
            Some(take(index, param, next))
        });
    let args = step
        .params
        .iter()
        .enumerate()
        .map(|(index, param)| pass(index, param));
    let dot_await = step.is_async().then(|| quote_spanned!(at=> .await));
    let end = end(
        &step.returns,
        &step.options.root,
        &quote!(&__KEEPSTEP_STEP),
        quote_spanned!(at=> __keepstep_body(#(#args),*) #dot_await),
    );
    let steps = quote_spanned! {at=>
        #(#takes)*
        // The arguments are decoded: their encoded form need not wait for the end of the body.
        ::core::mem::drop(input);
        #end
    };
    if step.is_async() {
        quote_spanned! {at=>
            fn __keepstep_call(input: #private::StepInput) -> #private::StepFuture {
                ::std::boxed::Box::pin(async move { #steps })
            }
        }
    } else {
        quote_spanned! {at=>
            fn __keepstep_call(input: #private::StepInput) -> #private::StepResult { #steps }
        }
    }
}

/// Takes a parameter out of the input; `next` counts the arguments.
pub(crate) fn take(index: usize, param: &Param, next: &mut usize) -> TokenStream {
    let (local, owned) = (local(index), &param.owned);
    let at = here(param.ty.span());
    if param.is_resource {
        let label = param.label();
        return quote_spanned!(at=> let #local = input.resource::<#owned>(#label)?;);
    }
    let position = *next;
    *next += 1;
    quote_spanned!(at=> let #local = input.arg::<#owned, _>(#position)?;)
}

/// Passes it to the body.
pub(crate) fn pass(index: usize, param: &Param) -> TokenStream {
    let local = local(index);
    if param.borrowed {
        quote_spanned!(here(param.ty.span())=> &#local)
    } else {
        local.into_token_stream()
    }
}

pub(crate) fn end(
    returns: &Returns,
    root: &Root,
    def: &TokenStream,
    output: TokenStream,
) -> TokenStream {
    let private = root.private();
    let value = &returns.value;
    let at = here(returns.at);
    match returns.shape {
        Shape::Value => quote_spanned!(at=> #private::end_with_value::<#value, _>(#def, &#output)),
        Shape::Workflow => quote_spanned!(at=> #private::end_with_workflow::<#value>(#output)),
        Shape::ResultOfValue => {
            quote_spanned!(at=> #private::end_with_result::<#value, _, _, _>(#def, #output))
        }
        Shape::ResultOfWorkflow => {
            quote_spanned!(at=> #private::end_with_workflow_result::<#value, _, _>(#output))
        }
        Shape::ResultOfUnknown => {
            quote_spanned!(at=> #private::end_with_unknown_result(#def, #output))
        }
    }
}

/// The static that the linker collects.
fn definition(step: &Step) -> TokenStream {
    let private = step.options.root.private();
    let ident = &step.sig.ident;
    let name = match &step.options.name {
        Some(name) => name.to_token_stream(),
        None => {
            let own = ident.unraw().to_string();
            quote!(::core::concat!(::core::module_path!(), "::", #own))
        }
    };
    let version = step.options.version.unwrap_or(1);
    let params = step.values().map(Param::label);
    let resources = step.resources().map(|param| resource_need(param, &private));
    let options = options(&step.options);
    let body = format_ident!("{}", if step.is_async() { "Async" } else { "Blocking" });
    let types = types(step.values(), 0, &step.returns, &step.options.root);
    let accepts = accepts(step);
    let line = quote_spanned!(ident.span()=> ::core::line!());
    quote! {
        static __KEEPSTEP_STEP: #private::StepDef = #private::StepDef {
            name: #name,
            version: #version,
            params: &[#(#params),*],
            resources: &[#(#resources),*],
            options: #options,
            body: #private::StepBody::#body(__keepstep_call),
            types: #types,
            accepts: &[#(#accepts),*],
            file: ::core::file!(),
            line: #line,
        };
    }
}

/// What the parameters from the `first` one on and the result are, so that stored arguments can be tried.
pub(crate) fn types<'a>(
    params: impl Iterator<Item = &'a Param>,
    first: usize,
    returns: &Returns,
    root: &Root,
) -> TokenStream {
    let private = root.private();
    let params: Vec<_> = params.collect();
    let (input, index) = (local_named("input"), local_named("index"));
    let probes = params.iter().enumerate().map(|(n, param)| {
        let (position, owned) = (first + n, &param.owned);
        // As where the body takes it, so that what is wrong with the type is said once.
        quote_spanned!(here(param.ty.span())=> #position => #input.arg::<#owned, _>(#position).map(::core::mem::drop),)
    });
    let before =
        (0..first).map(|_| quote!(|| #private::ShapeOfAny::shape(&&#private::ShapeOf::<()>::TYPE)));
    let shapes = params.iter().map(|param| shape(&param.owned, &private));
    let result = shape(&returns.value, &private);
    quote! {
        #private::StepTypes::new(
            |#input: &#private::StepInput, #index| match #index {
                #(#probes)*
                _ => ::core::result::Result::Ok(()),
            },
            &[#(#before,)* #(#shapes),*],
            #result,
        )
    }
}

/// A function that tells the shape of a type. It asks nothing of the type, so that a type that cannot be stored is one mistake.
pub(crate) fn shape(ty: &impl ToTokens, private: &TokenStream) -> TokenStream {
    quote! {
        || {
            #[allow(unused_imports)]
            use #private::{ShapeByTrace as _, ShapeOfAny as _};
            (&#private::ShapeOf::<#ty>::TYPE).shape()
        }
    }
}

/// The older versions whose calls it takes.
fn accepts(step: &Step) -> Vec<TokenStream> {
    let private = step.options.root.private();
    let types: Vec<_> = step.values().map(|param| &param.owned).collect();
    let input = local_named("input");
    let accepts = step.options.accepts.iter().map(|accepts| {
        let version = accepts.version;
        let migration = match &accepts.migrate {
            None => quote!(::core::option::Option::None),
            Some(path) => {
                let at = here(path.span());
                quote_spanned! {at=>
                    ::core::option::Option::Some(#private::Migration::of(&#path, |#input| {
                        #private::migrate_args::<(#(#types,)*), _, _, _>(#path, #input)
                    }))
                }
            }
        };
        quote!(#private::Accepts { version: #version, migration: #migration })
    });
    accepts.collect()
}

/// What the engine is to have for a parameter.
pub(crate) fn resource_need(param: &Param, private: &TokenStream) -> TokenStream {
    let (label, ty) = (param.label(), &param.owned);
    quote_spanned! {here(param.ty.span())=>
        #private::ResourceNeed {
            param: #label,
            type_name: ::core::any::type_name::<#ty>,
            type_id: ::core::any::TypeId::of::<#ty>,
        }
    }
}

pub(crate) fn options(options: &Options) -> TokenStream {
    let private = options.root.private();
    let or_default = |name: &str, value: Option<TokenStream>| {
        let field = Ident::new(name, Span::mixed_site());
        let value = value.unwrap_or_else(|| quote!(#private::StepOptions::DEFAULT.#field));
        quote!(#field: #value)
    };
    let fields = [
        or_default("retries", options.retries.map(ToTokens::into_token_stream)),
        or_default(
            "backoff",
            options.backoff.map(|(min, max)| {
                let (min, max) = (duration_tokens(min), duration_tokens(max));
                quote!(#private::Backoff { min: #min, max: #max })
            }),
        ),
        or_default(
            "timeout",
            options.timeout.map(|timeout| {
                let timeout = duration_tokens(timeout);
                quote!(::core::option::Option::Some(#timeout))
            }),
        ),
        or_default(
            "checkpoint",
            options.checkpoint.map(ToTokens::into_token_stream),
        ),
        or_default(
            "codec",
            options.codec.map(|codec| match codec {
                Codec::MessagePack => quote!(#private::Codec::MessagePack),
                Codec::Bincode => quote!(#private::Codec::Bincode),
            }),
        ),
        or_default(
            "remote",
            options
                .remote
                .map(|remote| quote!(::core::option::Option::Some(#remote))),
        ),
        or_default(
            "pool",
            options
                .pool
                .as_ref()
                .map(|pool| quote!(::core::option::Option::Some(#pool))),
        ),
        or_default(
            "priority",
            options.priority.map(ToTokens::into_token_stream),
        ),
    ];
    quote!(#private::StepOptions { #(#fields),*, ..#private::StepOptions::DEFAULT })
}

/// A local variable that the user's code cannot see.
pub(crate) fn local(index: usize) -> Ident {
    Ident::new(&format!("arg{index}"), Span::mixed_site())
}

fn local_named(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// Shown at the user's `span`, but known to be generated.
pub(crate) fn here(span: Span) -> Span {
    Span::mixed_site().located_at(span)
}
