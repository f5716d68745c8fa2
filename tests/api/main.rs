//! What users write and what it does.

mod basics;
