//! The steps of the program, found by name and version.

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::migrate::Accepts;
use crate::step::StepDef;

/// A step that the linker collects.
#[derive(Debug)]
#[doc(hidden)]
pub struct Registered(pub &'static StepDef);

inventory::collect!(Registered);

/// Every step of the program.
#[derive(Debug)]
pub(crate) struct Registry {
    by_name: FxHashMap<(&'static str, u32), Found>,
    build: u64,
}

/// The code that runs a stored call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) def: &'static StepDef,
    /// The version that the call was made for, if it is not the step's own.
    pub(crate) accepted: Option<&'static Accepts>,
}

impl Found {
    /// The version that the call was made for.
    pub(crate) fn version(&self) -> u32 {
        self.accepted
            .map_or(self.def.version, |accepted| accepted.version)
    }
}

impl Registry {
    /// The program's steps, checked once.
    ///
    /// # Errors
    /// [`Error::DuplicateStep`] if two steps have one name and version, [`Error::AcceptedTwice`] if two steps accept the calls of
    /// one.
    pub(crate) fn global() -> Result<&'static Self, Error> {
        static REGISTRY: OnceLock<Result<Registry, Error>> = OnceLock::new();
        REGISTRY
            .get_or_init(|| Self::of(inventory::iter::<Registered>().map(|step| step.0)))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn of(steps: impl Iterator<Item = &'static StepDef>) -> Result<Self, Error> {
        let mut by_name = FxHashMap::default();
        for def in steps {
            let found = Found {
                def,
                accepted: None,
            };
            if let Some(Found { def: other, .. }) = by_name.insert((def.name, def.version), found)
                && !std::ptr::eq::<StepDef>(other, def)
            {
                let (first, second) = places(other, def);
                return Err(Error::DuplicateStep {
                    name: def.name.into(),
                    version: def.version,
                    first,
                    second,
                });
            }
        }
        let build = build_hash(by_name.values().map(|found| found.def));
        let mut accepted: FxHashMap<(&'static str, u32), Found> = FxHashMap::default();
        for def in by_name.values().map(|found| found.def) {
            for older in def.accepts {
                let found = Found {
                    def,
                    accepted: Some(older),
                };
                if let Some(other) = accepted.insert((def.name, older.version), found) {
                    let (first, second) = places(other.def, def);
                    return Err(Error::AcceptedTwice {
                        name: def.name.into(),
                        version: older.version,
                        first,
                        second,
                    });
                }
            }
        }
        for (key, found) in accepted {
            // A step of that very version runs its own calls.
            by_name.entry(key).or_insert(found);
        }
        Ok(Self { by_name, build })
    }

    /// The code that runs a call of this step.
    pub(crate) fn find(&self, name: &str, version: u32) -> Option<Found> {
        // The key's `&'static str` compares with any `&str`, but `HashMap` cannot know that for a tuple.
        let key: (&str, u32) = (name, version);
        self.by_name.get::<(&str, u32)>(&key).copied()
    }

    /// Every name and version whose calls the program runs, and by which code.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, u32, Found)> {
        let calls = self.by_name.iter();
        calls.map(|((name, version), found)| (*name, *version, *found))
    }

    /// The versions of a step that the program can run.
    pub(crate) fn versions(&self, name: &str) -> Vec<u32> {
        let keys = self.by_name.keys().filter(|(own, _)| *own == name);
        let mut versions: Vec<u32> = keys.map(|(_, version)| *version).collect();
        versions.sort_unstable();
        versions
    }

    /// A hash of all steps: their names, versions, and types. Another one is another program, as far as runs can tell.
    pub(crate) fn build(&self) -> u64 {
        self.build
    }
}

fn places(a: &StepDef, b: &StepDef) -> (String, String) {
    let mut places = [a, b].map(|step| format!("{}:{}", step.file, step.line));
    places.sort();
    let [first, second] = places;
    (first, second)
}

fn build_hash(steps: impl Iterator<Item = &'static StepDef>) -> u64 {
    let mut steps: Vec<&StepDef> = steps.collect();
    steps.sort_unstable_by_key(|step| (step.name, step.version));
    let mut hasher = blake3::Hasher::new();
    for step in steps {
        hasher.update(&(step.name.len() as u64).to_le_bytes());
        hasher.update(step.name.as_bytes());
        hasher.update(&step.version.to_le_bytes());
        let fingerprints = step.types.fingerprints();
        hasher.update(&(fingerprints.len() as u64).to_le_bytes());
        for fingerprint in &**fingerprints {
            hasher.update(&fingerprint.to_le_bytes());
        }
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use crate::signature::StepTypes;
    use crate::step::{StepBody, StepOptions};

    fn step(version: u32, accepts: &'static [Accepts], line: u32) -> &'static StepDef {
        Box::leak(Box::new(StepDef {
            name: "pay",
            version,
            params: &[],
            resources: &[],
            options: StepOptions::DEFAULT,
            body: StepBody::Blocking(|_| unreachable!("nothing runs")),
            types: StepTypes::new(|_, _| Ok(()), &[], Shape::of::<()>),
            accepts,
            file: "steps.rs",
            line,
        }))
    }

    const V1: &[Accepts] = &[Accepts {
        version: 1,
        migration: None,
    }];

    #[test]
    fn calls_go_to_their_own_version_and_else_to_the_one_that_accepts_them() {
        let registry = Registry::of([step(1, &[], 1), step(2, V1, 2)].into_iter()).unwrap();
        assert_eq!(registry.find("pay", 1).unwrap().def.version, 1);
        let registry = Registry::of([step(2, V1, 2)].into_iter()).unwrap();
        let found = registry.find("pay", 1).unwrap();
        assert_eq!((found.def.version, found.version()), (2, 1));
        assert_eq!(registry.find("pay", 2).unwrap().version(), 2);
        assert_eq!(registry.versions("pay"), [1, 2]);
        assert!(registry.find("pay", 3).is_none());
    }

    #[test]
    fn two_steps_that_accept_one_version_are_an_error_that_names_both() {
        let error = Registry::of([step(2, V1, 20), step(3, V1, 30)].into_iter()).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, Error::AcceptedTwice { version: 1, .. }));
        for part in ["\"pay\" (version 1)", "steps.rs:20", "steps.rs:30"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn programs_with_other_steps_are_other_builds() {
        let build =
            |steps: &[&'static StepDef]| Registry::of(steps.iter().copied()).unwrap().build();
        let (one, two) = (step(1, &[], 1), step(2, &[], 2));
        assert_eq!(build(&[one, two]), build(&[two, one]));
        // Where a step stands in the source is nothing that runs could tell.
        assert_eq!(build(&[one]), build(&[step(1, &[], 9)]));
        assert_ne!(build(&[one]), build(&[two]));
        assert_ne!(build(&[one]), build(&[one, two]));
    }
}
