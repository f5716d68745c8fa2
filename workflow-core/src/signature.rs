//! The types of a step's parameters and of its result: trying whether stored arguments decode, and telling what they look like.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::shape::Shape;
use crate::step::{StepFault, StepInput};
use crate::value::{Doubts, Readable};

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
}

/// What is known of a step's types.
#[derive(Debug)]
struct Known {
    params: Vec<Readable>,
    result: Readable,
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
        }
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(|| {
            let params: Vec<Shape> = self.params.iter().map(|shape| shape()).collect();
            let result = (self.result)();
            let all = params.iter().chain([&result]);
            Known {
                fingerprints: all.map(Shape::fingerprint).collect(),
                params: params.into_iter().map(Readable::new).collect(),
                result: Readable::new(result),
            }
        })
    }

    /// A fingerprint of each parameter, then that of the result.
    pub(crate) fn fingerprints(&self) -> &Arc<[u32]> {
        &self.known().fingerprints
    }

    /// The shape of a parameter.
    pub(crate) fn param(&self, index: usize) -> Option<&Shape> {
        self.known().params.get(index).map(Readable::shape)
    }

    /// What is known of the result.
    pub(crate) fn result(&self) -> &Readable {
        &self.known().result
    }

    /// Whether an argument of so many bytes is read again before it is stored.
    pub(crate) fn must_read_param(&self, index: usize, len: usize, doubts: Doubts) -> bool {
        let param = self.known().params.get(index);
        param.is_none_or(|param| param.must_read(len, doubts))
    }

    /// An argument was read again, and was what was written.
    #[cold]
    pub(crate) fn param_was_read(&self, index: usize, doubts: Doubts) {
        if let Some(param) = self.known().params.get(index) {
            param.was_read(doubts);
        }
    }

    /// Whether an argument decodes.
    pub(crate) fn probe(&self, input: &StepInput, index: usize) -> Result<(), StepFault> {
        (self.probe)(input, index)
    }
}
