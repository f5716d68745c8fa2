//! The function that `#[step]` stands on, as it is written.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Ident, Signature, Token, Visibility};

/// A function whose body is left as it is: what stands there is for the compiler to judge.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: Group,
}

/// Reads the function.
///
/// # Errors
/// If it is not one, an error that says what it is.
pub(crate) fn function(item: TokenStream) -> syn::Result<Function> {
    syn::parse2(item)
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis: Visibility = input.parse()?;
        refuse_other_items(input)?;
        let sig: Signature = input.parse()?;
        if let Some(semicolon) = input.parse::<Option<Token![;]>>()? {
            let message = "a step needs a body: `#[step]` goes on a free function, not on the declaration of a method";
            return Err(syn::Error::new_spanned(semicolon, message));
        }
        match input.parse()? {
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => Ok(Self {
                attrs,
                vis,
                sig,
                body,
            }),
            other => Err(syn::Error::new_spanned(
                other,
                "expected the body of the step in braces",
            )),
        }
    }
}

/// Names what `#[step]` was put on if that does not begin like a function.
fn refuse_other_items(input: ParseStream<'_>) -> syn::Result<()> {
    let first = match input.fork().call(Ident::parse_any) {
        Ok(first) => first,
        Err(_) => return Err(input.error("`#[step]` goes on a function: write `async fn` or `fn`")),
    };
    let is_const_item = first == "const"
        && !(input.peek2(Token![fn])
            || input.peek2(Token![async])
            || input.peek2(Token![unsafe])
            || input.peek2(Token![extern]));
    let what = match &*first.to_string() {
        "struct" => "a struct",
        "enum" => "an enum",
        "union" => "a union",
        "trait" => "a trait",
        "impl" => "an `impl` block: put it on free functions",
        "mod" => "a module: put it on each function",
        "static" => "a static",
        "type" => "a type alias",
        "use" => "an import: put it where the function is defined",
        "let" => "a statement",
        "macro_rules" => "a macro",
        "const" if is_const_item => "a constant",
        _ => return Ok(()),
    };
    Err(syn::Error::new(
        first.span(),
        format_args!("`#[step]` goes on a function (`async fn` or `fn`), not on {what}"),
    ))
}
