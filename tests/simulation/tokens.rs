//! Tokens: texts that executions leave in what they return, and that are found again in whatever bytes come of it.

/// How every token begins. It is in no other text of a program.
pub(crate) const MAGIC: &str = "~k5~";
const DIGITS: usize = 8;
/// How many bytes are looked through at a time.
const PART: usize = 256;

/// The token of this number.
pub(crate) fn token(id: usize) -> String {
    format!("{MAGIC}{id:0DIGITS$x}")
}

/// Every token in some bytes.
pub(crate) fn tokens_in(bytes: &[u8]) -> Vec<u32> {
    let magic = MAGIC.as_bytes();
    let len = magic.len() + DIGITS;
    let begins = |at: &usize| bytes[*at..].starts_with(magic);
    // Values may be long: most of their parts are passed over without a look at each byte.
    let at = (0..bytes.len())
        .step_by(PART)
        .map(|from| from..bytes.len().min(from + PART))
        .filter(|part| bytes[part.clone()].contains(&magic[0]))
        .flatten()
        .filter(|at| at + len <= bytes.len())
        .filter(begins);
    at.filter_map(|at| {
        let digits = std::str::from_utf8(&bytes[at + magic.len()..at + len]).ok()?;
        u32::from_str_radix(digits, 16).ok()
    })
    .collect()
}
