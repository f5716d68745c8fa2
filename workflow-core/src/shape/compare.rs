//! Whether values of one shape decode as another: for results that are not there yet.

use super::{AGAIN, ANY, Kind, MAP, NEWTYPE, OPTION, SEQ, Shape, element, field, some, variant};

/// A place at which values of one shape may not decode as the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The path of the place in what is expected; empty for the value itself.
    pub(crate) field: String,
    /// What is wrong there.
    pub(crate) message: String,
}

/// Deeper than any shape is: what refers to itself is compared no further.
const MAX_DEPTH: usize = 64;

impl Shape {
    /// Why values of this shape may not decode as what is expected, at a path of that.
    pub(crate) fn misfit(&self, expected: &Self, at: &str) -> Option<Difference> {
        Comparison {
            given: self,
            expected,
        }
        .at("", at, 0)
    }
}

struct Comparison<'a> {
    given: &'a Shape,
    expected: &'a Shape,
}

impl Comparison<'_> {
    fn at(&self, given: &str, expected: &str, depth: usize) -> Option<Difference> {
        // What is not known fits.
        let (given_kind, expected_kind) = (self.given.kind(given)?, self.expected.kind(expected)?);
        if depth > MAX_DEPTH {
            return None;
        }
        let differ = |message: String| {
            let field = expected.trim_start_matches('.').to_owned();
            Some(Difference { field, message })
        };
        let further = |a: String, b: String| self.at(&a, &b, depth + 1);
        match (given_kind, expected_kind) {
            (Kind::Plain(ANY | AGAIN), _) | (_, Kind::Plain(ANY | AGAIN)) => None,
            (Kind::Plain(OPTION), Kind::Plain(OPTION)) => further(some(given), some(expected)),
            (_, Kind::Plain(OPTION)) => further(given.to_owned(), some(expected)),
            (Kind::Plain(OPTION), _) => further(some(given), expected.to_owned())
                .or_else(|| differ("it may be none".into())),
            (Kind::Struct(has), Kind::Struct(wants)) => wants.iter().find_map(|name| {
                let inner = field(expected, name);
                if has.contains(name) {
                    return further(field(given, name), inner);
                }
                // A field that is an option may be missing.
                let is_option = matches!(self.expected.kind(&inner), Some(Kind::Plain(OPTION)));
                (!is_option).then(|| Difference {
                    field: inner.trim_start_matches('.').to_owned(),
                    message: "it is missing, which only a field with a default may be".into(),
                })
            }),
            (Kind::Enum(has), Kind::Enum(knows)) => has.iter().find_map(|name| {
                if !knows.contains(name) {
                    return differ(format!(
                        "it may be the variant `{name}`, which is not known"
                    ));
                }
                further(variant(given, name), variant(expected, name))
            }),
            (Kind::Tuple(has), Kind::Tuple(wants)) if has == wants => (0..*has).find_map(|n| {
                let n = n.to_string();
                further(field(given, &n), field(expected, &n))
            }),
            (Kind::Plain(SEQ | MAP | NEWTYPE), Kind::Plain(_)) if given_kind == expected_kind => {
                further(element(given), element(expected))
            }
            (Kind::Plain(SEQ), Kind::Tuple(_)) | (Kind::Tuple(_), Kind::Plain(SEQ)) => None,
            (Kind::Struct(_), Kind::Plain(MAP)) | (Kind::Plain(MAP), Kind::Struct(_)) => None,
            (Kind::Plain(a), Kind::Plain(b)) if a == b || widens(a, b) => None,
            (a, b) => differ(format!("it is {}, and {} is expected", told(a), told(b))),
        }
    }
}

/// Whether every value of the one number is one of the other.
fn widens(from: &str, to: &str) -> bool {
    let bits = |name: &str| name.get(1..).and_then(|bits| bits.parse::<u32>().ok());
    match (
        from.as_bytes().first(),
        to.as_bytes().first(),
        bits(from),
        bits(to),
    ) {
        (Some(b'u'), Some(b'u'), Some(from), Some(to)) => from <= to,
        (Some(b'i'), Some(b'i'), Some(from), Some(to)) => from <= to,
        (Some(b'u'), Some(b'i'), Some(from), Some(to)) => from < to,
        (Some(b'u' | b'i' | b'f'), Some(b'f'), Some(from), Some(to)) => from <= to,
        _ => false,
    }
}

fn told(kind: &Kind) -> String {
    match kind {
        Kind::Plain(kind) => format!("`{kind}`"),
        Kind::Tuple(len) => format!("a tuple of {len}"),
        Kind::Struct(_) => "a struct".to_owned(),
        Kind::Enum(_) => "an enum".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    fn misfit<A: DeserializeOwned, B: DeserializeOwned>() -> Option<String> {
        let difference = Shape::of::<A>().misfit(&Shape::of::<B>(), "")?;
        Some(difference.field)
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Old {
        id: u32,
        lines: Vec<OldLine>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct OldLine {
        price: String,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Wider {
        lines: Vec<OldLine>,
        note: Option<String>,
        id: i64,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct Other {
        lines: Vec<OtherLine>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct OtherLine {
        price: u64,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is looked at")]
    struct More {
        id: u32,
        currency: String,
    }

    #[test]
    fn what_decodes_fits_and_what_may_not_is_named_by_its_field() {
        assert_eq!(misfit::<Old, Old>(), None);
        assert_eq!(misfit::<Old, Wider>(), None);
        assert_eq!(misfit::<Old, Other>().as_deref(), Some("lines[].price"));
        assert_eq!(misfit::<Old, More>().as_deref(), Some("currency"));
        assert_eq!(misfit::<Wider, Old>().as_deref(), Some("id"));
        assert_eq!(misfit::<u8, String>().as_deref(), Some(""));
        assert_eq!(misfit::<Option<u8>, u8>().as_deref(), Some(""));
        assert_eq!(misfit::<u8, Option<u16>>(), None);
        assert_eq!(misfit::<serde_json::Value, Old>(), None);
        assert_eq!(misfit::<u32, f64>(), None);
        assert_eq!(misfit::<Result<u8, String>, Result<u8, String>>(), None);
        assert_eq!(
            misfit::<Result<u16, String>, Result<u8, String>>().as_deref(),
            Some("#Ok[]")
        );
    }
}
