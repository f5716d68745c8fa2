//! `#[step]`: parse → model → check → expand.

pub(crate) mod check;
pub(crate) mod expand;
pub(crate) mod model;
mod parse;

use proc_macro2::TokenStream;

use crate::diag::Diag;
use crate::fallback;
use crate::options::{Options, STEP};
pub(crate) use model::Step;

/// Turns a function into a step. What is wrong with it is reported, and the rest of the crate goes on compiling.
pub(crate) fn step(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut diag = Diag::default();
    let options = Options::parse(STEP, options, &mut diag);
    let function = match parse::function(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            diag.push(error);
            return fallback::item(&item, diag);
        }
    };
    let can_be_step = check::function(&function, &mut diag);
    let step = Step::of(function, options);
    let mut code = if can_be_step {
        expand::step(&step)
    } else {
        fallback::stub(&step)
    };
    code.extend(diag.into_compile_errors());
    print_if_asked(&step, &code);
    code
}

/// Shows what a step becomes to who asks for it by name.
fn print_if_asked(step: &Step, code: &TokenStream) {
    let name = step.sig.ident.to_string();
    if std::env::var("KEEPSTEP_DEBUG_MACRO").is_ok_and(|asked| asked == name) {
        eprintln!("{code}");
    }
}
