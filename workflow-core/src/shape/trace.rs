//! Finding out the shape of a type: a deserializer that notes what a type asks for, and answers with samples.
//!
//! A type is deserialized over and over: each time, other variants are chosen, and what failed the last time is avoided. What was
//! noted counts, whether a value came of it or not.

mod pass;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;

use serde::de::DeserializeOwned;

use super::{AGAIN, ANY, Kind, MAP, NEWTYPE, OPTION, SEQ, field};
use pass::Pass;

/// How often a type is deserialized at most.
const MAX_PASSES: usize = 512;
/// How many places of a type are told at most.
const MAX_PLACES: usize = 4096;

/// Numbers that types are asked to take, one after the other.
const NUMBERS: [u8; 3] = [1, 0, 2];
/// What the texts of frequent types look like: numbers, times, dates, addresses, UUIDs, versions.
const TEXTS: [&str; 14] = [
    "",
    "a",
    "0",
    "1970-01-01T00:00:00Z",
    "127.0.0.1",
    "00000000-0000-0000-0000-000000000000",
    "1970-01-01",
    "1970-01-01T00:00:00",
    "00:00:00",
    "1970-01-01 00:00:00.0 +00:00:00",
    "::1",
    "127.0.0.1:1",
    "[::1]:1",
    "1.0.0",
];
const BYTES: [&[u8]; 4] = [&[], &[0; 16], &[0; 32], &[0]];

/// What stands at each place of a type, as far as that can be found out, and whether that is all.
pub(super) fn places<T: DeserializeOwned>() -> (BTreeMap<String, Kind>, bool) {
    let mut known = Known::default();
    let mut is_whole = known.trace::<T>();
    // What stands beside a type inside of itself was left out.
    if is_whole && known.has(AGAIN) {
        known.begin_second_round();
        is_whole = known.trace::<T>();
    }
    let Known {
        mut places,
        skipped,
        ..
    } = known;
    for (path, kind) in &mut places {
        if let Kind::Struct(fields) = kind {
            fields.retain(|name| !skipped.contains(&field(path, name)));
        }
    }
    (places, is_whole)
}

/// What is known of a type from the passes so far, and how the next one goes.
#[derive(Default)]
struct Known {
    places: BTreeMap<String, Kind>,
    /// Which sample stands at a place.
    samples: BTreeMap<String, usize>,
    /// Options, lists and maps that are left empty.
    closed: BTreeSet<String>,
    /// Other names of fields, which are not given.
    skipped: BTreeSet<String>,
    choices: BTreeMap<String, Choice>,
    /// Whether something was left out because no sample was good enough for it, or it is too deep.
    is_cut: bool,
    /// Whether it is known of which variants values can be made, so that types inside of themselves can be made.
    is_second_round: bool,
}

/// Which variant of an enum is chosen.
#[derive(Default)]
struct Choice {
    now: usize,
    /// Variants that need not be tried any more.
    tried: BTreeSet<usize>,
    /// A variant of which a value can be made.
    good: Option<usize>,
    len: usize,
}

impl Choice {
    /// Goes on to a variant that was not tried; `false` if there is none.
    fn advance(&mut self) -> bool {
        self.tried.insert(self.now);
        let next = (0..self.len).find(|index| !self.tried.contains(index));
        self.now = next.or(self.good).unwrap_or(self.now);
        next.is_some()
    }
}

impl Known {
    /// Deserializes a type until all of its places were seen; `false` if that does not come.
    fn trace<T: DeserializeOwned>(&mut self) -> bool {
        for _ in 0..MAX_PASSES {
            let mut pass = Pass {
                known: self,
                path: String::new(),
                inside: Vec::new(),
                shortest: Vec::new(),
                is_endless: false,
                depth: 0,
                visited: Vec::new(),
            };
            // It is the code of users, which may panic.
            let traced = std::panic::catch_unwind(AssertUnwindSafe(|| {
                T::deserialize(&mut pass).map(drop).is_ok()
            }));
            let (path, visited) = (pass.path, pass.visited);
            let goes_on = match traced {
                Ok(true) => self.explore(&visited),
                Ok(false) => self.avoid(&path),
                Err(_) => false,
            };
            let is_too_large = self.places.len() > MAX_PLACES;
            if !goes_on || is_too_large {
                return matches!(traced, Ok(true)) && !self.is_cut && !is_too_large;
            }
        }
        false
    }

    fn has(&self, kind: &'static str) -> bool {
        self.places
            .values()
            .any(|place| *place == Kind::Plain(kind))
    }

    fn begin_second_round(&mut self) {
        self.is_second_round = true;
        self.closed.clear();
        for choice in self.choices.values_mut() {
            choice.now = 0;
            choice.tried.clear();
        }
    }

    /// After a pass that made a value: whether there are variants that none had.
    fn explore(&mut self, visited: &[String]) -> bool {
        for path in visited {
            if let Some(choice) = self.choices.get_mut(path) {
                choice.good.get_or_insert(choice.now);
            }
        }
        // The innermost first: those around it must not turn away before it is done.
        let mut innermost = visited.iter().rev();
        innermost.any(|path| self.choices.get_mut(path).is_some_and(Choice::advance))
    }

    /// After a pass that failed at a path: whether the next one can go otherwise.
    fn avoid(&mut self, path: &str) -> bool {
        let Some(kind) = self.places.get(path) else {
            // A key was refused before its value was asked for: it is another name of a field that was there.
            return self.skipped.insert(path.to_owned());
        };
        let n_samples = match kind {
            Kind::Plain("text") => TEXTS.len(),
            Kind::Plain("bytes") => BYTES.len(),
            Kind::Plain(self::ANY) => ANYTHING,
            Kind::Plain(AGAIN | OPTION | SEQ | MAP | NEWTYPE | "unit" | "bool" | "char") => 0,
            Kind::Plain(_) => NUMBERS.len(),
            _ => 0,
        };
        let sample = self.samples.entry(path.to_owned()).or_default();
        *sample += 1;
        if *sample < n_samples {
            return true;
        }
        *sample = 0;
        if *kind != Kind::Plain(AGAIN) || self.is_second_round {
            self.is_cut = true;
        }
        // Whatever is nearest around it and can do without.
        let mut end = path.len();
        loop {
            let around = &path[..end];
            match self.places.get(around) {
                Some(Kind::Plain(OPTION | SEQ | MAP)) if !self.closed.contains(around) => {
                    return self.closed.insert(around.to_owned());
                }
                Some(Kind::Enum(_)) => {
                    let choice = self.choices.entry(around.to_owned()).or_default();
                    let before = choice.now;
                    if choice.advance() || choice.now != before {
                        return true;
                    }
                }
                _ => {}
            }
            match around.char_indices().next_back() {
                Some((at, _)) => end = at,
                None => return false,
            }
        }
    }
}

/// How many samples there are for a type that takes anything.
const ANYTHING: usize = 5;
