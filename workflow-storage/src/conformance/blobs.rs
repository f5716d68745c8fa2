//! Blobs are found by their content, and stay as long as a run names them or somebody has pinned them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::kit::*;
use crate::{BlobId, RunWrite, Send, SendOutcome, Storage, StorageError, WriteOutcome};

async fn put(store: &dyn Storage, size: usize, seed: u64) -> BlobId {
    store.put_blob(noise(size, seed)).await.unwrap()
}

/// Makes a run name blobs that were put, each of which then loses the pin of one put.
async fn refer(store: &dyn Storage, run: &Owned, blobs: &[BlobId]) {
    write(store, run.refer(blobs)).await;
    blobs.iter().for_each(|blob| store.unpin_blob(blob));
}

async fn streamed(store: &dyn Storage, id: &BlobId) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = store.blob_reader(id).await;
    let mut reader = reader.map_err(io::Error::other)?;
    reader.read_to_end(&mut bytes).await.map(|_| bytes)
}

async fn is_there(store: &dyn Storage, id: &BlobId) -> bool {
    match store.blob(id).await {
        Ok(bytes) => {
            assert_eq!(blake3::hash(&bytes), id.0, "the blob is not its address's");
            true
        }
        Err(StorageError::Corrupt { .. }) => false,
        Err(other) => panic!("a missing blob is Corrupt, not {other:?}"),
    }
}

/// From nothing to a megabyte.
pub async fn blobs_of_all_sizes_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut ids = Vec::new();
    for size in SIZES {
        ids.push(put(&*store, size, 5).await);
    }
    for (id, size) in ids.iter().zip(SIZES) {
        let read = store.blob(id).await.unwrap();
        assert!(read == noise(size, 5), "blob of {size} bytes");
        let read = streamed(&*store, id).await.unwrap();
        assert!(read == noise(size, 5), "stream of {size} bytes");
        assert_eq!(store.blob_len(id).await.unwrap(), Some(size as u64));
    }
}

/// The address is the BLAKE3 hash; the same bytes are the same blob.
pub async fn a_blob_is_addressed_by_its_content(stores: Stores<'_>) {
    let store = stores.open().await;
    let one = put(&*store, 5_000, 1).await;
    assert_eq!(one, BlobId(*blake3::hash(&noise(5_000, 1)).as_bytes()));
    assert_eq!(put(&*store, 5_000, 1).await, one);
    assert_ne!(put(&*store, 5_000, 2).await, one);
    assert!(store.blob(&one).await.unwrap() == noise(5_000, 1));
}

/// Somebody who reads a blob was told that it is there: if it is not, something was lost.
pub async fn a_missing_blob_is_an_error(stores: Stores<'_>) {
    let store = stores.open().await;
    put(&*store, 10, 1).await;
    let missing = BlobId([9; 32]);
    assert!(!is_there(&*store, &missing).await);
    assert!(streamed(&*store, &missing).await.is_err());
    assert_eq!(store.blob_len(&missing).await.unwrap(), None);
}

/// What a reader gives becomes the blob that the same bytes become in one piece.
pub async fn a_stream_becomes_a_blob(stores: Stores<'_>) {
    let store = stores.open().await;
    for size in SIZES.into_iter().chain([2_500_000]) {
        let bytes = noise(size, 3);
        let (id, len) = store.put_blob_from(&mut &bytes[..]).await.unwrap();
        assert_eq!(len, size as u64);
        assert_eq!(id, BlobId(*blake3::hash(&bytes).as_bytes()));
        assert!(store.blob(&id).await.unwrap() == bytes);
        assert_eq!(put(&*store, size, 3).await, id);
    }
}

/// A reader that fails leaves nothing behind.
pub async fn a_stream_that_breaks_becomes_nothing(stores: Stores<'_>) {
    struct Broken(usize);

    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0 == 0 {
                return Poll::Ready(Err(io::Error::other("the line is dead")));
            }
            let len = buf.remaining().min(self.0);
            buf.put_slice(&vec![7; len]);
            self.0 -= len;
            Poll::Ready(Ok(()))
        }
    }

    let store = stores.open().await;
    for size in [0, 10, 2_500_000] {
        let error = store.put_blob_from(&mut Broken(size)).await.unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }), "{error:?}");
        let id = BlobId(*blake3::hash(&vec![7; size]).as_bytes());
        assert!(!is_there(&*store, &id).await);
    }
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 0);
}

/// Maintenance leaves what any run refers to, also if the reference came long after the blob or twice.
pub async fn a_blob_stays_while_a_run_refers_to_it(stores: Stores<'_>) {
    let store = stores.open().await;
    let (shared, second) = (put(&*store, 100_000, 1).await, put(&*store, 0, 2).await);
    let a = Owned::new("a").create(&*store).await;
    let ab = Owned::new("ab").create(&*store).await;
    refer(&*store, &a, &[shared]).await;
    refer(&*store, &a, &[shared, second, shared]).await;
    refer(&*store, &ab, &[shared]).await;
    store.maintain().await.unwrap();
    assert!(is_there(&*store, &shared).await && is_there(&*store, &second).await);

    delete(&*store, &a.run, a.record.epoch).await;
    store.maintain().await.unwrap();
    assert!(is_there(&*store, &shared).await);
}

/// When the last run that refers to a blob is deleted, the blob goes, at once or with maintenance, which then says so.
pub async fn a_blob_goes_with_its_last_run(stores: Stores<'_>) {
    let store = stores.open().await;
    let gone = put(&*store, 100_000, 1).await;
    let kept = put(&*store, 100_000, 2).await;
    let [a, b, c] = ["a", "b", "c"].map(Owned::new);
    for (run, blobs) in [(&a, vec![gone]), (&b, vec![gone]), (&c, vec![kept])] {
        run.clone().create(&*store).await;
        refer(&*store, run, &blobs).await;
    }
    for run in [&a, &b] {
        delete(&*store, &run.run, run.record.epoch).await;
    }
    // A store whose blobs are far away removes them after it has answered, maybe while it is maintained.
    let maintained = store.maintain().await.unwrap();
    assert!(maintained.blobs_removed <= 1, "{maintained:?}");
    assert!(!is_there(&*store, &gone).await);
    assert!(is_there(&*store, &kept).await);
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 0);
}

/// A blob that was removed can be stored again, and stays then.
pub async fn a_blob_may_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    for _ in 0..2 {
        let blob = put(&*store, 10_000, 1).await;
        let run = Owned::new("a").create(&*store).await;
        refer(&*store, &run, &[blob]).await;
        store.maintain().await.unwrap();
        assert!(is_there(&*store, &blob).await);
        delete(&*store, &run.run, run.record.epoch).await;
        store.maintain().await.unwrap();
        assert!(!is_there(&*store, &blob).await);
    }
}

/// Maintenance between storing a blob and the commit that refers to it does not take it away: neither a new one nor one
/// that was waiting to be removed when it was stored again.
pub async fn a_fresh_blob_survives_maintenance(stores: Stores<'_>) {
    let store = stores.open().await;
    let old = put(&*store, 10_000, 1).await;
    let former = Owned::new("former").create(&*store).await;
    refer(&*store, &former, &[old]).await;
    delete(&*store, &former.run, former.record.epoch).await;

    let fresh = put(&*store, 10_000, 2).await;
    assert_eq!(put(&*store, 10_000, 1).await, old);
    store.maintain().await.unwrap();
    let run = Owned::new("a").create(&*store).await;
    refer(&*store, &run, &[fresh, old]).await;
    store.maintain().await.unwrap();
    assert!(is_there(&*store, &fresh).await, "the new blob is gone");
    assert!(
        is_there(&*store, &old).await,
        "the stored-again blob is gone"
    );
}

/// A blob that was put twice and one that was pinned stay until they were unpinned as often, whatever runs name them meanwhile.
/// Then they go, without the store being opened again.
pub async fn a_pinned_blob_stays_until_it_is_unpinned(stores: Stores<'_>) {
    let store = stores.open().await;
    let blob = put(&*store, 10_000, 1).await;
    put(&*store, 10_000, 1).await;
    let run = Owned::new("a").create(&*store).await;
    refer(&*store, &run, &[blob]).await;
    store.pin_blob(&blob);
    delete(&*store, &run.run, run.record.epoch).await;
    for _ in 0..2 {
        assert_eq!(store.maintain().await.unwrap().blobs_removed, 0);
        assert!(is_there(&*store, &blob).await);
        store.unpin_blob(&blob);
    }
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 1);
    assert!(!is_there(&*store, &blob).await);
}

/// A put that nobody waits for any more leaves no pin.
pub async fn an_abandoned_put_is_swept(stores: Stores<'_>) {
    let store = stores.open().await;
    for n in 0..20 {
        // Polled a few times, and dropped wherever it is then.
        let mut putting = store.put_blob(noise(100_000, n));
        for _ in 0..n % 3 {
            let polled = std::future::poll_fn(|cx| Poll::Ready(putting.as_mut().poll(cx))).await;
            if let Poll::Ready(id) = polled {
                store.unpin_blob(&id.unwrap());
                break;
            }
        }
    }
    // Puts that were begun end some time.
    for n in 0..20 {
        let id = BlobId(*blake3::hash(&noise(100_000, n)).as_bytes());
        while is_there(&*store, &id).await {
            store.maintain().await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

/// A write or a message that names a blob which is not there is refused, and the others of the batch are not.
pub async fn nothing_names_a_missing_blob(stores: Stores<'_>) {
    let store = stores.open().await;
    let [mut a, mut b] = ["a", "b"].map(Owned::new);
    a = a.create(&*store).await;
    b = b.create(&*store).await;
    let (there, blob) = (put(&*store, 10, 1).await, BlobId([9; 32]));
    let dangling = RunWrite {
        blobs: vec![there, blob],
        ..a.append("dangling")
    };
    let messages = [vec![blob], vec![there]].map(|blobs| Send {
        blobs,
        ..message(&b, None, "message")
    });
    let writes = vec![dangling, b.append("entry")];
    let (writes, sent) = commit(&*store, writes, messages.to_vec()).await;
    assert_eq!(
        writes,
        [WriteOutcome::BlobMissing { blob }, WriteOutcome::Written]
    );
    assert_eq!(sent[0], SendOutcome::BlobMissing { blob });
    assert!(matches!(sent[1], SendOutcome::Accepted(_)));
    assert_eq!(journal(&*store, &a.run).await, []);
    assert_eq!(journal(&*store, &b.run).await, [entry(0, "entry")]);
    assert_eq!(bodies(&*store, &b.run).await, ["message"]);
}

/// What a message names stays until the run that it was sent to is deleted, also after the message was consumed.
pub async fn a_message_makes_its_run_name_blobs(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let blob = put(&*store, 10_000, 1).await;
    let message = Send {
        blobs: vec![blob],
        ..message(&run, None, "look")
    };
    let id = sent(&*store, message).await;
    store.unpin_blob(&blob);
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 0);
    write(&*store, run.consume(&[id])).await;
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 0);
    assert!(is_there(&*store, &blob).await);
    delete(&*store, &run.run, run.record.epoch).await;
    store.maintain().await.unwrap();
    assert!(!is_there(&*store, &blob).await);
}
