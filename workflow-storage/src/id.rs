//! The small words that every part of keepstep uses: ids, epochs, positions and times.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The longest workflow id, in bytes of UTF-8.
pub const MAX_RUN_ID_BYTES: usize = 255;
/// The longest id that is not a user's.
const MAX_INTERNAL_BYTES: usize = 1023;
/// Begins an id that is not a user's, and stands between its parts. No user's id has it.
const SEPARATOR: char = '\u{1}';

/// The workflow id: the name of one run, unique in a store.
///
/// Any non-empty UTF-8 of up to 255 bytes without control characters. What is not a run of a user's, such as an actor, has
/// an id [of parts](Self::of_parts), which no user can write.
///
/// ```
/// use keepstep_storage::RunId;
///
/// let id = RunId::new("order/17")?;
/// assert_eq!(id.as_str(), "order/17");
/// assert!(RunId::new("").is_err());
/// assert!(RunId::new("a\nb").is_err());
/// # Ok::<(), keepstep_storage::InvalidRunId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Arc<str>);

impl RunId {
    /// Checks and takes an id.
    ///
    /// # Errors
    /// [`InvalidRunId`] says which rule the id breaks.
    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidRunId> {
        let id = id.as_ref();
        Self::check(id)?;
        Ok(Self(id.into()))
    }

    /// The id of something that is not a user's run, made of parts each of which is as an id of a user's is. Ids with the same
    /// first parts sort together, in the order of the next part.
    ///
    /// ```
    /// use keepstep_storage::RunId;
    ///
    /// let id = RunId::of_parts(&["actor", "Counter", "counter_1"])?;
    /// assert_eq!(id.parts().collect::<Vec<_>>(), ["actor", "Counter", "counter_1"]);
    /// assert!(id.as_str().starts_with(&RunId::prefix_of_parts(&["actor", "Counter"])));
    /// assert!(RunId::new(id.as_str()).is_err());
    /// # Ok::<(), keepstep_storage::InvalidRunId>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidRunId`] says which rule a part breaks, or that all of them together are too long.
    pub fn of_parts(parts: &[&str]) -> Result<Self, InvalidRunId> {
        parts.iter().try_for_each(|part| Self::check(part))?;
        let mut id = Self::prefix_of_parts(parts);
        id.pop();
        match id.len() {
            0 => Err(InvalidRunId::Empty),
            bytes if bytes > MAX_INTERNAL_BYTES => Err(InvalidRunId::TooLong { bytes }),
            _ => Ok(Self(id.into())),
        }
    }

    /// What the ids begin with whose first parts are these and that have more.
    #[must_use]
    pub fn prefix_of_parts(parts: &[&str]) -> String {
        let mut prefix = String::from(SEPARATOR);
        for part in parts {
            prefix.push_str(part);
            prefix.push(SEPARATOR);
        }
        prefix
    }

    /// The parts of an id [of parts](Self::of_parts); none of a user's.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        let parts = self.0.strip_prefix(SEPARATOR);
        parts.into_iter().flat_map(|parts| parts.split(SEPARATOR))
    }

    /// Takes an id that was stored.
    pub(crate) fn stored(id: &str) -> Result<Self, InvalidRunId> {
        match id.strip_prefix(SEPARATOR) {
            None => Self::new(id),
            Some(parts) => Self::of_parts(&parts.split(SEPARATOR).collect::<Vec<_>>()),
        }
    }

    fn check(id: &str) -> Result<(), InvalidRunId> {
        if id.is_empty() {
            return Err(InvalidRunId::Empty);
        }
        if id.len() > MAX_RUN_ID_BYTES {
            return Err(InvalidRunId::TooLong { bytes: id.len() });
        }
        match id.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, found)) => Err(InvalidRunId::ControlCharacter { at, found }),
            None => Ok(()),
        }
    }

    /// The id as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.to_string(), f)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.starts_with(SEPARATOR) {
            return f.write_str(&self.0);
        }
        for (n, part) in self.parts().enumerate() {
            f.write_str(if n > 0 { "/" } else { "" })?;
            f.write_str(part)?;
        }
        Ok(())
    }
}

impl Borrow<str> for RunId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for RunId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidRunId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::stored(&id)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// Why a workflow id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRunId {
    /// The id has no characters.
    #[error("an id must not be empty")]
    Empty,
    /// The id is longer than [`MAX_RUN_ID_BYTES`].
    #[error("an id may have at most {MAX_RUN_ID_BYTES} bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The id has a control character.
    #[error("an id must not hold control characters, this one has {found:?} at byte {at}")]
    ControlCharacter {
        /// Where it stands, in bytes from the start.
        at: usize,
        /// The character.
        found: char,
    },
}

/// The number of an owner's turn with a run. Every claim and every release raises it, and every write names it, so that the
/// writes of an owner that lost the run are refused.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a run's first owner.
    pub const FIRST: Self = Self(1);

    /// The epoch of the next owner.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of an entry in a run's journal: 0, 1, 2, … without holes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Position(pub u64);

impl Position {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One opening of a store by one process: the owner of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A point in time: microseconds since 1970-01-01 UTC.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest representable time.
    pub const MAX: Self = Self(u64::MAX);

    /// This time and `duration` more; [`Timestamp::MAX`] where that does not fit.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long from this time until `later`; zero if that is past.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.saturating_sub(self.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_micros(time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_take_any_text_of_255_bytes_without_control_characters() {
        for good in ["a", "order/17", "zażółć 🦀", &"x".repeat(255)] {
            assert_eq!(RunId::new(good).unwrap().as_str(), good);
        }
        assert_eq!(RunId::new(""), Err(InvalidRunId::Empty));
        assert_eq!(
            RunId::new("é".repeat(128)),
            Err(InvalidRunId::TooLong { bytes: 256 })
        );
        for bad in ["\0", "a\tb", "a\u{7f}", "\u{85}"] {
            assert!(
                matches!(RunId::new(bad), Err(InvalidRunId::ControlCharacter { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn ids_of_parts_are_read_back_and_are_no_users() {
        let id = RunId::of_parts(&["actor", "Counter", "a/ü"]).unwrap();
        assert_eq!(RunId::stored(id.as_str()), Ok(id.clone()));
        assert!(RunId::new(id.as_str()).is_err());
        assert_eq!(RunId::new("actor").unwrap().parts().count(), 0);
        for bad in [&[][..], &[""], &["a", ""], &["a\u{1}b"], &["a", "\n"]] {
            assert!(RunId::of_parts(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "\u{1}",
            "\u{1}a\u{1}",
            "\u{1}a\u{1}\u{1}b",
            "\u{1}a\0",
            "a\u{1}b",
        ] {
            assert!(RunId::stored(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_timestamp_is_the_same_after_a_trip_through_system_time() {
        let time = Timestamp(1_700_000_000_123_456);
        assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        assert_eq!(Timestamp::MAX.after(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(time.until(Timestamp(0)), Duration::ZERO);
    }
}
