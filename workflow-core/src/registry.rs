//! The steps of the program, found by name and version.

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::step::StepDef;

/// A step that the linker collects.
#[derive(Debug)]
#[doc(hidden)]
pub struct Registered(pub &'static StepDef);

inventory::collect!(Registered);

/// Every step of the program.
#[derive(Debug)]
pub(crate) struct Registry {
    by_name: FxHashMap<(&'static str, u32), &'static StepDef>,
}

impl Registry {
    /// The program's steps, checked once.
    ///
    /// # Errors
    /// [`Error::DuplicateStep`] if two steps have one name and version.
    pub(crate) fn global() -> Result<&'static Self, Error> {
        static REGISTRY: OnceLock<Result<Registry, Error>> = OnceLock::new();
        REGISTRY
            .get_or_init(|| Self::of(inventory::iter::<Registered>().map(|step| step.0)))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn of(steps: impl Iterator<Item = &'static StepDef>) -> Result<Self, Error> {
        let mut by_name = FxHashMap::default();
        for step in steps {
            if let Some(other) = by_name.insert((step.name, step.version), step)
                && !std::ptr::eq::<StepDef>(other, step)
            {
                let mut places = [other, step].map(|step| format!("{}:{}", step.file, step.line));
                places.sort();
                let [first, second] = places;
                return Err(Error::DuplicateStep {
                    name: step.name.into(),
                    version: step.version,
                    first,
                    second,
                });
            }
        }
        Ok(Self { by_name })
    }

    pub(crate) fn find(&self, name: &str, version: u32) -> Option<&'static StepDef> {
        // The key's `&'static str` compares with any `&str`, but `HashMap` cannot know that for a tuple.
        let key: (&str, u32) = (name, version);
        self.by_name.get::<(&str, u32)>(&key).copied()
    }
}
