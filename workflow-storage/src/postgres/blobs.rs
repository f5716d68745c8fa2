//! Blobs: rows of chunks. A blob is there once its row says that it is whole.

use bytes::{Bytes, BytesMut};

use super::Postgres;
use super::numbers::stored;
use super::session::Param;
use crate::{BlobId, Maintained, Result};

const CHUNK_BYTES: usize = 1 << 20;
/// How many chunks are read at a time.
const CHUNKS_AT_ONCE: i64 = 16;

impl Postgres {
    pub(super) async fn put_bytes(&self, bytes: Bytes) -> Result<BlobId> {
        self.sessions.check_open()?;
        let hashed = bytes.clone();
        // Long bytes take long.
        let hash = tokio::task::spawn_blocking(move || *blake3::hash(&hashed).as_bytes());
        let hash = hash
            .await
            .map_err(|error| self.sessions.refused(error.to_string()))?;
        let id = &hash.as_slice();
        let params: &[Param<'_>] = &[id, &stored(bytes.len() as u64)];
        let rows = self
            .sessions
            .query("store a blob", &self.sql.pin_blob, params);
        let rows = rows.await?;
        let is_whole = match rows.first() {
            Some(row) => self.sessions.column(row, 0)?,
            None => false,
        };
        if is_whole {
            return Ok(BlobId(hash));
        }
        for (chunk, number) in bytes.chunks(CHUNK_BYTES).zip(0_i32..) {
            let params: &[Param<'_>] = &[id, &number, &chunk];
            let stored = self
                .sessions
                .query("store a blob", &self.sql.put_chunk, params);
            stored.await?;
        }
        let params: &[Param<'_>] = &[id];
        let finished = self
            .sessions
            .query("store a blob", &self.sql.finish_blob, params);
        finished.await?;
        Ok(BlobId(hash))
    }

    pub(super) async fn read_blob(&self, id: &BlobId) -> Result<Bytes> {
        let key = &id.0.as_slice();
        let params: &[Param<'_>] = &[key];
        let rows = self.sessions.query("read a blob", &self.sql.blob, params);
        let rows = rows.await?;
        let missing = || self.sessions.corrupt(format!("blob {id} is missing"));
        let size: i64 = self.sessions.column(rows.first().ok_or_else(missing)?, 0)?;
        let size = usize::try_from(size).map_err(|_| missing())?;
        let mut bytes = BytesMut::with_capacity(size);
        let mut next = 0_i32;
        while bytes.len() < size {
            let params: &[Param<'_>] = &[key, &next, &CHUNKS_AT_ONCE];
            let rows = self.sessions.query("read a blob", &self.sql.chunks, params);
            let rows = rows.await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let number: i32 = self.sessions.column(row, 0)?;
                if number != next {
                    return Err(self
                        .sessions
                        .corrupt(format!("blob {id} has no chunk {next}")));
                }
                next += 1;
                bytes.extend_from_slice(self.sessions.column(row, 1)?);
            }
        }
        let bytes = bytes.freeze();
        let hashed = bytes.clone();
        let hash = tokio::task::spawn_blocking(move || *blake3::hash(&hashed).as_bytes());
        if hash.await.is_ok_and(|hash| hash == id.0) {
            Ok(bytes)
        } else {
            Err(self
                .sessions
                .corrupt(format!("blob {id} is not what its address says")))
        }
    }

    /// Removes blobs that nothing refers to, and what dead processes left. The server's own vacuum wins back the space.
    pub(super) async fn sweep(&self) -> Result<Maintained> {
        let mut done = Maintained::default();
        loop {
            let rows = self.sessions.query("remove blobs", &self.sql.sweep, &[]);
            let rows = rows.await?;
            let Some(row) = rows.first() else { break };
            let (n, bytes): (i64, i64) =
                (self.sessions.column(row, 0)?, self.sessions.column(row, 1)?);
            if n == 0 {
                break;
            }
            done.blobs_removed += n.unsigned_abs();
            done.bytes_freed += bytes.unsigned_abs();
        }
        for sql in [&self.sql.forget_writers, &self.sql.forget_nodes] {
            self.sessions.query("tidy up", sql, &[]).await?;
        }
        Ok(done)
    }
}
