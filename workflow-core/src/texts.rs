//! Texts of errors, as far as they are kept: what a user's error says may be of any length, and is stored, sent and logged.

use std::error::Error;
use std::fmt::{self, Write};

/// How many bytes are kept of an error's message and of its causes, together.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// What says how much was cut is no longer.
const NOTE: usize = 64;
/// How many causes are kept.
const MAX_CAUSES: usize = 256;

/// What something says, as far as it is kept. No more than that is ever in memory.
pub(crate) fn kept(what: impl fmt::Display) -> String {
    let mut text = Kept::with_room(MAX_BYTES);
    // It takes everything; what an implementation that fails has written until then is kept.
    let _ = write!(text, "{what}");
    text.finish()
}

/// A text, as far as it is kept.
pub(crate) fn cut(text: String) -> String {
    match text.len() > MAX_BYTES {
        true => kept(text),
        false => text,
    }
}

/// What an error and those behind it say, as far as it is kept.
pub(crate) fn of_error(error: &(dyn Error + 'static)) -> (String, Vec<String>) {
    let mut next = error.source();
    let causes = std::iter::from_fn(|| {
        let cause = next?;
        next = cause.source();
        Some(cause)
    });
    all_kept(error, causes)
}

/// A message and causes, as far as they are kept.
pub(crate) fn cut_all(message: String, causes: Vec<String>) -> (String, Vec<String>) {
    let len = message.len() + causes.iter().map(String::len).sum::<usize>();
    match len > MAX_BYTES || causes.len() > MAX_CAUSES {
        true => all_kept(message, causes.into_iter()),
        false => (message, causes),
    }
}

fn all_kept(
    message: impl fmt::Display,
    mut causes: impl Iterator<Item = impl fmt::Display>,
) -> (String, Vec<String>) {
    // What says that there were more causes is to have room.
    let mut text = Kept::with_room(MAX_BYTES - NOTE);
    let _ = write!(text, "{message}");
    let message = text.finish();
    let mut room = MAX_BYTES.saturating_sub(message.len());
    let mut texts = Vec::new();
    while room > 2 * NOTE && texts.len() + 1 < MAX_CAUSES {
        let Some(cause) = causes.next() else {
            return (message, texts);
        };
        let mut text = Kept::with_room(room - NOTE);
        let _ = write!(text, "{cause}");
        let text = text.finish();
        room = room.saturating_sub(text.len());
        texts.push(text);
    }
    match causes.count() {
        0 => {}
        more => texts.push(format!("… (cut: {more} more causes)")),
    }
    (message, texts)
}

/// The beginning of a text, and how much more there was.
struct Kept {
    text: String,
    room: usize,
    more: usize,
}

impl Kept {
    /// One that is no longer than this when it is finished, also if it is cut.
    fn with_room(room: usize) -> Self {
        Self {
            text: String::new(),
            room,
            more: 0,
        }
    }

    fn finish(mut self) -> String {
        if self.more == 0 {
            return self.text;
        }
        let end = floor(&self.text, self.room.saturating_sub(NOTE));
        let more = self.more + self.text.len() - end;
        self.text.truncate(end);
        self.text.push_str(&format!("… (cut: {more} more bytes)"));
        self.text
    }
}

/// The last end of a character that is not behind `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

impl Write for Kept {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Behind what was cut nothing is kept.
        let room = match self.more {
            0 => self.room - self.text.len(),
            _ => 0,
        };
        let end = floor(text, room);
        self.text.push_str(&text[..end]);
        self.more += text.len() - end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Link(String, Option<Box<Link>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&**self.1.as_ref()?)
        }
    }

    fn total((message, causes): &(String, Vec<String>)) -> usize {
        message.len() + causes.iter().map(String::len).sum::<usize>()
    }

    #[test]
    fn texts_are_kept_to_their_bound_and_say_what_was_cut() {
        assert_eq!(kept("short"), "short");
        let most = "x".repeat(MAX_BYTES);
        assert_eq!(kept(&most), most);
        assert_eq!(cut(most.clone()), most);
        let long = kept(format_args!("{most}y"));
        assert!(long.len() <= MAX_BYTES && long.len() > MAX_BYTES - 2 * NOTE);
        let (text, note) = long.split_once('…').unwrap();
        assert!(text.bytes().all(|byte| byte == b'x'));
        assert_eq!(
            note,
            format!(" (cut: {} more bytes)", MAX_BYTES + 1 - text.len())
        );
        // In the middle of no character, wherever the bound is.
        for shift in 0..4 {
            let text = format!("{}{}", "a".repeat(shift), "🦀".repeat(MAX_BYTES));
            let cut = cut(text);
            assert!(cut.len() <= MAX_BYTES && cut.contains("🦀…"), "{shift}");
        }
    }

    #[test]
    fn causes_share_the_bound_with_their_message() {
        let chain = |texts: &[usize]| {
            let link = |inner, len: &usize| Some(Box::new(Link("e".repeat(*len), inner)));
            *texts.iter().rev().fold(None, link).unwrap()
        };
        let few = of_error(&chain(&[10, 20, 30]));
        assert_eq!((few.1.len(), total(&few)), (2, 60));
        for lens in [
            &[MAX_BYTES, 10, 10][..],
            &[10, MAX_BYTES, 10],
            &[40_000, 40_000, 5],
            &[0; 5000],
        ] {
            let kept = of_error(&chain(lens));
            assert!(total(&kept) <= MAX_BYTES, "{}", total(&kept));
            let last = kept.1.last().unwrap();
            assert!(last.ends_with("more causes)") || last.ends_with("more bytes)"));
            let (message, causes) = kept;
            let again = cut_all(message.clone(), causes.clone());
            assert!(again == (message, causes), "it was cut again");
        }
    }
}
