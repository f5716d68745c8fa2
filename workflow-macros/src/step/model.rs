//! What a step is: the meaning of its function and options.
//!
//! Made of any function, also of one that `check` refuses: then it is the best guess at what was meant, and serves only
//! for the stub.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, FnArg, Pat, PatType, ReturnType, Signature, Type, TypeParamBound, Visibility,
};

use super::parse::Function;
use crate::options::Options;
use crate::types::{arg_of, as_reference, bare, last_segment, of_workflow, owner_of, type_args};

/// A step.
pub(crate) struct Step {
    pub(crate) options: Options,
    /// Attributes of what users call.
    pub(crate) attrs: Vec<Attribute>,
    /// Attributes of the code that runs.
    pub(crate) body_attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    /// As it was written, without parameters' docs and `#[resource]`.
    pub(crate) sig: Signature,
    pub(crate) params: Vec<Param>,
    pub(crate) returns: Returns,
    pub(crate) body: TokenTree,
}

/// A parameter.
pub(crate) struct Param {
    /// What it is called where its pattern cannot stand.
    pub(crate) name: Ident,
    pub(crate) docs: Vec<Attribute>,
    /// As it was written.
    pub(crate) ty: Type,
    /// What is decoded, or looked up, for it.
    pub(crate) owned: TokenStream,
    /// Whether the body takes a reference to that.
    pub(crate) borrowed: bool,
    /// Whether it comes from the engine; if not, it is an argument of the constructor.
    pub(crate) is_resource: bool,
}

/// What a step returns.
pub(crate) struct Returns {
    pub(crate) shape: Shape,
    /// What its workflow yields.
    pub(crate) value: TokenStream,
    /// Where it was written.
    pub(crate) at: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Value,
    Workflow,
    ResultOfValue,
    ResultOfWorkflow,
    /// An alias such as `type Result = std::result::Result<i64, Error>`, which does not show what is inside.
    ResultOfUnknown,
}

impl Step {
    /// Makes the best of a function.
    pub(crate) fn of(function: Function, options: Options) -> Self {
        let Function {
            attrs,
            vis,
            mut sig,
            body,
        } = function;
        let params = typed(&mut sig)
            .enumerate()
            .map(|(index, arg)| Param::of(index, arg, &options))
            .collect();
        let returns = Returns::of(&sig, &options);
        let (attrs, body_attrs) = attrs.into_iter().partition(is_for_constructor);
        Self {
            options,
            attrs,
            body_attrs,
            vis,
            sig,
            params,
            returns,
            body: TokenTree::Group(body),
        }
    }

    pub(crate) fn is_async(&self) -> bool {
        self.sig.asyncness.is_some()
    }

    /// The parameters that are arguments of the constructor.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| !param.is_resource)
    }

    /// The parameters that come from the engine.
    pub(crate) fn resources(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| param.is_resource)
    }
}

fn typed(sig: &mut Signature) -> impl Iterator<Item = &mut PatType> {
    sig.inputs.iter_mut().filter_map(|input| match input {
        FnArg::Typed(arg) => Some(arg),
        FnArg::Receiver(_) => None,
    })
}

/// Lints and docs are for the function that people see, and lint levels reach the code within; everything else, such as
/// `#[tracing::instrument]`, is for the code that runs.
fn is_for_constructor(attr: &Attribute) -> bool {
    const NAMES: [&str; 10] = [
        "doc",
        "deprecated",
        "must_use",
        "cfg",
        "cfg_attr",
        "allow",
        "expect",
        "warn",
        "deny",
        "forbid",
    ];
    NAMES.iter().any(|name| attr.path().is_ident(name))
}

impl Param {
    /// Takes what is keepstep's out of `arg`'s attributes.
    pub(crate) fn of(index: usize, arg: &mut PatType, options: &Options) -> Self {
        let is_resource = arg.attrs.iter().any(is_resource_attr);
        let (docs, attrs) = arg
            .attrs
            .drain(..)
            .filter(|attr| !is_resource_attr(attr))
            .partition(is_doc);
        arg.attrs = attrs;
        let name = match &*arg.pat {
            Pat::Ident(pat) => pat.ident.clone(),
            _ => format_ident!("arg{index}", span = Span::mixed_site()),
        };
        let ty = (*arg.ty).clone();
        let inner = as_reference(&ty).map(|reference| &*reference.elem);
        let owned = match inner {
            _ if is_resource => inner
                .or(arg_of(&ty, "Arc"))
                .unwrap_or(&ty)
                .to_token_stream(),
            Some(inner) => owner_of(inner, &options.root),
            None => ty.to_token_stream(),
        };
        let borrowed = inner.is_some();
        Self {
            name,
            docs,
            ty,
            owned,
            borrowed,
            is_resource,
        }
    }

    /// Its name as people write it.
    pub(crate) fn label(&self) -> String {
        self.name.unraw().to_string()
    }
}

pub(crate) fn is_resource_attr(attr: &Attribute) -> bool {
    attr.path().is_ident("resource")
}

fn is_doc(attr: &Attribute) -> bool {
    attr.path().is_ident("doc")
}

impl Returns {
    pub(crate) fn of(sig: &Signature, options: &Options) -> Self {
        let ReturnType::Type(_, written) = &sig.output else {
            return Self {
                shape: Shape::Value,
                value: quote!(()),
                at: sig.ident.span(),
            };
        };
        let (shape, value) = Self::shape(written, options);
        Self {
            shape,
            value,
            at: written.span(),
        }
    }

    fn shape(written: &Type, options: &Options) -> (Shape, TokenStream) {
        if let Some(value) = of_workflow(written) {
            return (Shape::Workflow, value.to_token_stream());
        }
        let Some(result) = last_segment(written).filter(|segment| segment.ident == "Result") else {
            return (Shape::Value, value_of(written, options));
        };
        match type_args(result).next() {
            None => {
                let at = Span::mixed_site().located_at(written.span());
                let root = options.root.at(at);
                let value = quote_spanned!(at=> <#written as #root::__private::Fallible>::Value);
                (Shape::ResultOfUnknown, value)
            }
            Some(ok) => match of_workflow(ok) {
                Some(value) => (Shape::ResultOfWorkflow, value.to_token_stream()),
                None => (Shape::ResultOfValue, value_of(ok, options)),
            },
        }
    }
}

/// The type itself, or what was probably meant by one that cannot be returned.
fn value_of(ty: &Type, options: &Options) -> TokenStream {
    match bare(ty) {
        Type::Reference(reference) => owner_of(&reference.elem, &options.root),
        Type::ImplTrait(future) => {
            let bounds = future.bounds.iter().filter_map(|bound| match bound {
                TypeParamBound::Trait(bound) => bound.path.segments.last(),
                _ => None,
            });
            bounds
                .filter_map(output_of)
                .next()
                .unwrap_or_else(|| quote!(()))
        }
        Type::Never(_) => quote!(()),
        _ => ty.to_token_stream(),
    }
}

/// The `T` of `Future<Output = T>`.
fn output_of(segment: &syn::PathSegment) -> Option<TokenStream> {
    let syn::PathArguments::AngleBracketed(brackets) = &segment.arguments else {
        return None;
    };
    brackets.args.iter().find_map(|arg| match arg {
        syn::GenericArgument::AssocType(output) if output.ident == "Output" => {
            Some(output.ty.to_token_stream())
        }
        _ => None,
    })
}
