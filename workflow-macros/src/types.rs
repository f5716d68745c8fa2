//! What a type says about itself by the way it is written.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote_spanned};
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{
    GenericArgument, Lifetime, PathArguments, PathSegment, Type, TypeImplTrait, TypePath,
    TypeReference, parse_quote,
};

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

fn is_plain(ty: &Type, name: &str) -> bool {
    last_segment(ty).is_some_and(|segment| segment.ident == name && segment.arguments.is_none())
}

/// The owned type that `&elem` is borrowed from.
pub(crate) fn owner_of(elem: &Type, root: &Root) -> TokenStream {
    let at = elem.span();
    if let Type::Slice(slice) = bare(elem) {
        let item = &slice.elem;
        return quote_spanned!(at=> ::std::vec::Vec<#item>);
    }
    if is_plain(elem, "str") {
        return quote_spanned!(at=> ::std::string::String);
    }
    if is_plain(elem, "Path") {
        // The one of `std`, or a type of the user's: only the compiler can tell.
        let private = root.private();
        return quote_spanned!(at=> <#elem as #private::Borrowed>::Owner);
    }
    elem.to_token_stream()
}

/// The parts of a type that steps do not take or give.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) references: Vec<TypeReference>,
    /// All but `'static`, and those of references.
    pub(crate) lifetimes: Vec<Lifetime>,
    pub(crate) impl_traits: Vec<TypeImplTrait>,
    pub(crate) workflows: Vec<TypePath>,
    pub(crate) selves: Vec<TypePath>,
}

impl Places {
    pub(crate) fn of(ty: &Type) -> Self {
        let mut places = Self::default();
        places.visit_type_mut(&mut ty.clone());
        places
    }
}

impl VisitMut for Places {
    fn visit_type_reference_mut(&mut self, reference: &mut TypeReference) {
        self.references.push(reference.clone());
        self.visit_type_mut(&mut reference.elem);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident != "static" {
            self.lifetimes.push(lifetime.clone());
        }
    }

    fn visit_type_impl_trait_mut(&mut self, written: &mut TypeImplTrait) {
        self.impl_traits.push(written.clone());
    }

    fn visit_type_path_mut(&mut self, written: &mut TypePath) {
        if of_workflow(&Type::Path(written.clone())).is_some() {
            self.workflows.push(written.clone());
        }
        if written
            .path
            .segments
            .first()
            .is_some_and(|first| first.ident == "Self")
        {
            self.selves.push(written.clone());
        }
        visit_mut::visit_type_path_mut(self, written);
    }
}

/// What was probably meant by a type that cannot be stored: owned in every part, values in place of workflows.
pub(crate) fn owned(ty: &Type) -> Type {
    struct Owned;

    impl VisitMut for Owned {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            if let Some(reference) = as_reference(ty) {
                *ty = owned_by(&reference.elem);
            } else if let Some(value) = of_workflow(ty) {
                *ty = owned(value);
            } else {
                visit_mut::visit_type_mut(self, ty);
            }
        }

        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            *lifetime = Lifetime::new("'static", lifetime.span());
        }
    }

    let mut ty = ty.clone();
    Owned.visit_type_mut(&mut ty);
    ty
}

/// The same for what a reference refers to.
pub(crate) fn owned_by(elem: &Type) -> Type {
    match bare(elem) {
        Type::Slice(slice) => {
            let item = owned(&slice.elem);
            parse_quote!(Vec<#item>)
        }
        elem if is_plain(elem, "str") => parse_quote!(String),
        elem if is_plain(elem, "Path") => parse_quote!(PathBuf),
        elem => owned(elem),
    }
}

/// A type as people write it.
pub(crate) fn display(ty: &Type) -> String {
    let mut text = ty.to_token_stream().to_string();
    for (spaced, tight) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" <", "<"),
        (" >", ">"),
        (" ,", ","),
        ("& ", "&"),
    ] {
        text = text.replace(spaced, tight);
    }
    text
}
