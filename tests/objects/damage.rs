//! A damaged object is an error that names it, never other content.

use std::path::{Path, PathBuf};

use keepstep::Bytes;
use keepstep::prelude::*;
use keepstep::storage::StorageError;
use tokio::io::AsyncReadExt;

fn file_of<T>(store: &Path, object: &ObjectRef<T>) -> PathBuf {
    let address = object.address().unwrap().to_string();
    store.join("blobs").join(&address[..2]).join(&address[2..])
}

#[step(retries = 0)]
async fn len(of: ObjectRef<Vec<u8>>) -> keepstep::Result<usize> {
    Ok(of.get().await?.len())
}

#[tokio::test]
async fn a_damaged_object_is_an_error_that_names_it() -> keepstep::Result<()> {
    for size in [100, 200_000] {
        let dir = tempfile::tempdir().unwrap();
        let url = dir.path().to_str().unwrap();
        let engine = Engine::open(url).await?;
        let bytes = engine.put(&Bytes::from(vec![1; size])).await?;
        let value = engine.put(&vec![2u8; size]).await?;
        engine.run("bytes", Workflow::value(bytes.clone())).await?;
        engine.run("value", Workflow::value(value.clone())).await?;
        engine.shutdown().await?;
        for file in [file_of(dir.path(), &bytes), file_of(dir.path(), &value)] {
            let mut content = std::fs::read(&file).unwrap();
            content[size / 2] ^= 1;
            std::fs::write(&file, content).unwrap();
        }

        let engine = Engine::open(url).await?;
        let bytes: ObjectRef<Bytes> = engine.output("bytes").await?;
        let value: ObjectRef<Vec<u8>> = engine.output("value").await?;
        let named = |error: Error, address: Option<keepstep::BlobId>| {
            assert!(matches!(
                &error,
                Error::Storage(StorageError::Corrupt { .. })
            ));
            let (error, address) = (error.to_string(), address.unwrap().to_string());
            assert!(error.contains(&address), "{error}");
        };
        named(bytes.get().await.unwrap_err(), bytes.address());
        named(value.get().await.unwrap_err(), value.address());
        let mut content = Vec::new();
        let error = bytes
            .reader()
            .await?
            .read_to_end(&mut content)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(
            error
                .to_string()
                .contains(&bytes.address().unwrap().to_string())
        );
        // Who knows how long it is, and reads just that, is told as well.
        let mut content = vec![0; size];
        let mut reader = bytes.reader().await?;
        let error = reader.read_exact(&mut content).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        // To a step it is a failure, which names it too.
        let Err(Error::Failed { error, .. }) = engine.run("len", len(&value)).await else {
            panic!("it could be read");
        };
        assert!(
            error
                .message
                .contains(&value.address().unwrap().to_string())
        );

        // Put again, it is mended.
        assert_eq!(engine.put(&vec![2u8; size]).await?, value);
        assert_eq!(value.get().await?.len(), size);
        std::fs::remove_file(file_of(dir.path(), &bytes)).unwrap();
        named(bytes.get().await.unwrap_err(), bytes.address());
        engine.shutdown().await?;
    }
    Ok(())
}
