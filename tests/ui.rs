//! What `#[step]` accepts, and what the compiler says about what it does not.
//!
//! The messages are those of one compiler version. After a change, `TRYBUILD=overwrite cargo test --test ui` writes them
//! anew; read the difference as a user would.

/// Also here, where clippy sees it.
#[path = "ui/pass/lints.rs"]
pub mod lints;

#[test]
fn steps() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/*.rs");
}
