//! The program that starts runs, as they record it.

use std::fmt;

use keepstep_storage::Build;
use serde::{Deserialize, Serialize};

/// The program that a run was started by: see [`Metadata::build`](crate::Metadata::build).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuildInfo {
    /// What its people called it with [`EngineBuilder::build_id`](crate::EngineBuilder::build_id); empty if they did not.
    pub id: String,
    /// A hash of its steps, with their versions and the types of their parameters and results, in hexadecimal. Programs with the
    /// same one have the same steps as far as runs can tell.
    pub steps: String,
    /// Whether the store keeps its executable for the run: see [`Engine::executable_of`](crate::Engine::executable_of).
    pub has_executable: bool,
}

impl BuildInfo {
    pub(super) fn of(build: &Build) -> Self {
        Self {
            id: build.label.clone(),
            steps: format!("{:016x}", build.steps),
            has_executable: build.executable.is_some(),
        }
    }
}

impl fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.id {
            "" => write!(f, "a build without an id (steps {})", self.steps),
            id => write!(f, "build {id:?} (steps {})", self.steps),
        }
    }
}

/// A label that is short enough for every record.
pub(super) fn label(id: &str) -> String {
    const MAX_BYTES: usize = 64;
    let mut end = id.len().min(MAX_BYTES);
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    id[..end].to_owned()
}
