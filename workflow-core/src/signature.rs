//! The types of a step's parameters and of its result: trying whether stored arguments decode, and telling what they look like.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::shape::Shape;
use crate::step::{StepFault, StepInput};
use crate::value::Reading;

/// What the parameters of a step and its result are, as generated code knows them.
#[doc(hidden)]
pub struct StepTypes {
    /// Decodes an argument, and drops it.
    probe: fn(&StepInput, usize) -> Result<(), StepFault>,
    /// The shapes of the parameters that are values, in order.
    params: &'static [fn() -> Shape],
    result: fn() -> Shape,
    /// Found out once, when the first plan with the step is made.
    known: OnceLock<Known>,
    /// Whether a result was read again in this process.
    was_read: AtomicBool,
}

/// A longer result is not read again only because none was yet.
const MAX_TRIED_BYTES: usize = 4 << 10;

/// The shapes of a step's types.
#[derive(Debug)]
struct Known {
    params: Vec<Shape>,
    params_are_plain: Vec<bool>,
    result: Shape,
    result_is_plain: bool,
    fingerprints: Arc<[u32]>,
}

impl fmt::Debug for StepTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepTypes({} parameters)", self.params.len())
    }
}

impl StepTypes {
    /// What generated code says.
    pub const fn new(
        probe: fn(&StepInput, usize) -> Result<(), StepFault>,
        params: &'static [fn() -> Shape],
        result: fn() -> Shape,
    ) -> Self {
        Self {
            probe,
            params,
            result,
            known: OnceLock::new(),
            was_read: AtomicBool::new(false),
        }
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(|| {
            let params: Vec<Shape> = self.params.iter().map(|shape| shape()).collect();
            let result = (self.result)();
            let all = params.iter().chain([&result]);
            Known {
                fingerprints: all.map(Shape::fingerprint).collect(),
                params_are_plain: params.iter().map(Shape::is_plain).collect(),
                result_is_plain: result.is_plain(),
                params,
                result,
            }
        })
    }

    /// A fingerprint of each parameter, then that of the result.
    pub(crate) fn fingerprints(&self) -> &Arc<[u32]> {
        &self.known().fingerprints
    }

    /// The shape of a parameter.
    pub(crate) fn param(&self, index: usize) -> Option<&Shape> {
        self.known().params.get(index)
    }

    /// The shape of the result.
    pub(crate) fn result(&self) -> &Shape {
        &self.known().result
    }

    /// Whether every argument for a parameter can be read, as far as its type tells.
    pub(crate) fn is_plain_param(&self, index: usize) -> bool {
        let plain = &self.known().params_are_plain;
        plain.get(index).copied().unwrap_or(false)
    }

    /// How far a result of so many bytes is read again. The first one in a process is read even if its type tells that it can
    /// be: a type may write something else than it reads.
    pub(crate) fn reading_of_result(&self, len: usize) -> Reading {
        let was_read = || self.was_read.load(Ordering::Relaxed) || len > MAX_TRIED_BYTES;
        match self.known().result_is_plain {
            false => Reading::Compared,
            true if was_read() => Reading::Not,
            true => Reading::Tried,
        }
    }

    /// A result was read again.
    pub(crate) fn result_was_read(&self) {
        if !self.was_read.load(Ordering::Relaxed) {
            self.was_read.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an argument decodes.
    pub(crate) fn probe(&self, input: &StepInput, index: usize) -> Result<(), StepFault> {
        (self.probe)(input, index)
    }
}
