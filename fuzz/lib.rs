//! What the fuzz targets share: each is one decoder, found by its name.

#[doc(hidden)]
pub use libfuzzer_sys;

/// The decoder of this name.
///
/// # Panics
/// If there is none.
pub fn decoder(name: &str) -> fn(&[u8]) {
    let targets = keepstep_core::fuzzing::TARGETS
        .iter()
        .chain(keepstep_core::storage::fuzzing::TARGETS);
    let mut found = targets.filter(|(target, _)| *target == name);
    let (_, decode) = found.next().expect("a decoder has this name");
    *decode
}

/// Makes a program that fuzzes one decoder.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        use $crate::libfuzzer_sys;
        static DECODER: std::sync::LazyLock<fn(&[u8])> =
            std::sync::LazyLock::new(|| $crate::decoder($name));
        libfuzzer_sys::fuzz_target!(|data: &[u8]| (*DECODER)(data));
    };
}
