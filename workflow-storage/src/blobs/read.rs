//! A reader that checks what it reads against an address, and says so before it hands out the last of it if it is something else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::{BlobId, StorageError};

/// Reads, and hashes what it reads.
pub(crate) struct Verified<R, F> {
    inner: R,
    id: BlobId,
    /// How many bytes there should still be. Who knows the length may never ask for the end.
    left: u64,
    hasher: blake3::Hasher,
    /// Where it is read from, for the error.
    location: String,
    /// Told once that the bytes are what the address says.
    verified: Option<F>,
}

impl<R, F: FnOnce()> Verified<R, F> {
    pub(crate) fn new(inner: R, id: BlobId, len: u64, location: String, verified: F) -> Self {
        Self {
            inner,
            id,
            left: len,
            hasher: blake3::Hasher::new(),
            location,
            verified: Some(verified),
        }
    }

    fn at_end(&mut self) -> io::Result<()> {
        if self.hasher.finalize().as_bytes() != &self.id.0 {
            let damaged: StorageError = super::damaged(self.location.clone(), &self.id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
        }
        if let Some(verified) = self.verified.take() {
            verified();
        }
        Ok(())
    }
}

impl<R: AsyncRead + Unpin, F: FnOnce() + Unpin> AsyncRead for Verified<R, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        self.hasher.update(read);
        let n_read = read.len() as u64;
        let is_last = n_read > 0 && n_read == self.left;
        self.left = self.left.saturating_sub(n_read);
        // Behind the last bytes there may be more than there should be.
        if is_last || (n_read == 0 && buf.remaining() > 0) {
            self.at_end().inspect_err(|_| buf.set_filled(before))?;
        }
        Poll::Ready(Ok(()))
    }
}
