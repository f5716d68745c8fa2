//! The arguments of a step in a plan. Most steps have one, which then stands in the node itself.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use super::Arg;

/// A step's arguments. Stored as a list.
pub(crate) type Args = SmallVec<[Arg; 1]>;

pub(super) fn serialize<S: Serializer>(args: &Args, serializer: S) -> Result<S::Ok, S::Error> {
    args.as_slice().serialize(serializer)
}

/// By way of a `Vec`, which takes no memory for a length that is not true.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Args, D::Error> {
    Ok(Vec::deserialize(deserializer)?.into_iter().collect())
}
