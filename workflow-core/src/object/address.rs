//! What is stored of a reference: which object, how long it is, and how it is encoded.
//!
//! It is a text of one length, so that one can stand in the place of another, in any codec. Readable codecs show it.

use std::fmt;

use keepstep_storage::BlobId;

/// How the bytes of an object are to be read. Stored by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// They are the object.
    Bytes,
    /// They are a stored value.
    Value,
    /// They are a stored value that names other objects.
    Nest,
    /// There is no object yet; the id is a number that nothing else has.
    Pending,
}

/// Which object a reference is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) kind: Kind,
    pub(super) blob: BlobId,
    pub(super) len: u64,
}

/// What the text begins with that stands for work under way.
pub(super) const PENDING: &str = "blake3-p:";
const SCHEME: &str = "blake3";
/// How long the text of an address is: `blake3-v:`, 64 digits of the hash, `:`, 16 digits of the length.
pub(super) const TEXT_LEN: usize = SCHEME.len() + 3 + 64 + 1 + 16;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Bytes => 'b',
            Kind::Value => 'v',
            Kind::Nest => 'n',
            Kind::Pending => 'p',
        };
        write!(f, "{SCHEME}-{kind}:{}:{:016x}", self.blob, self.len)
    }
}

impl Address {
    /// The address that a text stands for. That of work under way never is one: it is not stored.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::parse_any(text).filter(|address| address.kind != Kind::Pending)
    }

    /// What a text stands for that stands in the place of an address, until there is one.
    pub(super) fn parse_pending(text: &str) -> Option<Self> {
        Self::parse_any(text).filter(|address| address.kind == Kind::Pending)
    }

    fn parse_any(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME)?.strip_prefix('-')?;
        let (kind, rest) = rest.split_once(':')?;
        let kind = match kind {
            "b" => Kind::Bytes,
            "v" => Kind::Value,
            "n" => Kind::Nest,
            "p" => Kind::Pending,
            _ => return None,
        };
        let (hash, len) = rest.split_once(':')?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hash.len() != 64 || len.len() != 16 || !rest.bytes().all(|b| is_digit(b) || b == b':') {
            return None;
        }
        let mut blob = BlobId([0; 32]);
        for (i, byte) in blob.0.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hash.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        let len = u64::from_str_radix(len, 16).ok()?;
        Some(Self { kind, blob, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for kind in [Kind::Bytes, Kind::Value, Kind::Nest] {
            let blob = BlobId(*blake3::hash(b"x").as_bytes());
            let address = Address {
                kind,
                blob,
                len: u64::MAX - 5,
            };
            let text = address.to_string();
            assert_eq!(text.len(), TEXT_LEN);
            assert_eq!(Address::parse(&text), Some(address));
            for cut in 0..text.len() {
                assert_eq!(Address::parse(&text[..cut]), None, "{}", &text[..cut]);
            }
            assert_eq!(Address::parse(&text.to_uppercase()), None);
            assert_eq!(Address::parse(&format!("{text}0")), None);
            assert_eq!(Address::parse_pending(&text), None);
        }
        let pending = Address {
            kind: Kind::Pending,
            blob: BlobId([7; 32]),
            len: 0,
        };
        assert_eq!(Address::parse(&pending.to_string()), None);
        assert_eq!(Address::parse_pending(&pending.to_string()), Some(pending));
    }

    /// A change of this text makes references unreadable that are stored.
    #[test]
    fn references_of_format_1_keep_their_text() {
        let address = Address {
            kind: Kind::Bytes,
            blob: BlobId([0xa5; 32]),
            len: 300,
        };
        let text = format!("blake3-b:{}:000000000000012c", "a5".repeat(32));
        assert_eq!(address.to_string(), text);
    }
}
