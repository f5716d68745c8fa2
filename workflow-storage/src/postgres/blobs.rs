//! Blobs: rows of chunks. A blob is there once its row says that it is whole.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::bucket::Bucket;
use super::numbers::{read, stored};
use super::pins::Held;
use super::session::{Lane, Param, Sessions};
use super::{Postgres, commit};
use crate::blobs::Verified;
use crate::{BlobId, BlobReader, Maintained, Result, StorageError};

const CHUNK_BYTES: usize = 1 << 20;
/// How many chunks of a blob that is read as a whole are read at a time.
const CHUNKS_AT_ONCE: i64 = 4;
/// How much of a blob waits for its reader.
const READ_AHEAD: usize = 2 * CHUNK_BYTES;

impl Postgres {
    pub(super) async fn put_bytes(&self, bytes: Bytes) -> Result<BlobId> {
        self.sessions.check_open()?;
        let held = self.pins.hold(BlobId(self.hash(bytes.clone()).await?));
        let id = held.id();
        if self.begin_blob(&held, bytes.len() as u64).await? {
            return Ok(held.keep());
        }
        if let Some(bucket) = &self.bucket {
            let place = bucket.put(&id, bytes).await?;
            self.finish_object(bucket, id, place).await?;
            return Ok(held.keep());
        }
        for (chunk, number) in bytes.chunks(CHUNK_BYTES).zip(0_i32..) {
            self.put_chunk(id, number, chunk).await?;
        }
        let params: &[Param<'_>] = &[&id.0.as_slice()];
        let finished = self
            .sessions
            .query("store a blob", &self.sql.finish_blob, params);
        finished.await?;
        Ok(held.keep())
    }

    /// Stores what a reader gives under random bytes, and gives it its address at the end.
    pub(super) async fn put_stream(
        &self,
        reader: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(BlobId, u64)> {
        self.sessions.check_open()?;
        if let Some(bucket) = &self.bucket {
            let (id, size, place) = bucket.put_stream(reader).await?;
            let held = self.pins.hold(id);
            if self.begin_blob(&held, size).await? {
                bucket.remove(&[place]).await?;
            } else {
                self.finish_object(bucket, id, place).await?;
            }
            return Ok((held.keep(), size));
        }
        let mut name = [0; 32];
        for part in name.chunks_exact_mut(8) {
            part.copy_from_slice(&commit::random_id().to_le_bytes());
        }
        let stream = self.pins.hold(BlobId(name));
        self.begin_blob(&stream, 0).await?;
        let mut hasher = blake3::Hasher::new();
        let (mut number, mut size) = (0, 0);
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            chunk.clear();
            let mut rest = (&mut *reader).take(CHUNK_BYTES as u64);
            let read = rest.read_to_end(&mut chunk).await;
            let error = |error| StorageError::io("read", "what is to be stored", error);
            if read.map_err(error)? == 0 {
                break;
            }
            hasher.update(&chunk);
            size += chunk.len() as u64;
            self.put_chunk(stream.id(), number, &chunk).await?;
            number += 1;
        }
        let held = self.pins.hold(BlobId(*hasher.finalize().as_bytes()));
        self.settle(&held).await?;
        let (from, to) = (stream.id(), held.id());
        let params: &[Param<'_>] = &[
            &from.0.as_slice(),
            &to.0.as_slice(),
            &stored(size),
            &self.pins.process,
        ];
        let finished = self
            .sessions
            .query("store a blob", &self.sql.finish_stream, params);
        finished.await?;
        Ok((held.keep(), size))
    }

    /// Whether the blob is there already.
    async fn begin_blob(&self, held: &Held<'_>, size: u64) -> Result<bool> {
        self.settle(held).await?;
        let id = held.id();
        let params: &[Param<'_>] = &[&id.0.as_slice(), &stored(size), &self.pins.process];
        let begun = self
            .sessions
            .query("store a blob", &self.sql.begin_blob, params);
        match begun.await?.first() {
            Some(row) => self.sessions.column(row, 0),
            None => Ok(false),
        }
    }

    /// Sees to it that nothing takes the row away that is to be written for a blob.
    async fn settle(&self, held: &Held<'_>) -> Result<()> {
        match held.is_unsure() {
            true => {
                let sql = &self.sql.pin;
                self.pins.write(&self.sessions, Lane::Pins, sql).await
            }
            false => Ok(()),
        }
    }

    /// Notes where a blob is. Another process may have stored it meanwhile.
    async fn finish_object(&self, bucket: &Bucket, id: BlobId, place: String) -> Result<()> {
        let params: &[Param<'_>] = &[&id.0.as_slice(), &place];
        let finished = self
            .sessions
            .query("store a blob", &self.sql.finish_object, params);
        let rows = finished.await?;
        let row = rows.first().ok_or_else(|| self.missing(&id))?;
        if self.sessions.column::<String>(row, 0)? != place {
            bucket.remove(&[place]).await?;
        }
        Ok(())
    }

    async fn put_chunk(&self, id: BlobId, number: i32, chunk: &[u8]) -> Result<()> {
        let params: &[Param<'_>] = &[&id.0.as_slice(), &number, &chunk];
        let put = self
            .sessions
            .query("store a blob", &self.sql.put_chunk, params);
        put.await.map(drop)
    }

    pub(super) async fn read_blob(&self, id: &BlobId) -> Result<Bytes> {
        let found = self.find_blob(id).await?;
        let (size, place) = found.ok_or_else(|| self.missing(id))?;
        if let (Some(bucket), Some(place)) = (&self.bucket, place) {
            let bytes = bucket.get(id, &place).await?;
            return match self.hash(bytes.clone()).await? == id.0 {
                true => Ok(bytes),
                false => Err(bucket.damaged(id)),
            };
        }
        let size = usize::try_from(size).map_err(|_| self.missing(id))?;
        let mut chunks = self.chunks(*id);
        let mut bytes = BytesMut::with_capacity(size);
        while bytes.len() < size {
            let Some(more) = chunks.next(CHUNKS_AT_ONCE).await? else {
                break;
            };
            bytes.extend(more);
        }
        let bytes = bytes.freeze();
        if self.hash(bytes.clone()).await? == id.0 {
            Ok(bytes)
        } else {
            Err(crate::blobs::damaged(
                self.sessions.settings.location.clone(),
                id,
            ))
        }
    }

    pub(super) async fn stream_blob(&self, id: &BlobId) -> Result<BlobReader> {
        let found = self.find_blob(id).await?;
        let (size, place) = found.ok_or_else(|| self.missing(id))?;
        if let (Some(bucket), Some(place)) = (&self.bucket, place) {
            return bucket.reader(id, &place).await;
        }
        let (reader, mut writer) = tokio::io::simplex(READ_AHEAD);
        let mut chunks = self.chunks(*id);
        let location = self.sessions.settings.location.clone();
        let failed = Arc::new(Mutex::new(None));
        let failure = Arc::clone(&failed);
        tokio::spawn(async move {
            loop {
                match chunks.next(1).await {
                    Ok(Some(bytes)) => {
                        for chunk in bytes {
                            // Nobody reads on.
                            if writer.write_all(&chunk).await.is_err() {
                                return;
                            }
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        break;
                    }
                }
            }
            drop(writer.shutdown().await);
        });
        let reader = Fallible { reader, failed };
        Ok(Box::new(Verified::new(reader, *id, size, location, || ())))
    }

    pub(super) async fn blob_size(&self, id: &BlobId) -> Result<Option<u64>> {
        let found = self.find_blob(id).await?;
        Ok(found.map(|(size, _)| size))
    }

    /// How many bytes a blob has, and its place in the bucket, if it is in one.
    async fn find_blob(&self, id: &BlobId) -> Result<Option<(u64, Option<String>)>> {
        let params: &[Param<'_>] = &[&id.0.as_slice()];
        let rows = self.sessions.query("read a blob", &self.sql.blob, params);
        let rows = rows.await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let size = read(self.sessions.column(row, 0)?);
        Ok(Some((size, self.sessions.column(row, 1)?)))
    }

    /// Removes blobs that nothing refers to, and what dead processes left. The server's own vacuum wins back the space.
    pub(super) async fn sweep(&self) -> Result<Maintained> {
        self.pins
            .write(&self.sessions, Lane::Pins, &self.sql.pin)
            .await?;
        collect(&self.sessions, &self.sql.collect).await?;
        let mut done = Maintained::default();
        let mut after = Some(Vec::<u8>::new());
        while let Some(from) = after {
            let params: &[Param<'_>] = &[&from];
            let rows = self.sessions.query("remove blobs", &self.sql.sweep, params);
            let rows = rows.await?;
            let Some(row) = rows.first() else { break };
            after = self.sessions.column(row, 0)?;
            let (n, bytes): (i64, i64) =
                (self.sessions.column(row, 1)?, self.sessions.column(row, 2)?);
            done.blobs_removed += n.unsigned_abs();
            done.bytes_freed += bytes.unsigned_abs();
            if let Some(bucket) = &self.bucket {
                // If this fails or is cut short, they are strays.
                let places: Vec<String> = self.sessions.column(row, 3)?;
                bucket.remove(&places).await?;
            }
        }
        if let Some(bucket) = &self.bucket {
            let strays_of = |places| self.strays_of(places);
            bucket.remove_strays(strays_of).await?;
        }
        for sql in [&self.sql.forget_writers, &self.sql.forget_nodes] {
            self.sessions.query("tidy up", sql, &[]).await?;
        }
        Ok(done)
    }

    /// Those of these objects that no blob is in.
    async fn strays_of(&self, places: Vec<String>) -> Result<Vec<String>> {
        let params: &[Param<'_>] = &[&places];
        let rows = self
            .sessions
            .query("remove blobs", &self.sql.strays, params);
        let strays = rows.await?;
        let place = |row| self.sessions.column(row, 0);
        strays.iter().map(place).collect()
    }

    /// Says again what this process has pinned.
    pub(super) async fn keep_pins(&self, lease: Duration) -> Result<()> {
        self.pins
            .write(&self.sessions, Lane::Lease(lease), &self.sql.pin)
            .await?;
        let params: &[Param<'_>] = &[&self.pins.process];
        let kept =
            self.sessions
                .query_on(Lane::Lease(lease), "pin blobs", &self.sql.keep_pins, params);
        kept.await.map(drop)
    }

    fn chunks(&self, id: BlobId) -> Chunks {
        Chunks {
            sessions: Arc::clone(&self.sessions),
            sql: self.sql.chunks.clone(),
            id,
            next: 0,
        }
    }

    /// Long bytes take long.
    async fn hash(&self, bytes: Bytes) -> Result<[u8; 32]> {
        let hash = tokio::task::spawn_blocking(move || *blake3::hash(&bytes).as_bytes());
        hash.await
            .map_err(|error| self.sessions.refused(error.to_string()))
    }

    fn missing(&self, id: &BlobId) -> StorageError {
        self.sessions.corrupt(format!("blob {id} is missing"))
    }
}

/// Removes what is left of large runs that were deleted.
pub(super) async fn collect(sessions: &Sessions, sql: &str) -> Result<()> {
    loop {
        let rows = sessions.query("remove what runs had", sql, &[]).await?;
        let Some(row) = rows.first() else { break };
        if !sessions.column::<bool>(row, 0)? {
            break;
        }
    }
    Ok(())
}

/// The chunks of a blob, in their order.
struct Chunks {
    sessions: Arc<Sessions>,
    sql: String,
    id: BlobId,
    next: i32,
}

impl Chunks {
    /// So many more chunks, or as many as there are; `None` at the end.
    async fn next(&mut self, n: i64) -> Result<Option<Vec<Bytes>>> {
        let params: &[Param<'_>] = &[&self.id.0.as_slice(), &self.next, &n];
        let rows = self
            .sessions
            .query("read a blob", &self.sql, params)
            .await?;
        let mut chunks = Vec::with_capacity(rows.len());
        for row in &rows {
            let number: i32 = self.sessions.column(row, 0)?;
            if number != self.next {
                let what = format!("blob {} has no chunk {}", self.id, self.next);
                return Err(self.sessions.corrupt(what));
            }
            self.next += 1;
            chunks.push(Bytes::copy_from_slice(self.sessions.column(row, 1)?));
        }
        Ok((!chunks.is_empty()).then_some(chunks))
    }
}

/// A reader whose other end may have failed.
struct Fallible<R> {
    reader: R,
    failed: Arc<Mutex<Option<StorageError>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Fallible<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = failed.take() {
                return Poll::Ready(Err(io::Error::other(error)));
            }
        }
        Poll::Ready(Ok(()))
    }
}
