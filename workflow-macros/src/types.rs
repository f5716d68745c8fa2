//! What a type says about itself by the way it is written.

use proc_macro2::TokenStream;
use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{GenericArgument, PathArguments, PathSegment, Type, TypeReference};

use crate::paths::Root;

/// The type inside of invisible groups and parentheses, which macros and habits put around types.
pub(crate) fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        _ => ty,
    }
}

/// The last segment of the path that a type is.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match bare(ty) {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    }
}

/// The types between the angle brackets of a segment.
pub(crate) fn type_args(segment: &PathSegment) -> impl Iterator<Item = &Type> {
    let args = match &segment.arguments {
        PathArguments::AngleBracketed(brackets) => Some(&brackets.args),
        _ => None,
    };
    args.into_iter().flatten().filter_map(|arg| match arg {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The `T` of a path that ends in `name<T>`.
pub(crate) fn arg_of<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let segment = last_segment(ty).filter(|segment| segment.ident == name)?;
    let mut args = type_args(segment);
    let arg = args.next()?;
    args.next().is_none().then_some(arg)
}

/// The `T` of `Workflow<T>`.
pub(crate) fn of_workflow(ty: &Type) -> Option<&Type> {
    arg_of(ty, "Workflow")
}

/// The reference that a type is.
pub(crate) fn as_reference(ty: &Type) -> Option<&TypeReference> {
    match bare(ty) {
        Type::Reference(reference) => Some(reference),
        _ => None,
    }
}

/// The owned type that `&elem` is borrowed from.
pub(crate) fn owner_of(elem: &Type, root: &Root) -> TokenStream {
    let at = elem.span();
    if let Type::Slice(slice) = bare(elem) {
        let item = &slice.elem;
        return quote_spanned!(at=> ::std::vec::Vec<#item>);
    }
    match last_segment(elem) {
        Some(segment) if segment.ident == "str" && segment.arguments.is_none() => {
            quote_spanned!(at=> ::std::string::String)
        }
        // `Path` may be the one of `std` or a type of the user's: only the compiler can tell.
        Some(segment) if segment.ident == "Path" && segment.arguments.is_none() => {
            let private = root.private();
            quote_spanned!(at=> <#elem as #private::Borrowed>::Owner)
        }
        _ => quote_spanned!(at=> #elem),
    }
}
