//! The options of an attribute: `#[step(name = "billing/charge", retries = 5)]`.
//!
//! Each attribute knows some of them; what it says about those that it does not know is the same everywhere.

use std::time::Duration;

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, ExprLit, Lit, LitStr, Path, Token};

use crate::diag::Diag;
use crate::duration;
use crate::paths::Root;

/// An attribute, and what it may say, each with an example of its use.
#[derive(Clone, Copy)]
pub(crate) struct Attr {
    /// What it makes, with its article.
    pub(crate) noun: &'static str,
    known: &'static [(&'static str, &'static str)],
}

/// `#[step(…)]`.
pub(crate) const STEP: Attr = Attr {
    noun: "a step",
    known: &[
        ("name", "name = \"billing/charge\""),
        ("version", "version = 2"),
        ("accepts", "accepts = 1"),
        ("migrate", "migrate = from_v1"),
        ("retries", "retries = 5"),
        ("backoff", "backoff = \"100ms..30s\""),
        ("timeout", "timeout = \"30s\""),
        ("checkpoint", "checkpoint = false"),
        ("codec", "codec = \"bincode\""),
        ("remote", "remote"),
        ("pool", "pool = \"gpu\""),
        ("priority", "priority = 5"),
        ("crate", "crate = my_keepstep"),
    ],
};

/// `#[event_listener(…)]`.
pub(crate) const LISTENER: Attr = Attr {
    noun: "a listener",
    known: &[
        ("name", "name = \"orders/queue\""),
        ("version", "version = 2"),
        ("retries", "retries = 5"),
        ("backoff", "backoff = \"1s..60s\""),
        ("crate", "crate = my_keepstep"),
    ],
};

/// `#[virtual_actor(…)]`.
pub(crate) const ACTOR: Attr = Attr {
    noun: "an actor",
    known: &[
        ("name", "name = \"billing/account\""),
        ("version", "version = 2"),
        ("migrate", "migrate = from_version_1"),
        ("crate", "crate = my_keepstep"),
    ],
};

/// `#[method(…)]` on a method of an actor.
pub(crate) const METHOD: Attr = Attr {
    noun: "a method",
    known: &[
        ("name", "name = \"deposit\""),
        ("retries", "retries = 5"),
        ("backoff", "backoff = \"100ms..30s\""),
        ("timeout", "timeout = \"30s\""),
    ],
};

/// The longest name of a pool, as the queue has it.
const MAX_POOL_BYTES: usize = 200;

/// What an attribute says; `None` where it says nothing.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<u32>,
    pub(crate) retries: Option<u32>,
    pub(crate) backoff: Option<(Duration, Duration)>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) checkpoint: Option<bool>,
    pub(crate) codec: Option<Codec>,
    /// Whether any worker may run it.
    pub(crate) remote: Option<bool>,
    pub(crate) pool: Option<LitStr>,
    pub(crate) priority: Option<i32>,
    pub(crate) migrate: Option<Path>,
    /// Older versions whose stored calls are taken.
    pub(crate) accepts: Vec<Accepts>,
    pub(crate) root: Root,
}

/// An older version whose stored calls a step takes.
pub(crate) struct Accepts {
    /// Where that is said.
    at: Span,
    pub(crate) version: u32,
    /// The function that makes the arguments of now of its arguments, if they are others.
    pub(crate) migrate: Option<Path>,
    /// Written as `accepts = 1`, so that `migrate = f` beside it is meant for it.
    is_short: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Codec {
    MessagePack,
    Bincode,
}

impl Options {
    /// Reads all options; one that is wrong is reported and left out.
    pub(crate) fn parse(attr: Attr, tokens: TokenStream, diag: &mut Diag) -> Self {
        let mut options = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for chunk in split_at_commas(tokens) {
            if attr.knows("accepts")
                && let Some(list) = accepts_list(&chunk)
            {
                match accepts_in_parentheses(&list) {
                    Ok(accepts) => options.accepts.push(accepts),
                    Err(error) => diag.push(error),
                }
                continue;
            }
            let (key, value) =
                match (|input: ParseStream<'_>| attr.key_and_value(input)).parse2(chunk) {
                    Ok(option) => option,
                    Err(error) => {
                        diag.push(error);
                        continue;
                    }
                };
            let name = key.to_string();
            if seen.contains(&name) {
                diag.error(
                    &key,
                    format_args!("`{name}` is given twice: keep one of the two"),
                );
                continue;
            }
            seen.push(name.clone());
            if let Err(error) = options.set(attr, &key, value) {
                diag.push(error);
            } else if ["remote", "pool", "checkpoint"].contains(&&*name) {
                options.check_remote(&key, diag);
            }
        }
        if attr.knows("accepts") {
            options.check_accepts(seen.contains(&"accepts".to_owned()), diag);
        }
        options
    }

    /// Refuses what cannot go with a remote step, once, at the later of the two.
    fn check_remote(&self, at: &Ident, diag: &mut Diag) {
        let is_remote = self.remote == Some(true) || self.pool.is_some();
        if self.pool.is_some() && self.remote == Some(false) {
            diag.error(
                at,
                "a step of a pool is remote: leave `remote = false` out, or `pool`",
            );
        } else if is_remote && self.checkpoint == Some(false) {
            diag.error(
                at,
                "the result of a remote step is stored in any case: leave `checkpoint = false` out, or let the run's owner run the step",
            );
        }
    }

    /// Puts `accepts = 1` and `migrate = f` together, and refuses what cannot be meant.
    fn check_accepts(&mut self, has_short_form: bool, diag: &mut Diag) {
        if let Some(migrate) = self.migrate.take() {
            match self.accepts.iter_mut().find(|accepts| accepts.is_short) {
                Some(accepts) => accepts.migrate = Some(migrate),
                // A mistake in `accepts` has been reported.
                None if has_short_form => {}
                None => diag.error(
                    migrate,
                    "`migrate` makes arguments of an older version those of now, and which version is not said: write \
                     `accepts = 1, migrate = from_v1`, or `accepts(1, migrate = from_v1)` for each of several versions",
                ),
            }
        }
        let own = self.version.unwrap_or(1);
        let mut seen = Vec::new();
        for Accepts { at, version, .. } in &self.accepts {
            if *version == own {
                let message = format!(
                    "this is version {own} itself, whose calls it runs anyway: raise `version`, and accept the older ones"
                );
                diag.push(syn::Error::new(*at, message));
            } else if seen.contains(version) {
                let message = format!("version {version} is accepted twice: keep one of the two");
                diag.push(syn::Error::new(*at, message));
            }
            seen.push(*version);
        }
    }

    fn set(&mut self, attr: Attr, key: &Ident, value: Option<TokenStream>) -> syn::Result<()> {
        let name = key.to_string();
        let Some((_, example)) = attr.known.iter().find(|(known, _)| *known == name) else {
            return Err(attr.unknown(key, &name));
        };
        if name == "remote" && value.is_none() {
            self.remote = Some(true);
            return Ok(());
        }
        let value = Value {
            example,
            tokens: value.ok_or_else(|| no_value(key, &name, example))?,
        };
        match &*name {
            "name" => self.name = Some(value.name(attr)?),
            "version" => self.version = Some(value.number()?),
            "retries" => self.retries = Some(value.number()?),
            "backoff" => self.backoff = Some(value.text(duration::parse_range)?.into_inner()),
            "timeout" => self.timeout = Some(value.text(duration::parse)?),
            "checkpoint" => self.checkpoint = Some(value.bool()?),
            "accepts" => self.accepts.push(Accepts {
                at: key.span(),
                version: value.number()?,
                migrate: None,
                is_short: true,
            }),
            "migrate" => self.migrate = Some(value.path()?),
            "remote" => self.remote = Some(value.bool()?),
            "pool" => self.pool = Some(value.pool()?),
            "priority" => self.priority = Some(value.integer()?),
            "codec" => self.codec = Some(value.text(Codec::parse)?),
            _ => self.root = Root::renamed(value.path()?),
        }
        Ok(())
    }
}

impl Codec {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "msgpack" => Ok(Self::MessagePack),
            "bincode" => Ok(Self::Bincode),
            _ => Err("is not a codec: write `\"msgpack\"` (the default) or `\"bincode\"`".into()),
        }
    }
}

/// What stands behind the `=` of an option.
struct Value<'a> {
    example: &'a str,
    tokens: TokenStream,
}

impl Value<'_> {
    fn wrong(&self, expected: &str) -> syn::Error {
        syn::Error::new_spanned(
            &self.tokens,
            format_args!("this is not {expected}: write `{}`", self.example),
        )
    }

    fn lit(&self) -> Option<Lit> {
        match syn::parse2(self.tokens.clone()) {
            Ok(Expr::Lit(ExprLit { lit, .. })) => Some(lit),
            _ => None,
        }
    }

    fn str(&self) -> syn::Result<LitStr> {
        match self.lit() {
            Some(Lit::Str(text)) => Ok(text),
            _ => Err(self.wrong("a text in quotes")),
        }
    }

    fn text<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> syn::Result<T> {
        let text = self.str()?;
        let value = text.value();
        parse(&value).map_err(|why| syn::Error::new(text.span(), format_args!("`{value}` {why}")))
    }

    fn name(&self, attr: Attr) -> syn::Result<LitStr> {
        let text = self.str()?;
        let value = text.value();
        if value.is_empty() {
            return Err(syn::Error::new(
                text.span(),
                format_args!(
                    "the name of {} cannot be empty: leave `name` out for {}",
                    attr.noun,
                    attr.item()
                ),
            ));
        }
        if let Some(control) = value.chars().find(|c| c.is_control()) {
            let message = format!(
                "the name of {} cannot contain the control character {control:?}: use printable ones",
                attr.noun
            );
            return Err(syn::Error::new(text.span(), message));
        }
        Ok(text)
    }

    fn pool(&self) -> syn::Result<LitStr> {
        let text = self.str()?;
        let value = text.value();
        let error = |message: String| Err(syn::Error::new(text.span(), message));
        if value.is_empty() {
            return error(
                "the name of a pool cannot be empty: write `remote` for the pool of steps that name none"
                    .to_owned(),
            );
        }
        if let Some(control) = value.chars().find(|c| c.is_control()) {
            return error(format!(
                "the name of a pool cannot contain the control character {control:?}: use printable ones"
            ));
        }
        if value.len() > MAX_POOL_BYTES {
            return error(format!(
                "the name of a pool has at most {MAX_POOL_BYTES} bytes, and this one has {}",
                value.len()
            ));
        }
        Ok(text)
    }

    fn integer(&self) -> syn::Result<i32> {
        let wrong = || self.wrong("a whole number from -2147483648 to 2147483647");
        // With a sign it is not a literal.
        let digits = self.tokens.to_string().replace(' ', "");
        match digits.parse() {
            Ok(number) => Ok(number),
            Err(_) => match self.lit() {
                Some(Lit::Int(number)) => number.base10_parse().map_err(|_| wrong()),
                _ => Err(wrong()),
            },
        }
    }

    fn number(&self) -> syn::Result<u32> {
        match self.lit() {
            Some(Lit::Int(number)) => number
                .base10_parse()
                .map_err(|_| self.wrong("a number from 0 to 4294967295")),
            _ => Err(self.wrong("a number from 0 to 4294967295")),
        }
    }

    fn bool(&self) -> syn::Result<bool> {
        match self.lit() {
            Some(Lit::Bool(value)) => Ok(value.value),
            _ => Err(self.wrong("`true` or `false`")),
        }
    }

    fn path(&self) -> syn::Result<Path> {
        Path::parse_mod_style
            .parse2(self.tokens.clone())
            .map_err(|_| match self.example.starts_with("migrate") {
                true => self.wrong("the path of a function"),
                false => self.wrong("the path of a crate"),
            })
    }
}

/// What stands between the parentheses of `accepts(1, migrate = f)`.
fn accepts_list(chunk: &TokenStream) -> Option<(Span, TokenStream)> {
    let mut tokens = chunk.clone().into_iter();
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(key)), Some(TokenTree::Group(list)), None)
            if key == "accepts" && list.delimiter() == Delimiter::Parenthesis =>
        {
            Some((key.span(), list.stream()))
        }
        _ => None,
    }
}

fn accepts_in_parentheses((at, list): &(Span, TokenStream)) -> syn::Result<Accepts> {
    let wrong = |at: Span| {
        let message = "write a version, and a function if its arguments are others, as in `accepts(1, migrate = from_v1)`";
        syn::Error::new(at, message)
    };
    let mut chunks = split_at_commas(list.clone()).into_iter();
    let version = chunks.next().ok_or_else(|| wrong(*at))?;
    let example = "accepts(1, migrate = from_v1)";
    let version = Value {
        example,
        tokens: version,
    };
    let version = version.number()?;
    let migrate = match chunks.next() {
        None => None,
        Some(chunk) => {
            let parse = |input: ParseStream<'_>| {
                let key: Ident = input.parse()?;
                input.parse::<Token![=]>()?;
                if key != "migrate" {
                    return Err(wrong(key.span()));
                }
                Path::parse_mod_style(input)
            };
            Some(parse.parse2(chunk).map_err(|error| wrong(error.span()))?)
        }
    };
    match chunks.next() {
        Some(_) => Err(wrong(*at)),
        None => Ok(Accepts {
            at: *at,
            version,
            migrate,
            is_short: false,
        }),
    }
}

/// Cuts the options apart, so that a mistake in one does not hide those in the next.
fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut chunks = vec![TokenStream::new()];
    for token in tokens {
        match (&token, chunks.last_mut()) {
            (TokenTree::Punct(punct), _) if punct.as_char() == ',' => {
                chunks.push(TokenStream::new())
            }
            (_, Some(last)) => last.extend([token]),
            (_, None) => {}
        }
    }
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

impl Attr {
    fn knows(self, name: &str) -> bool {
        self.known.iter().any(|(known, _)| *known == name)
    }

    /// What its name is taken from where it is given none.
    fn item(self) -> &'static str {
        match self.noun {
            "an actor" => "the path of its type",
            "a method" => "the name of its function",
            _ => "the path of its function",
        }
    }

    fn key_and_value(self, input: ParseStream<'_>) -> syn::Result<(Ident, Option<TokenStream>)> {
        if !input.peek(Ident::peek_any) {
            let rest: TokenStream = input.parse()?;
            let message = format!(
                "expected an option, such as `{}` {}",
                self.known[0].1,
                self.list()
            );
            return Err(syn::Error::new_spanned(rest, message));
        }
        let key = input.call(Ident::parse_any)?;
        if !input.is_empty() && input.parse::<Option<Token![=]>>()?.is_none() {
            let rest: TokenStream = input.parse()?;
            let message = format!(
                "expected `=` after `{key}`: write {}",
                self.example_of(&key.to_string())
            );
            return Err(syn::Error::new_spanned(rest, message));
        }
        let value: TokenStream = input.parse()?;
        Ok((key, (!value.is_empty()).then_some(value)))
    }

    fn example_of(self, name: &str) -> String {
        match self.known.iter().find(|(known, _)| *known == name) {
            Some((_, example)) => format!("`{example}`"),
            None => format!("`{name} = value`"),
        }
    }

    fn unknown(self, key: &Ident, name: &str) -> syn::Error {
        let nearest = self
            .known
            .iter()
            .map(|(known, _)| (distance(name, known), *known))
            .min();
        let hint = match nearest {
            Some((distance, known)) if distance <= 2.max(known.len() / 3) => {
                format!("; did you mean `{known}`?")
            }
            _ => String::new(),
        };
        syn::Error::new(
            key.span(),
            format_args!("{} has no option `{name}`{hint} {}", self.noun, self.list()),
        )
    }

    fn list(self) -> String {
        let names: Vec<_> = self
            .known
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        format!("(the options are {})", names.join(", "))
    }
}

fn no_value(key: &Ident, name: &str, example: &str) -> syn::Error {
    syn::Error::new(
        key.span(),
        format_args!("`{name}` needs a value: write `{example}`"),
    )
}

/// How many letters to add, remove or replace to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A duration as code that is constant.
pub(crate) fn duration_tokens(duration: Duration) -> TokenStream {
    let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#secs, #nanos))
}
