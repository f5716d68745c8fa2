//! The bytes of a value that is being encoded.

use super::SHORT;

/// The bytes of a value that is being encoded: on the stack while they are few.
#[derive(Default)]
pub(super) struct Encoding {
    len: usize,
    short: [u8; SHORT],
    /// All of the bytes, once they are more.
    long: Vec<u8>,
}

impl Encoding {
    #[inline]
    pub(super) fn put(&mut self, more: &[u8]) {
        if let (true, Some(place)) = (
            self.long.is_empty(),
            self.short.get_mut(self.len..self.len + more.len()),
        ) {
            place.copy_from_slice(more);
        } else {
            if self.long.is_empty() {
                self.long.reserve(2 * (self.len + more.len()));
                self.long.extend_from_slice(&self.short[..self.len]);
            }
            self.long.extend_from_slice(more);
        }
        self.len += more.len();
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        if self.long.is_empty() {
            &self.short[..self.len]
        } else {
            &self.long
        }
    }

    /// Puts other bytes in the place of all from `at` on.
    pub(super) fn replace_from(&mut self, at: usize, bytes: &[u8]) {
        let at = at.min(self.len);
        // Emptied, they would count as few, which are elsewhere. The first byte is the tag, so this does not come.
        if at == 0 {
            self.long = Vec::new();
        }
        self.long.truncate(at);
        self.len = at;
        self.put(bytes);
    }

    /// The bytes as they are stored.
    pub(super) fn into_bytes(self) -> bytes::Bytes {
        match self.long.is_empty() {
            true => bytes::Bytes::copy_from_slice(self.as_bytes()),
            false => self.long.into(),
        }
    }
}

impl std::io::Write for Encoding {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.put(bytes);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
