//! What an actor is: the meaning of its `impl` block, and what cannot be one. Each message says what is wrong, then what to
//! write.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, FnArg, ImplItem, ImplItemFn, ItemImpl, Meta, PathArguments, ReturnType, Safety,
    Signature, Type, Visibility,
};

use crate::diag::Diag;
use crate::options::{METHOD, Options};
use crate::step::check;
use crate::step::model::{Param, Returns, Shape, is_resource_attr};
use crate::types::{bare, last_segment};

/// What generated code calls its own functions: a method of this name would hide one.
const RESERVED: [&str; 5] = [
    "get_or_create",
    "get_actor",
    "list_actors",
    "delete_actor",
    "on",
];

/// An actor.
pub(super) struct Actor {
    pub(super) options: Options,
    pub(super) ident: Ident,
    /// The type, as it was written.
    pub(super) ty: Type,
    pub(super) constructor: Constructor,
    pub(super) methods: Vec<Method>,
}

pub(super) struct Constructor {
    pub(super) vis: Visibility,
    pub(super) is_async: bool,
    pub(super) is_fallible: bool,
    pub(super) params: Vec<Param>,
    pub(super) docs: Vec<Attribute>,
    pub(super) at: proc_macro2::Span,
}

pub(super) struct Method {
    pub(super) options: Options,
    pub(super) docs: Vec<Attribute>,
    pub(super) vis: Visibility,
    pub(super) ident: Ident,
    pub(super) is_async: bool,
    pub(super) is_query: bool,
    pub(super) is_exclusive: bool,
    pub(super) params: Vec<Param>,
    pub(super) returns: Returns,
}

impl Actor {
    /// The block as it is to be compiled, and the actor; `None` if it is too wrong for handles.
    pub(super) fn of(
        mut block: ItemImpl,
        options: Options,
        diag: &mut Diag,
    ) -> (ItemImpl, Option<Self>) {
        let before = diag.len();
        if let Some((path, _)) = &block.trait_ {
            diag.error(path, "an actor's methods are its own: put `#[virtual_actor]` on `impl Type { … }`, without a trait");
        }
        if !block.generics.params.is_empty() {
            let message = "an actor cannot be generic, because a stored one is found by name and could not say for which type: \
                           write one actor for each type";
            diag.error(&block.generics.params, message);
        }
        let ident = match last_segment(&block.self_ty) {
            Some(segment) if matches!(segment.arguments, PathArguments::None) => {
                Some(segment.ident.clone())
            }
            _ => {
                let message =
                    "an actor is a type of its own, without type arguments: write `impl Counter`";
                diag.error(&block.self_ty, message);
                None
            }
        };
        if options.migrate.is_some() && options.version.unwrap_or(1) < 2 {
            let message = "`migrate` reads the states of earlier versions: give the new one a number, as in `version = 2`";
            diag.error(&options.migrate, message);
        }
        let ty = (*block.self_ty).clone();
        let (mut constructor, mut methods) = (None, Vec::new());
        for item in &mut block.items {
            let ImplItem::Fn(function) = item else {
                continue;
            };
            let taken = Taken::of(&mut function.attrs, diag);
            let mut shown = function.clone();
            strip_params(function);
            SelfIs(&ty).visit_signature_mut(&mut shown.sig);
            if shown.sig.ident == "new" && shown.sig.receiver().is_none() {
                taken.refuse("the constructor", diag);
                constructor = Some(Constructor::of(shown, &ty, &options, diag));
            } else if shown.sig.receiver().is_none() || matches!(shown.vis, Visibility::Inherited) {
                let what = "a function that is not called from outside (a method is, if it has `self` and `pub`)";
                taken.refuse(what, diag);
                reserved(&shown.sig, diag);
            } else {
                methods.extend(Method::of(shown, taken, &options, diag));
            }
        }
        names_of(&methods, diag);
        if constructor.is_none() && ident.is_some() {
            let message = "an actor needs a constructor, which makes its first state: write `pub fn new(…) -> Self`";
            diag.error(&block.self_ty, message);
        }
        let is_sound = block.trait_.is_none() && block.generics.params.is_empty();
        if methods.is_empty() && is_sound && diag.len() == before {
            let message =
                "this actor has no methods that can be called: write `pub` before those that can";
            diag.error(&block.self_ty, message);
        }
        let actor = match (ident, constructor) {
            (Some(ident), Some(constructor)) if is_sound => Some(Self {
                options,
                ident,
                ty,
                constructor,
                methods,
            }),
            _ => None,
        };
        (block, actor)
    }

    /// The name of a generated type.
    pub(super) fn named(&self, suffix: &str) -> Ident {
        format_ident!("{}{suffix}", self.ident)
    }
}

/// Attributes that are keepstep's.
#[derive(Default)]
struct Taken {
    exclusive: Option<Attribute>,
    method: Option<Attribute>,
}

impl Taken {
    fn of(attrs: &mut Vec<Attribute>, diag: &mut Diag) -> Self {
        let mut taken = Self::default();
        attrs.retain(|attr| {
            let path = attr.path();
            let last = path.segments.last().map(|last| last.ident.to_string());
            let slot = match last.as_deref() {
                Some("exclusive") => &mut taken.exclusive,
                Some("method") => &mut taken.method,
                Some("step") => {
                    diag.error(attr, "a method of an actor is no step: write `#[method(…)]` for its options, and `.step()` where it is called");
                    return false;
                }
                _ => return true,
            };
            if slot.is_some() {
                diag.error(attr, "this attribute is given twice: keep one");
            }
            *slot = Some(attr.clone());
            false
        });
        if let Some(attr) = &taken.exclusive
            && !matches!(attr.meta, Meta::Path(_))
        {
            diag.error(attr, "`#[exclusive]` has no options");
        }
        taken
    }

    fn refuse(&self, what: &str, diag: &mut Diag) {
        for attr in self.exclusive.iter().chain(&self.method) {
            diag.error(
                attr,
                format_args!("this attribute is for methods that can be called, not for {what}"),
            );
        }
    }
}

fn reserved(sig: &Signature, diag: &mut Diag) {
    if RESERVED.iter().any(|name| sig.ident == name) {
        let name = &sig.ident;
        diag.error(name, format_args!("`{name}` is what `#[virtual_actor]` calls a function of its own: choose another name"));
    }
}

/// Takes what is keepstep's off the parameters.
fn strip_params(function: &mut ImplItemFn) {
    for input in &mut function.sig.inputs {
        if let FnArg::Typed(arg) = input {
            arg.attrs
                .retain(|attr| !is_resource_attr(attr) && !attr.path().is_ident("doc"));
        }
    }
}

fn docs(function: &ImplItemFn) -> Vec<Attribute> {
    let is_shown =
        |attr: &&Attribute| attr.path().is_ident("doc") || attr.path().is_ident("deprecated");
    function.attrs.iter().filter(is_shown).cloned().collect()
}

/// What neither a constructor nor a method can be.
fn function(function: &ImplItemFn, what: &str, diag: &mut Diag) {
    let sig = &function.sig;
    if let Safety::Unsafe(unsafety) = &sig.safety {
        diag.error(unsafety, format_args!("the engine calls {what} and cannot keep the promises that `unsafe` asks for: write a safe function, with an `unsafe` block in it"));
    }
    if !sig.generics.params.is_empty() {
        diag.error(&sig.generics.params, format_args!("{what} cannot be generic, because a stored call finds it by name and could not say for which type: write one for each type"));
    }
    for attr in &function.attrs {
        if attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr") {
            diag.error(attr, "what an actor can be called with cannot depend on the configuration, because its stored calls do not: put `#[cfg]` on the whole actor");
        }
    }
}

fn params(sig: &mut Signature, options: &Options, diag: &mut Diag) -> Vec<Param> {
    let generics = sig.generics.clone();
    let mut params = Vec::new();
    for input in &mut sig.inputs {
        if let FnArg::Typed(arg) = input {
            check::parameter(arg, &generics, diag);
            params.push(Param::of(params.len(), arg, options));
        }
    }
    params
}

impl Constructor {
    fn of(mut written: ImplItemFn, ty: &Type, options: &Options, diag: &mut Diag) -> Self {
        function(&written, "the constructor", diag);
        let params = params(&mut written.sig, options, diag);
        let is_self = |returned: &Type| {
            bare(returned).to_token_stream().to_string() == ty.to_token_stream().to_string()
        };
        let is_fallible = match &written.sig.output {
            ReturnType::Type(_, returned) => {
                let result = last_segment(returned).filter(|last| last.ident == "Result");
                if result.is_none() && !is_self(returned) {
                    diag.error(returned, "a constructor makes the actor's first state: return `Self`, or a `Result` of it");
                }
                result.is_some()
            }
            ReturnType::Default => {
                diag.error(&written.sig.ident, "a constructor makes the actor's first state: return `Self`, or a `Result` of it");
                false
            }
        };
        Self {
            docs: docs(&written),
            at: written.sig.ident.span(),
            is_async: written.sig.asyncness.is_some(),
            is_fallible,
            vis: written.vis,
            params,
        }
    }
}

impl Method {
    fn of(
        mut written: ImplItemFn,
        taken: Taken,
        of_actor: &Options,
        diag: &mut Diag,
    ) -> Option<Self> {
        let before = diag.len();
        function(&written, "a method of an actor", diag);
        reserved(&written.sig, diag);
        let tokens = match taken.method.as_ref().map(|attr| (attr, &attr.meta)) {
            None | Some((_, Meta::Path(_))) => TokenStream::new(),
            Some((_, Meta::List(list))) => list.tokens.clone(),
            Some((attr, Meta::NameValue(_))) => {
                diag.error(
                    attr,
                    "write the options in parentheses, as in `#[method(retries = 5)]`",
                );
                TokenStream::new()
            }
        };
        let mut options = Options::parse(METHOD, tokens, diag);
        options.root = of_actor.root.clone();
        // A call that failed can be made again by who made it, so it is tried again only where that is asked for.
        options.retries.get_or_insert(0);
        let receiver = written.sig.receiver().cloned()?;
        let (is_borrowed, is_query) = match &receiver.kind {
            syn::ReceiverKind::Reference(_, None, mutability) => (true, mutability.is_none()),
            _ => (false, false),
        };
        if !is_borrowed {
            diag.error(
                &receiver,
                "an actor keeps its state: take `&mut self` to change it, `&self` to look at it",
            );
        }
        let params = params(&mut written.sig, &options, diag);
        let returns = Returns::of(&written.sig, &options);
        if let ReturnType::Type(_, returned) = &written.sig.output {
            check::returns(returned, &written.sig.generics, diag);
        }
        let yields_workflow = matches!(returns.shape, Shape::Workflow | Shape::ResultOfWorkflow);
        if is_query && yields_workflow {
            let message = "a method that takes `&self` only looks at the state, outside of the actor's order, so nothing could keep \
                           the workflow that it returns: take `&mut self`";
            diag.error(&written.sig.output, message);
        }
        if let Some(exclusive) = &taken.exclusive
            && !(yields_workflow || returns.shape == Shape::ResultOfUnknown)
        {
            let message = "`#[exclusive]` makes other calls wait for the workflow that a method returns, and this one returns none: \
                           leave it out";
            diag.error(exclusive, message);
        }
        let is_sound = diag.len() == before;
        is_sound.then(|| Self {
            options,
            docs: docs(&written),
            vis: written.vis,
            is_async: written.sig.asyncness.is_some(),
            ident: written.sig.ident,
            is_query,
            is_exclusive: taken.exclusive.is_some(),
            params,
            returns,
        })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| !param.is_resource)
    }

    /// What stored calls find it by.
    pub(super) fn label(&self) -> String {
        match &self.options.name {
            Some(name) => name.value(),
            None => self.ident.unraw().to_string(),
        }
    }
}

/// A stored call could be meant for either of two methods of one name.
fn names_of(methods: &[Method], diag: &mut Diag) {
    for (n, method) in methods.iter().enumerate() {
        let label = method.label();
        let Some(other) = methods[..n].iter().find(|other| other.label() == label) else {
            continue;
        };
        // Two functions of one name are the compiler's to complain of.
        let Some(name) = method.options.name.as_ref().or(other.options.name.as_ref()) else {
            continue;
        };
        let message = format!(
            "stored calls of `{label}` could be meant for `{}` or for `{}`: give each method a name of its own",
            other.ident, method.ident
        );
        diag.error(name, message);
    }
}

/// Writes the actor's type for `Self`: handles have another one.
struct SelfIs<'a>(&'a Type);

impl VisitMut for SelfIs<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        match bare(ty) {
            Type::Path(path) if path.path.is_ident("Self") => {
                let mut own = self.0.clone();
                // Shown where `Self` stands.
                let at = path.span();
                own = syn::parse2(
                    own.to_token_stream()
                        .into_iter()
                        .map(|mut token| {
                            token.set_span(token.span().located_at(at));
                            token
                        })
                        .collect(),
                )
                .unwrap_or(own);
                *ty = own;
            }
            _ => visit_mut::visit_type_mut(self, ty),
        }
    }

    fn visit_receiver_mut(&mut self, _: &mut syn::Receiver) {}
}
