//! How deep the arguments of a stored plan may nest: whatever the bytes say, reading them must not take the whole stack.

use std::cell::Cell;

use serde::{Deserialize, Deserializer, de};

/// Containers in containers follow from types, which people write: nobody nests them so deep.
const MAX_DEPTH: u32 = 128;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Deserializes what stands inside an argument.
pub(super) fn nested<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let depth = DEPTH.get();
    if depth == MAX_DEPTH {
        return Err(de::Error::custom(format_args!(
            "an argument nests more than {MAX_DEPTH} containers"
        )));
    }
    /// Counts back whichever way the inner deserializer is left.
    struct Level(u32);
    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(self.0);
        }
    }
    DEPTH.set(depth + 1);
    let _level = Level(depth);
    T::deserialize(deserializer)
}
