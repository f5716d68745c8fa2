//! What a step cannot be.

use super::parse::Function;
use crate::diag::Diag;

pub(crate) fn function(_function: &Function, _diag: &mut Diag) {}
