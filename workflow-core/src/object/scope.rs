//! What serde does not hand on: which references were met while a value was encoded, and whose objects those are that are met
//! while one is decoded. Both are done in one go on one thread, so they stand beside it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use keepstep_storage::BlobId;

use super::objects::Objects;
use super::pins::Pins;
use super::{Reference, Target};

thread_local! {
    static NOTED: RefCell<Option<Vec<Reference>>> = const { RefCell::new(None) };
    static DECODING: RefCell<Option<Decoding>> = const { RefCell::new(None) };
    /// Checked first: most values have no references.
    static IS_DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Where references that are being decoded belong.
#[derive(Debug, Clone)]
pub(super) struct Decoding {
    pub(super) objects: Arc<Objects>,
    pub(super) pins: Option<Arc<Pins>>,
}

/// Does what encodes a value, and returns the references in it.
pub(crate) fn noting<R>(encode: impl FnOnce() -> R) -> (R, Vec<Reference>) {
    struct Restore(Option<Vec<Reference>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            // Also when the user's code panics.
            NOTED.set(self.0.take());
        }
    }
    let restore = Restore(NOTED.replace(Some(Vec::new())));
    let encoded = encode();
    let noted = NOTED.take().unwrap_or_default();
    drop(restore);
    (encoded, noted)
}

/// Notes a reference that is being encoded; `false` if it is not an engine that encodes.
pub(super) fn note(target: &Arc<Target>) -> bool {
    NOTED.with_borrow_mut(|noted| {
        let Some(noted) = noted else { return false };
        noted.push(Reference(Arc::clone(target)));
        true
    })
}

/// Does what decodes values that name these objects.
pub(crate) fn decoding<R>(
    objects: &Arc<Objects>,
    names: Vec<BlobId>,
    decode: impl FnOnce() -> R,
) -> R {
    struct Restore(Option<Decoding>);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_DECODING.set(self.0.is_some());
            DECODING.set(self.0.take());
        }
    }
    if names.is_empty() {
        return decode();
    }
    let scope = Decoding {
        objects: Arc::clone(objects),
        pins: Some(Pins::new(objects.storage(), names)),
    };
    let _restore = Restore(DECODING.replace(Some(scope)));
    IS_DECODING.set(true);
    decode()
}

/// Where a reference belongs that is being decoded.
pub(super) fn current() -> Option<Decoding> {
    if IS_DECODING.get() {
        DECODING.with_borrow(Clone::clone)
    } else {
        None
    }
}
