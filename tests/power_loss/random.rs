//! Numbers that a seed decides.

/// Xorshift.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// `salt` tells those apart that have one seed.
    pub(crate) fn new(seed: u64, salt: &str) -> Self {
        let mixed = salt.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        Self(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number less than this.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits are the weak ones.
        (self.0 >> 16) % end
    }

    pub(crate) fn is_heads(&mut self) -> bool {
        self.below(2) == 1
    }
}
