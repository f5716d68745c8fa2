//! Names and keys as the database has them. Its texts hold no zero character, and the rows of its indexes are short.

use crate::ValueKey;

/// A longer name is hashed.
const LONGEST_NAME: usize = 200;
/// Begins a hashed name. No text has this byte.
const HASHED: u8 = 0xff;
/// Stands for a zero character, in texts that are for people.
const ZERO_SIGN: &str = "\u{2400}";

/// A text for people.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', ZERO_SIGN)
}

/// The key of a message, or the name of a value.
pub(super) fn key(name: &str) -> Vec<u8> {
    if name.len() <= LONGEST_NAME {
        return name.as_bytes().to_vec();
    }
    let mut key = vec![HASHED];
    key.extend_from_slice(blake3::hash(name.as_bytes()).as_bytes());
    key
}

pub(super) fn value(value: &ValueKey) -> (i16, Vec<u8>) {
    match value {
        ValueKey::Output => (1, Vec::new()),
        ValueKey::Error => (2, Vec::new()),
        ValueKey::Metadata => (3, Vec::new()),
        ValueKey::Step(name) => (4, key(name)),
        ValueKey::State => (5, Vec::new()),
        ValueKey::Agenda => (6, Vec::new()),
        ValueKey::Result(call) => (7, key(call)),
        ValueKey::Declined => (8, Vec::new()),
        ValueKey::AgendaPage(page) => (9, page.to_be_bytes().to_vec()),
        ValueKey::Interrupted => (10, Vec::new()),
    }
}

/// The first text after all that begin with `prefix`, in the order of code points; `None` if there is none.
pub(super) fn end_of(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The step over the surrogates is the only one that has none.
        let next = (u32::from(last) + 1..).take(0x801).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_after_all_that_begin_with_it() {
        assert_eq!(end_of("ab").unwrap(), "ac");
        assert_eq!(end_of("a\u{d7ff}").unwrap(), "a\u{e000}");
        assert_eq!(end_of("a\u{10ffff}").unwrap(), "b");
        assert_eq!(end_of("\u{10ffff}"), None);
        assert_eq!(end_of(""), None);
    }

    #[test]
    fn names_are_told_apart_however_long() {
        let long = "x".repeat(5_000);
        let names = ["", "a", "a\0", &long, &format!("{long}a")];
        for (n, one) in names.iter().enumerate() {
            assert!(key(one).len() <= LONGEST_NAME);
            assert!(names[n + 1..].iter().all(|other| key(other) != key(one)));
        }
        assert_eq!(text("a\0b"), "a␀b");
    }
}
