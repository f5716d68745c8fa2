//! A reader that checks what it reads against an address, and says at the end if it is something else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::{BlobId, StorageError};

/// Reads, and hashes what it reads.
pub(crate) struct Verified<R, F> {
    inner: R,
    id: BlobId,
    hasher: blake3::Hasher,
    /// Where it is read from, for the error.
    location: String,
    /// Told once that the bytes are what the address says.
    verified: Option<F>,
}

impl<R, F: FnOnce()> Verified<R, F> {
    pub(crate) fn new(inner: R, id: BlobId, location: String, verified: F) -> Self {
        Self {
            inner,
            id,
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
        if read.is_empty() && buf.remaining() > 0 {
            self.at_end()?;
        }
        Poll::Ready(Ok(()))
    }
}
