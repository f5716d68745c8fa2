//! Which values are read again before they are stored.
//!
//! A value of a type that says what all of its parts are can be read, as far as the type writes what it reads. Whether it
//! does is found out with the first value of each form that the type writes. So a value of such a type is nearly never read
//! again.

use std::any::TypeId;
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;

use super::pack::Doubts;
use crate::shape::Shape;

/// What is known of a type: how its values look, and of which forms one was read again in this process.
pub(crate) struct Readable {
    shape: Shape,
    is_plain: bool,
    /// Whether a number of 128 bits stands in it where its type says so.
    has_wide: bool,
    forms_read: AtomicU64,
}

/// Longer values of a type that says what its parts are, are never read again: that would need too much memory.
const MAX_BYTES: usize = 16 << 20;
/// Neither are values longer than this that consist of numbers, texts, lists and maps only.
const MAX_BYTES_WITHOUT_FORM: usize = 4 << 10;

/// The form of a value that has no struct and no enum in it: see [`Doubts::forms`]. Every value has it, too.
pub(super) const NO_FORM: u64 = 1;

/// The bit of a struct of so many fields, or of an enum's variant. Two of them may have the same one: then only the first
/// of both is read again.
#[inline]
pub(super) fn form(name: &'static str, number: usize) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let bytes = name.as_bytes();
    let (first, last) = match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (
            0,
            bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
        ),
    };
    let mixed = first.wrapping_mul(MIX) ^ last.rotate_left(17) ^ (number as u64) << 40;
    let mixed = mixed.wrapping_add(bytes.len() as u64).wrapping_mul(MIX);
    2 << (((mixed >> 32) * 63) >> 32)
}

impl Readable {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            is_plain: shape.is_plain(),
            has_wide: shape.has_wide(),
            shape,
            forms_read: AtomicU64::new(0),
        }
    }

    /// What is known of a type. It is found out once.
    pub(crate) fn of<T: DeserializeOwned + 'static>() -> &'static Self {
        thread_local! {
            static NEAR: RefCell<FxHashMap<TypeId, &'static Readable>> = RefCell::default();
        }
        let id = TypeId::of::<T>();
        let near = NEAR.try_with(|near| near.borrow().get(&id).copied());
        if let Ok(Some(known)) = near {
            return known;
        }
        let known = Self::find(id, Shape::of::<T>);
        // At the end of a thread, there is nothing to keep it in.
        let _ = NEAR.try_with(|near| near.borrow_mut().insert(id, known));
        known
    }

    #[cold]
    fn find(id: TypeId, shape: fn() -> Shape) -> &'static Self {
        static ALL: Mutex<Option<FxHashMap<TypeId, &'static Readable>>> = Mutex::new(None);
        let all = || ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all().as_ref().and_then(|all| all.get(&id).copied());
        if let Some(known) = known {
            return known;
        }
        // Not under the lock: it is the code of users, which may come back here.
        let found = Self::new(shape());
        let mut all = all();
        // There are no more of them than types in the program.
        let known = all.get_or_insert_default().entry(id);
        known.or_insert_with(|| Box::leak(Box::new(found)))
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether a value of so many bytes is read again before it is stored.
    #[inline]
    pub(crate) fn must_read(&self, len: usize, doubts: Doubts) -> bool {
        if !self.is_plain || doubts.skipped || doubts.tagged || doubts.wide && !self.has_wide {
            return true;
        }
        let new = doubts.forms & !self.forms_read.load(Ordering::Relaxed);
        match new {
            0 => false,
            NO_FORM => len <= MAX_BYTES_WITHOUT_FORM,
            _ => len <= MAX_BYTES,
        }
    }

    /// A value was read again, and was what was written.
    #[cold]
    pub(crate) fn was_read(&self, doubts: Doubts) {
        self.forms_read.fetch_or(doubts.forms, Ordering::Relaxed);
    }
}

impl fmt::Debug for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Readable");
        f.field("is_plain", &self.is_plain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::{Codec, Value};
    use super::*;

    fn is_read<T: Serialize>(value: &T, known: &Readable) -> bool {
        let (encoded, doubts) = Value::encode_with(value, Codec::MessagePack).unwrap();
        let is_read = known.must_read(encoded.len(), doubts);
        known.was_read(doubts);
        is_read
    }

    #[test]
    fn a_plain_type_is_read_again_with_the_first_value_of_each_form() {
        #[derive(Serialize, Deserialize)]
        enum Payment {
            Cash,
            Wire(Option<Wire>),
        }
        #[derive(Serialize, Deserialize)]
        struct Wire {
            iban: String,
        }
        let wire = || {
            let iban = "i".repeat(5000);
            Payment::Wire(Some(Wire { iban }))
        };
        for codec in [Codec::MessagePack, Codec::Bincode] {
            let known = Readable::new(Shape::of::<Vec<Payment>>());
            let reads = |value: &Vec<Payment>| {
                let (encoded, doubts) = Value::encode_with(value, codec).unwrap();
                let reads = known.must_read(encoded.len(), doubts);
                known.was_read(doubts);
                reads
            };
            assert!(reads(&vec![]));
            assert!(!reads(&vec![]));
            assert!(reads(&vec![Payment::Cash]));
            assert!(!reads(&vec![Payment::Cash, Payment::Cash]));
            assert!(reads(&vec![Payment::Cash, Payment::Wire(None)]));
            assert!(reads(&vec![wire()]));
            for _ in 0..3 {
                assert!(!reads(&vec![wire(), Payment::Wire(None), Payment::Cash]));
            }
        }
    }

    #[test]
    fn what_has_no_form_is_read_again_once_if_it_is_short() {
        let known = Readable::of::<Vec<u64>>();
        assert!(!is_read(
            &vec![u64::MAX; 4096],
            &Readable::new(Shape::of::<Vec<u64>>())
        ));
        assert!(is_read(&vec![1u64], known));
        assert!(!is_read(&vec![1u64], Readable::of::<Vec<u64>>()));
        let here = std::ptr::from_ref(known).addr();
        let there = std::thread::spawn(|| std::ptr::from_ref(Readable::of::<Vec<u64>>()).addr());
        assert_eq!(here, there.join().unwrap());
    }

    #[test]
    fn a_number_of_128_bits_is_in_doubt_where_no_type_tells_of_it() {
        let wide = Readable::new(Shape::of::<(u8, u128)>());
        assert!(is_read(&(1u8, 1u128), &wide));
        assert!(!is_read(&(1u8, 1u128), &wide));
        let other = Readable::new(Shape::of::<(u8, u64)>());
        assert!(is_read(&(1u8, 1u128), &other));
        assert!(is_read(&(1u8, 1u128), &other));
    }
}
