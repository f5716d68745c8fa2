//! What a step cannot be. Each message says what is wrong, then what to write.

use quote::ToTokens;
use syn::{
    Attribute, FnArg, GenericParam, Generics, Meta, PatType, Receiver, ReturnType, Safety,
    Signature, Type, TypeParamBound,
};

use super::model::is_resource_attr;
use super::parse::Function;
use crate::diag::Diag;
use crate::types::{
    self, Places, arg_of, as_reference, bare, last_segment, of_workflow, type_args,
};

/// Reports everything that keeps a function from being a step; `true` if there is nothing.
pub(crate) fn function(function: &Function, diag: &mut Diag) -> bool {
    let before = diag.len();
    let sig = &function.sig;
    attributes(&function.attrs, diag);
    qualifiers(sig, diag);
    generics(&sig.generics, diag);
    for input in &sig.inputs {
        match input {
            FnArg::Receiver(receiver) => self_parameter(receiver, diag),
            FnArg::Typed(arg) => parameter(arg, &sig.generics, diag),
        }
    }
    if let Some(variadic) = &sig.variadic {
        diag.error(
            variadic,
            "a step takes a fixed number of arguments: write a parameter for each, or one `Vec<T>`",
        );
    }
    if let ReturnType::Type(_, ty) = &sig.output {
        returns(ty, &sig.generics, diag);
    }
    diag.len() == before
}

fn attributes(attrs: &[Attribute], diag: &mut Diag) {
    for attr in attrs {
        if attr
            .path()
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "step")
        {
            diag.error(
                attr,
                "`#[step]` is given twice: keep one, with the options of both",
            );
        }
    }
}

fn qualifiers(sig: &Signature, diag: &mut Diag) {
    if let Some(constness) = &sig.constness {
        diag.error(
            constness,
            "a step runs when an engine calls it, never in a constant: remove `const`",
        );
    }
    if let Safety::Unsafe(unsafety) = &sig.safety {
        let message = "the engine calls a step and cannot keep the promises that `unsafe` asks for: write a safe function, \
                       with an `unsafe` block in it";
        diag.error(unsafety, message);
    }
    if let Some(abi) = &sig.abi {
        diag.error(
            abi,
            "a step is called by the engine only, not through an ABI: remove `extern`",
        );
    }
}

pub(crate) fn generics(generics: &Generics, diag: &mut Diag) {
    for param in &generics.params {
        match param {
            GenericParam::Lifetime(lifetime) => diag.error(
                lifetime,
                "a step has no lifetimes, because its arguments are decoded just for the call: write `&T` without one, or \
                 take an owned value",
            ),
            GenericParam::Type(_) | GenericParam::Const(_) => diag.error(
                param,
                "a step cannot be generic, because a stored run finds it by name and could not say for which type: write \
                 one step for each type, and let them call a generic function",
            ),
        }
    }
    if let (true, Some(clause)) = (generics.params.is_empty(), &generics.where_clause) {
        diag.error(
            clause,
            "a step has no generics to bound: remove the `where` clause",
        );
    }
}

fn self_parameter(receiver: &Receiver, diag: &mut Diag) {
    let message = "a step cannot take `self`, because a stored run finds it by name and has nothing but its arguments: write a \
                   free function, with the value as a parameter, or `#[resource] name: &Type` for what cannot be stored";
    diag.error(receiver, message);
}

pub(crate) fn parameter(arg: &PatType, generics: &Generics, diag: &mut Diag) {
    let mut is_resource = false;
    for attr in &arg.attrs {
        let path = attr.path();
        if is_resource_attr(attr) {
            is_resource = true;
            if !matches!(attr.meta, Meta::Path(_)) {
                diag.error(
                    attr,
                    "`#[resource]` has no options: the type alone says which resource is meant",
                );
            }
        } else if path.is_ident("cfg") || path.is_ident("cfg_attr") {
            let message = "the parameters of a step cannot depend on the configuration, because its stored arguments do not: \
                           put `#[cfg]` on the function, one function for each form";
            diag.error(attr, message);
        }
    }
    let ty = match as_reference(&arg.ty) {
        Some(reference) => {
            if reference.mutability.is_some() {
                diag.error(&arg.ty, cannot_change(&reference.elem, is_resource));
            }
            let lifetime = reference
                .lifetime
                .iter()
                .filter(|lifetime| !is_declared(generics, lifetime));
            lifetime.for_each(|lifetime| {
                diag.error(
                    lifetime,
                    "a parameter is borrowed for the call and no longer: leave the lifetime out",
                );
            });
            &reference.elem
        }
        None => &*arg.ty,
    };
    if is_resource {
        resource(&arg.ty, diag);
    } else {
        value(ty, diag);
    }
    inside_parameter(ty, generics, is_resource, diag);
}

fn cannot_change(ty: &Type, is_resource: bool) -> String {
    if is_resource {
        return "a resource is shared by all steps and cannot be borrowed mutably: write `&T`, with a lock in `T` if it changes"
            .into();
    }
    format!(
        "a step cannot change its argument for others, because the argument is decoded just for the call: take `{}`, and \
         return what became of it",
        types::display(&types::owned_by(ty))
    )
}

fn value(ty: &Type, diag: &mut Diag) {
    if matches!(bare(ty), Type::TraitObject(_)) {
        diag.error(ty, "a `dyn` type cannot be decoded from stored bytes: write the type that it stands for, or an enum");
    }
}

fn resource(ty: &Type, diag: &mut Diag) {
    let inner = match as_reference(ty) {
        Some(reference) => Some(&*reference.elem),
        None => arg_of(ty, "Arc"),
    };
    let Some(inner) = inner else {
        let name = types::display(ty);
        diag.error(
            ty,
            format_args!("a resource is shared by all steps: write `&{name}` or `Arc<{name}>`"),
        );
        return;
    };
    match bare(inner) {
        Type::TraitObject(_) => {
            let name = types::display(inner);
            diag.error(
                ty,
                format_args!("a resource is found by its type, which `{name}` hides: write `&Arc<{name}>`, and give the engine an `Arc<{name}>`"),
            );
        }
        Type::Slice(_) => unnamed_resource(ty, diag),
        inner if last_segment(inner).is_some_and(|segment| segment.ident == "str") => {
            unnamed_resource(ty, diag)
        }
        _ => {}
    }
}

fn unnamed_resource(ty: &Type, diag: &mut Diag) {
    diag.error(ty, "a resource is found by its type, so it needs one of its own: write a struct that holds it, and `&TheStruct`");
}

/// What may stand nowhere in the type of a parameter.
fn inside_parameter(ty: &Type, generics: &Generics, is_resource: bool, diag: &mut Diag) {
    let places = Places::of(ty);
    for written in &places.impl_traits {
        let message = if is_resource {
            "a resource is found by its type, which `impl` hides: write the type"
        } else {
            "an argument is decoded to one type, which `impl` leaves open: write that type; callers may pass everything that \
             becomes it, workflows included"
        };
        diag.error(written, message);
    }
    for written in &places.selves {
        diag.error(
            written,
            "a step is a free function, which has no `Self`: write the type's name",
        );
    }
    for lifetime in places
        .lifetimes
        .iter()
        .filter(|lifetime| !is_declared(generics, lifetime))
    {
        diag.error(lifetime, "a stored value borrows from nothing: write an owned type, or `'static` where a `Cow` needs one");
    }
    if is_resource {
        return;
    }
    for written in &places.references {
        let owned = types::display(&types::owned_by(&written.elem));
        diag.error(written, format_args!("a reference inside of a parameter's type has nothing to borrow from: write `{owned}`"));
    }
    for written in &places.workflows {
        let value = types::display(&types::owned(ty));
        diag.error(
            written,
            format_args!("a step starts when its arguments are there, and takes their values: write `{value}`, and pass the workflow at the call"),
        );
    }
}

fn is_declared(generics: &Generics, lifetime: &syn::Lifetime) -> bool {
    generics
        .lifetimes()
        .any(|param| param.lifetime == *lifetime)
}

pub(crate) fn returns(written: &Type, generics: &Generics, diag: &mut Diag) {
    let result = last_segment(written).filter(|segment| segment.ident == "Result");
    let ok = result
        .and_then(|segment| type_args(segment).next())
        .unwrap_or(written);
    let value = match of_workflow(ok) {
        Some(value) => {
            if let Some(inner) = of_workflow(value) {
                let inner = types::display(inner);
                diag.error(
                    value,
                    format_args!("what a step returns is run to its end, however often it is a workflow again: write `Workflow<{inner}>`"),
                );
                return;
            }
            value
        }
        None => ok,
    };
    if let Type::Never(_) = bare(value) {
        diag.error(value, "a step that never returns can never be finished: return `()`, or the workflow to go on with");
    }
    inside_return(value, generics, diag);
}

/// What may stand nowhere in the type of a result.
fn inside_return(value: &Type, generics: &Generics, diag: &mut Diag) {
    let places = Places::of(value);
    for written in &places.impl_traits {
        let is_future = written.bounds.iter().any(|bound| match bound {
            TypeParamBound::Trait(bound) => bound
                .path
                .segments
                .last()
                .is_some_and(|last| last.ident == "Future"),
            _ => false,
        });
        diag.error(
            written,
            if is_future {
                "a step says what it yields, not how: write `async fn`, and return the future's output"
            } else {
                "the result of a step is stored and decoded, so its type must be known: write the type"
            },
        );
    }
    for written in &places.references {
        let owned = types::display(&types::owned_by(&written.elem));
        diag.error(
            written,
            format_args!(
                "the result of a step is stored and cannot be a reference: return `{owned}`"
            ),
        );
    }
    for lifetime in places
        .lifetimes
        .iter()
        .filter(|lifetime| !is_declared(generics, lifetime))
    {
        diag.error(lifetime, "a stored value borrows from nothing: write an owned type, or `'static` where a `Cow` needs one");
    }
    for written in &places.selves {
        diag.error(
            written,
            "a step is a free function, which has no `Self`: write the type's name",
        );
    }
    for written in &places.workflows {
        let all = types::display(&types::owned(value));
        diag.error(
            written.to_token_stream(),
            format_args!("a workflow inside of a value cannot be stored: pass them all to a step that takes `{all}`, and return its `Workflow`"),
        );
    }
}
