//! In the place of [`bucket`](self) where the feature `object_store` is off: there is none.

use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::{BlobId, BlobReader, Blobs, Result, StorageError};

#[derive(Debug)]
pub(super) enum Bucket {}

impl Bucket {
    pub(super) fn of(_blobs: Blobs) -> Option<Self> {
        None
    }

    pub(super) fn describe(&self) -> String {
        match *self {}
    }

    pub(super) async fn put(&self, _id: &BlobId, _bytes: Bytes) -> Result<String> {
        match *self {}
    }

    pub(super) async fn put_stream(
        &self,
        _reader: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(BlobId, u64, String)> {
        match *self {}
    }

    pub(super) async fn get(&self, _id: &BlobId, _place: &str) -> Result<Bytes> {
        match *self {}
    }

    pub(super) async fn reader(&self, _id: &BlobId, _place: &str) -> Result<BlobReader> {
        match *self {}
    }

    pub(super) fn damaged(&self, _id: &BlobId) -> StorageError {
        match *self {}
    }

    pub(super) async fn remove(&self, _places: &[String]) -> Result<()> {
        match *self {}
    }

    pub(super) async fn remove_strays<F: Future<Output = Result<Vec<String>>>>(
        &self,
        _strays_of: impl FnMut(Vec<String>) -> F,
    ) -> Result<()> {
        match *self {}
    }
}
