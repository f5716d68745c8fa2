//! Objects as streams: neither in nor out is more of one in memory than a piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use keepstep::prelude::*;
use keepstep::{Bytes, put_reader};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// So many bytes that no two pieces of them are alike.
struct Counting {
    n: u64,
    len: u64,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while buf.remaining() > 0 && self.n < self.len {
            buf.put_slice(&[(self.n % 251) as u8]);
            self.n += 1;
        }
        Poll::Ready(Ok(()))
    }
}

#[step]
async fn fetch(len: u64) -> keepstep::Result<ObjectRef<Bytes>> {
    put_reader(Counting { n: 0, len }).await
}

#[step]
async fn checked(object: ObjectRef<Bytes>) -> anyhow::Result<u64> {
    let mut reader = object.reader().await?;
    let mut piece = vec![0; 10_000];
    let mut n = 0;
    loop {
        let read = reader.read(&mut piece).await?;
        if read == 0 {
            return Ok(n);
        }
        for byte in &piece[..read] {
            anyhow::ensure!(u64::from(*byte) == n % 251, "byte {n} is {byte}");
            n += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_in_streams_out() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for url in ["memory:", dir.path().to_str().unwrap()] {
        let engine = Engine::open(url).await?;
        for len in [0, 1, 3_000_000] {
            let id = len.to_string();
            let fetched = fetch(len);
            assert_eq!(engine.run(&id, checked(fetched.clone())).await?, len);
            let object = engine.run(format!("{id} itself"), fetched).await?;
            assert_eq!(object.stored_len(), Some(len));
            assert_eq!(object.get().await?.len() as u64, len);
        }
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_fails_is_an_error_and_stores_nothing() -> keepstep::Result<()> {
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            _buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("the line is dead")))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().to_str().unwrap()).await?;
    let broken = Counting {
        n: 0,
        len: 2_000_000,
    }
    .chain(Broken);
    let Err(Error::Storage(error)) = engine.put_reader(broken).await else {
        panic!("it is stored");
    };
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "the line is dead");
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    let tmp = std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap();
    assert_eq!(tmp.count(), 0);
    engine.shutdown().await
}

#[tokio::test]
async fn a_reader_keeps_its_object_when_nothing_else_does() -> keepstep::Result<()> {
    let engine = Engine::open("memory:").await?;
    let object = engine.put(&Bytes::from(vec![7; 100_000])).await?;
    let mut reader = object.reader().await?;
    drop(object);
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    let mut content = Vec::new();
    reader.read_to_end(&mut content).await.unwrap();
    assert_eq!(content, [7; 100_000]);
    drop(reader);
    assert_eq!(engine.maintain().await?.blobs_removed, 1);
    engine.shutdown().await
}
