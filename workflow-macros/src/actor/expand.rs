//! The code that an actor becomes, beside its own: a handle, the actors of an engine, and the definition that the linker
//! collects.
//!
//! The user's block stays as it is, so that its methods can be called on a plain value, in unit tests for one.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::model::{Actor, Method};
use crate::step::expand::{end, here, local, options, pass, resource_need, shape, take, types};
use crate::step::model::{Param, Shape};

pub(super) fn handles(actor: &Actor) -> TokenStream {
    let root = &actor.options.root;
    let private = root.private();
    let (ident, ty, vis) = (&actor.ident, &actor.ty, &actor.constructor.vis);
    let (handle, actors) = (actor.named("Ref"), actor.named("Actors"));
    let definition = definition(actor);
    let of_handle = actor
        .methods
        .iter()
        .enumerate()
        .map(|(n, method)| call(actor, n, method));
    let of_actors = creation(actor);
    let entrances = entrances(actor);
    let on_handle =
        format!("A handle on a [`{ident}`]: each of its methods prepares a call of the actor.");
    let on_actors = format!("The actors of type [`{ident}`] on an engine.");
    quote! {
        #[doc = #on_handle]
        #[allow(dead_code, unreachable_pub)]
        #[derive(Clone, Debug, PartialEq, Eq)]
        #vis struct #handle(#root::ActorHandle);

        #[doc = #on_actors]
        #[allow(dead_code, unreachable_pub)]
        #[derive(Clone, Debug)]
        #vis struct #actors(::core::option::Option<#root::Engine>);

        #[automatically_derived]
        const _: () = {
            #definition

            impl ::core::ops::Deref for #handle {
                type Target = #root::ActorHandle;

                fn deref(&self) -> &#root::ActorHandle {
                    &self.0
                }
            }

            #[allow(dead_code, missing_docs, private_interfaces, unreachable_pub)]
            #[allow(clippy::impl_trait_in_params, clippy::must_use_candidate, clippy::too_many_arguments)]
            impl #handle {
                #(#of_handle)*
            }

            #[allow(dead_code, private_interfaces, unreachable_pub)]
            #[allow(clippy::impl_trait_in_params, clippy::too_many_arguments)]
            impl #actors {
                #of_actors
            }

            #[allow(dead_code, private_interfaces, unreachable_pub)]
            #[allow(clippy::impl_trait_in_params, clippy::too_many_arguments)]
            impl #ty {
                #entrances
            }

            #private::inventory::submit! { #private::RegisteredActor(&__KEEPSTEP_ACTOR) }
        };
    }
}

/// A method of the handle.
fn call(actor: &Actor, n: usize, method: &Method) -> TokenStream {
    let root = &actor.options.root;
    let private = root.private();
    let Method {
        docs,
        vis,
        ident,
        returns,
        ..
    } = method;
    let value = &returns.value;
    let params: Vec<_> = method.values().map(|param| &param.name).collect();
    let types: Vec<_> = method.values().map(|param| &param.owned).collect();
    let impls = method.values().map(|param| {
        let (owned, at) = (&param.owned, here(param.ty.span()));
        let root = root.at(at);
        quote_spanned!(at=> impl #root::IntoArg<#owned>)
    });
    let (call, build) = match method.is_query {
        true => (quote!(ActorQuery), quote!(build_query)),
        false => (quote!(ActorCall), quote!(build_call)),
    };
    let args = match params.is_empty() {
        true => quote!(::std::vec::Vec::new()),
        false => quote!(::std::vec![#(#root::IntoArg::<#types>::into_arg(#params)),*]),
    };
    quote! {
        #(#docs)*
        #vis fn #ident(&self #(, #params: #impls)*) -> #root::#call<#value> {
            #private::#build(&self.0, &__KEEPSTEP_ACTOR, #n, #args)
        }
    }
}

/// The parameters of the constructor that are not the engine's to give.
fn constructor_args(actor: &Actor) -> (Vec<TokenStream>, Vec<&syn::Ident>) {
    let values = || {
        actor
            .constructor
            .params
            .iter()
            .filter(|param| !param.is_resource)
    };
    let declared = values().map(|param| {
        let (name, ty) = (&param.name, &param.ty);
        quote!(#name: #ty)
    });
    (
        declared.collect(),
        values().map(|param| &param.name).collect(),
    )
}

/// The functions of the actors of an engine.
fn creation(actor: &Actor) -> TokenStream {
    let root = &actor.options.root;
    let private = root.private();
    let (ty, handle, constructor) = (&actor.ty, actor.named("Ref"), &actor.constructor);
    let at = here(constructor.at);
    // Not to be seen by the arguments' names.
    let input = syn::Ident::new("input", proc_macro2::Span::mixed_site());
    let (params, _) = constructor_args(actor);
    let takes = constructor
        .params
        .iter()
        .enumerate()
        .filter(|(_, param)| param.is_resource)
        .map(|(n, param)| {
            let (local, label, owned) = (local(n), param.label(), &param.owned);
            quote_spanned!(here(param.ty.span())=> let #local = #input.resource::<#owned>(#label)?;)
        });
    let args = constructor
        .params
        .iter()
        .enumerate()
        .map(|(n, param)| match param.is_resource {
            true => pass(n, param),
            false => param.name.to_token_stream(),
        });
    let dot_await = constructor.is_async.then(|| quote_spanned!(at=> .await));
    let made = quote_spanned!(at=> <#ty>::new(#(#args),*) #dot_await);
    let made = match constructor.is_fallible {
        true => quote_spanned!(at=> #private::constructed(#made)?),
        false => made,
    };
    let docs = &constructor.docs;
    quote! {
        /// The actor of this id, which is made durably if there is none: its constructor runs once.
        ///
        /// # Errors
        /// If the id is not one, the constructor fails, or the store does.
        ///
        /// # Arguments
        #(#docs)*
        pub async fn get_or_create(&self, id: impl ::core::convert::AsRef<str> #(, #params)*) -> #root::Result<#handle> {
            let engine = #private::actor_engine(self.0.as_ref()).await?;
            let construct = |#input: #private::ConstructorInput| async move {
                #(#takes)*
                ::core::mem::drop(#input);
                ::core::result::Result::Ok(#private::ActorState::new::<#ty>(#made))
            };
            engine.get_or_create(&__KEEPSTEP_ACTOR, id.as_ref(), construct).await.map(#handle)
        }

        /// The actor of this id.
        ///
        /// # Errors
        /// If there is none, or the store fails.
        pub async fn get_actor(&self, id: impl ::core::convert::AsRef<str>) -> #root::Result<#handle> {
            let engine = #private::actor_engine(self.0.as_ref()).await?;
            engine.get(&__KEEPSTEP_ACTOR, id.as_ref()).await.map(#handle)
        }

        /// A page of the actors of this type, in the order of their ids.
        ///
        /// # Errors
        /// If the store fails.
        pub async fn list_actors(&self, filter: #root::ActorFilter) -> #root::Result<#root::ActorPage> {
            #private::actor_engine(self.0.as_ref()).await?.list(&__KEEPSTEP_ACTOR, filter).await
        }

        /// Deletes the actor of this id with all that is stored of it.
        ///
        /// # Errors
        /// If there is none, or the store fails.
        pub async fn delete_actor(&self, id: impl ::core::convert::AsRef<str>) -> #root::Result<()> {
            self.get_actor(id).await?.delete().await
        }
    }
}

/// The functions of the type itself: on the engine of the step or method they are called in, else on the default one.
fn entrances(actor: &Actor) -> TokenStream {
    let root = &actor.options.root;
    let vis = &actor.constructor.vis;
    let (handle, actors) = (actor.named("Ref"), actor.named("Actors"));
    let (params, names) = constructor_args(actor);
    quote! {
        /// The actor of this id, which is made durably if there is none: on the engine of the step or method this is called in,
        /// else on the default engine.
        ///
        /// # Errors
        /// If the id is not one, the constructor fails, or the store does.
        #vis async fn get_or_create(id: impl ::core::convert::AsRef<str> #(, #params)*) -> #root::Result<#handle> {
            #actors(::core::option::Option::None).get_or_create(id #(, #names)*).await
        }

        /// The actor of this id.
        ///
        /// # Errors
        /// If there is none, or the store fails.
        #vis async fn get_actor(id: impl ::core::convert::AsRef<str>) -> #root::Result<#handle> {
            #actors(::core::option::Option::None).get_actor(id).await
        }

        /// A page of the actors of this type, in the order of their ids.
        ///
        /// # Errors
        /// If the store fails.
        #vis async fn list_actors(filter: #root::ActorFilter) -> #root::Result<#root::ActorPage> {
            #actors(::core::option::Option::None).list_actors(filter).await
        }

        /// Deletes the actor of this id with all that is stored of it.
        ///
        /// # Errors
        /// If there is none, or the store fails.
        #vis async fn delete_actor(id: impl ::core::convert::AsRef<str>) -> #root::Result<()> {
            #actors(::core::option::Option::None).delete_actor(id).await
        }

        /// The actors of this type on an engine.
        #[must_use]
        #vis fn on(engine: &#root::Engine) -> #actors {
            #actors(::core::option::Option::Some(::core::clone::Clone::clone(engine)))
        }
    }
}

/// The statics that the linker collects, and the functions that the engine calls.
fn definition(actor: &Actor) -> TokenStream {
    let root = &actor.options.root;
    let private = root.private();
    let ty = &actor.ty;
    let at = here(ty.span());
    let name = match &actor.options.name {
        Some(name) => name.to_token_stream(),
        None => {
            let own = actor.ident.unraw().to_string();
            quote!(::core::concat!(::core::module_path!(), "::", #own))
        }
    };
    let version = actor.options.version.unwrap_or(1);
    let line = quote_spanned!(actor.ident.span()=> ::core::line!());
    let migrate = match &actor.options.migrate {
        None => quote!(::core::option::Option::None),
        Some(path) => {
            let at = here(path.span());
            quote_spanned! {at=>
                ::core::option::Option::Some(|stored| #private::migrate_state::<#ty, _, _>(#path, stored))
            }
        }
    };
    let bodies = actor
        .methods
        .iter()
        .enumerate()
        .map(|(n, method)| body(actor, n, method));
    let steps = actor
        .methods
        .iter()
        .enumerate()
        .map(|(n, method)| step(actor, n, method, &name));
    let methods = actor.methods.iter().enumerate().map(|(n, method)| {
        let label = method.label();
        let is_exclusive = method.is_exclusive;
        let body = body_name(n);
        let kind = format_ident!("{}", if method.is_query { "Read" } else { "Write" });
        quote! {
            #private::MethodDef {
                name: #label,
                exclusive: #is_exclusive,
                body: #private::MethodBody::#kind(#body),
                step: &__KEEPSTEP_STEPS[#n],
            }
        }
    });
    let registered = (0..actor.methods.len()).map(
        |n| quote!(#private::inventory::submit! { #private::Registered(&__KEEPSTEP_STEPS[#n]) }),
    );
    let n_methods = actor.methods.len();
    let (decode, encode) = (
        quote_spanned!(at=> #private::decode_state::<#ty>),
        quote_spanned!(at=> #private::encode_state::<#ty>),
    );
    let shape = shape(ty, &private);
    quote! {
        static __KEEPSTEP_ACTOR: #private::ActorDef = #private::ActorDef {
            name: #name,
            version: #version,
            methods: &[#(#methods),*],
            decode: #decode,
            types: #private::StateTypes::new(#shape),
            encode: #encode,
            migrate: #migrate,
            file: ::core::file!(),
            line: #line,
        };
        static __KEEPSTEP_STEPS: [#private::StepDef; #n_methods] = [#(#steps),*];
        #(#bodies)*
        #(#registered)*
    }
}

fn body_name(n: usize) -> syn::Ident {
    format_ident!("__keepstep_method_{n}")
}

/// What the engine calls: takes the arguments out of its input, and makes a result of what the method returns.
fn body(actor: &Actor, n: usize, method: &Method) -> TokenStream {
    let root = &actor.options.root;
    let private = root.private();
    let (name, ty, ident) = (body_name(n), &actor.ty, &method.ident);
    let at = here(ident.span());
    // The actor's id is the first argument of the step.
    let takes = method
        .params
        .iter()
        .enumerate()
        .scan(1usize, |next, (index, param)| {
            Some(take(index, param, next))
        });
    let args = method
        .params
        .iter()
        .enumerate()
        .map(|(index, param)| pass(index, param));
    let dot_await = method.is_async.then(|| quote_spanned!(at=> .await));
    let output = quote_spanned!(at=> <#ty>::#ident(state #(, #args)*) #dot_await);
    let def = quote!(&__KEEPSTEP_STEPS[#n]);
    let end = match (method.is_query, method.returns.shape) {
        (true, Shape::ResultOfUnknown) => {
            quote_spanned!(here(method.returns.at)=> #private::end_with_unknown_value(#def, #output))
        }
        _ => end(&method.returns, root, &def, output),
    };
    let (state, get) = match method.is_query {
        true => (quote!(&'a #private::ActorState), quote!(get)),
        false => (quote!(&'a mut #private::ActorState), quote!(get_mut)),
    };
    quote_spanned! {at=>
        fn #name<'a>(state: #state, input: #private::StepInput) -> #private::BoxFuture<'a, #private::StepResult> {
            ::std::boxed::Box::pin(async move {
                let state = state.#get::<#ty>();
                #(#takes)*
                ::core::mem::drop(input);
                #end
            })
        }
    }
}

/// The step that makes the call.
fn step(actor: &Actor, n: usize, method: &Method, name: &TokenStream) -> TokenStream {
    let private = actor.options.root.private();
    let own = method.label();
    let params = std::iter::once("actor".to_owned()).chain(method.values().map(Param::label));
    let resources = method
        .params
        .iter()
        .filter(|param| param.is_resource)
        .map(|param| resource_need(param, &private));
    let options = options(&method.options);
    // The first is the actor's id.
    let types = types(method.values(), 1, &method.returns, &actor.options.root);
    let line = quote_spanned!(method.ident.span()=> ::core::line!());
    quote! {
        #private::StepDef {
            name: ::core::concat!(#name, "::", #own),
            version: 1,
            params: &[#(#params),*],
            resources: &[#(#resources),*],
            // The run's owner makes the call.
            options: #private::StepOptions { remote: ::core::option::Option::Some(false), ..#options },
            body: #private::StepBody::Async(|input| #private::call_in_step(&__KEEPSTEP_ACTOR, #n, input)),
            types: #types,
            accepts: &[],
            file: ::core::file!(),
            line: #line,
        }
    }
}
