//! What serde does not hand on: which references were met while a value was encoded, and whose objects those are that are met
//! while one is decoded. Both are done in one go on one thread, so they stand beside it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use keepstep_storage::BlobId;

use super::objects::Objects;
use super::pins::Pins;
use super::{Reference, Target};

thread_local! {
    static NOTING: Cell<Noting> = const { Cell::new(Noting::Not) };
    static NOTED: RefCell<Vec<Reference>> = const { RefCell::new(Vec::new()) };
    static DECODING: RefCell<Option<Decoding>> = const { RefCell::new(None) };
    /// Checked first: most values have no references.
    static IS_DECODING: Cell<bool> = const { Cell::new(false) };
    static IS_READING_AGAIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether a value is being encoded, and what of. Kept apart from the references: most values have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noting {
    Not,
    NoneYet,
    Some,
}

/// Where references that are being decoded belong.
#[derive(Debug, Clone)]
pub(super) struct Decoding {
    pub(super) objects: Arc<Objects>,
    pub(super) pins: Option<Arc<Pins>>,
}

/// Does what encodes a value, and returns the references in it.
pub(crate) fn noting<R>(encode: impl FnOnce() -> R) -> (R, Vec<Reference>) {
    /// What was noted of a value in the middle of which another is encoded.
    struct Restore(Noting, Vec<Reference>);
    impl Drop for Restore {
        fn drop(&mut self) {
            // Also when the user's code panics.
            drop(take_noted());
            NOTING.set(self.0);
            if self.0 == Noting::Some {
                NOTED.set(std::mem::take(&mut self.1));
            }
        }
    }
    let outer = NOTING.get();
    let _restore = Restore(outer, take_noted());
    NOTING.set(Noting::NoneYet);
    let encoded = encode();
    (encoded, take_noted())
}

fn take_noted() -> Vec<Reference> {
    if NOTING.get() != Noting::Some {
        return Vec::new();
    }
    NOTING.set(Noting::NoneYet);
    NOTED.take()
}

/// Notes a reference that is being encoded; `false` if it is not an engine that encodes.
pub(super) fn note(target: &Arc<Target>) -> bool {
    if NOTING.get() == Noting::Not {
        return false;
    }
    NOTING.set(Noting::Some);
    NOTED.with_borrow_mut(|noted| noted.push(Reference(Arc::clone(target))));
    true
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

/// Does what reads a value that was encoded and not stored yet: references to work under way can be read, which are not
/// stored.
pub(crate) fn reading_again<R>(read: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_READING_AGAIN.set(self.0);
        }
    }
    let _restore = Restore(IS_READING_AGAIN.replace(true));
    read()
}

/// Whether what is decoded is a value that was encoded and not stored yet.
pub(super) fn is_reading_again() -> bool {
    IS_READING_AGAIN.get()
}

/// Where a reference belongs that is being decoded.
pub(super) fn current() -> Option<Decoding> {
    if IS_DECODING.get() {
        DECODING.with_borrow(Clone::clone)
    } else {
        None
    }
}
