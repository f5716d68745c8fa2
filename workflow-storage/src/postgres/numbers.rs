//! Numbers as the database has them: signed, where keepstep's are not.

use crate::{NodeId, Timestamp};

/// A count, position, epoch or time. One that does not fit is the largest there is, which is read as the largest again: such a
/// time means never, and there is no such count.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn read(number: i64) -> u64 {
    match number {
        i64::MAX => u64::MAX,
        number => u64::try_from(number).unwrap_or(0),
    }
}

/// Bits that are only compared.
pub(super) fn bits(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn node(node: NodeId) -> i64 {
    bits(node.0)
}

pub(super) fn time(time: Option<Timestamp>) -> Option<i64> {
    time.map(|time| stored(time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_order_and_come_back() {
        for number in [0, 1, 1 << 62, u64::MAX] {
            assert_eq!(read(stored(number)), number);
        }
        assert!(stored(u64::MAX - 1) >= stored(u64::MAX >> 1));
    }
}
