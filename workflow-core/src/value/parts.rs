//! Values made of values: variants and lists, whose parts are stored values of their own.

use bytes::Bytes;
use keepstep_storage::BlobId;

use super::tag;

/// Deeper nesting comes of damage: the nesting of a value is that of its type.
const MAX_DEPTH: u32 = 64;

/// The elements of a list, from what follows its tag. An element that is cut off is `Err`, and the last.
#[derive(Debug, Clone)]
pub(crate) struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], CutOff>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let element = self.0.split_first_chunk().and_then(|(len, rest)| {
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            rest.split_at_checked(len)
        });
        let (element, rest) = element.map_or((Err(CutOff), &[][..]), |(e, rest)| (Ok(e), rest));
        self.0 = rest;
        Some(element)
    }
}

/// A list ends in the middle of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutOff;

/// The name of the variant that a tag says its value is of.
pub(crate) fn variant(tag: u8) -> Option<&'static str> {
    match tag {
        tag::OK => Some("Ok"),
        tag::LEFT => Some("Left"),
        tag::RIGHT => Some("Right"),
        _ => None,
    }
}

/// How long the header is that names the objects of a value, from the first bytes of the value; 0 if it has none.
pub(crate) fn header_len(bytes: &[u8]) -> usize {
    match bytes {
        [tag::OBJECTS, a, b, c, d, ..] => {
            let n = u32::from_le_bytes([*a, *b, *c, *d]);
            usize::try_from(u64::from(n) * 32 + 5).unwrap_or(usize::MAX)
        }
        _ => 0,
    }
}

/// The header of a value, which names objects, and the value itself. A header that is cut off is none.
pub(crate) fn split_header(bytes: &[u8]) -> (&[u8], &[u8]) {
    let len = header_len(bytes);
    bytes.split_at_checked(len).unwrap_or((&[], bytes))
}

/// The objects that a value's header names.
pub(crate) fn names_at(bytes: &[u8]) -> Vec<BlobId> {
    let (header, _) = split_header(bytes);
    let names = header.get(5..).unwrap_or_default();
    let name = |name: &[u8]| name.try_into().ok().map(BlobId);
    names.chunks_exact(32).filter_map(name).collect()
}

/// Whether a value is written by a codec and nothing stands around it: then it has no parts, and names no objects. Most values are
/// so, and the others are walked through.
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    matches!(bytes, [tag::MESSAGE_PACK | tag::BINCODE, ..])
}

pub(super) fn for_each_name(bytes: &[u8], visit: &mut dyn FnMut(BlobId)) {
    walk(bytes, 0, &mut |part, depth| {
        if depth <= MAX_DEPTH {
            names_at(part).into_iter().for_each(&mut *visit);
        }
    });
}

pub(super) fn for_each_part(bytes: &[u8], visit: &mut dyn FnMut(BlobId)) {
    walk(bytes, 0, &mut |part, depth| {
        if depth <= MAX_DEPTH
            && let Some(id) = blob(part)
        {
            visit(id);
        }
    });
}

pub(super) fn blob(bytes: &[u8]) -> Option<BlobId> {
    match bytes {
        [tag::BLOB, rest @ ..] => Some(BlobId(*rest.first_chunk()?)),
        _ => None,
    }
}

/// Whether a value is nested deeper than any type.
pub(crate) fn is_too_deep(bytes: &[u8]) -> bool {
    let mut deepest = 0;
    walk(bytes, 0, &mut |_, depth| deepest = deepest.max(depth));
    deepest > MAX_DEPTH
}

/// Shows the headers, and the parts that are not made of others, and how deep they stand.
fn walk(bytes: &[u8], depth: u32, visit: &mut dyn FnMut(&[u8], u32)) {
    match bytes {
        _ if depth > MAX_DEPTH => visit(bytes, depth),
        [tag::OBJECTS, ..] => {
            let (header, inner) = split_header(bytes);
            visit(header, depth);
            if !header.is_empty() {
                walk(inner, depth + 1, visit);
            }
        }
        [tag::LIST, elements @ ..] => {
            let elements = Elements::of(elements).flatten();
            elements.for_each(|element| walk(element, depth + 1, visit));
        }
        [tag, inner @ ..] if variant(*tag).is_some() => walk(inner, depth + 1, visit),
        _ => visit(bytes, depth),
    }
}

pub(super) fn put_with_parts(
    bytes: &[u8],
    depth: u32,
    get: &dyn Fn(BlobId) -> Option<Bytes>,
    into: &mut Vec<u8>,
) {
    match bytes {
        _ if depth > MAX_DEPTH => into.extend_from_slice(bytes),
        [tag::LIST, elements @ ..] => {
            into.push(tag::LIST);
            for element in Elements::of(elements).flatten() {
                let at = into.len();
                into.extend_from_slice(&[0; 4]);
                put_with_parts(element, depth + 1, get, into);
                // Nothing that fits in memory as an argument is longer.
                let len = u32::try_from(into.len() - at - 4).unwrap_or(u32::MAX);
                into[at..at + 4].copy_from_slice(&len.to_le_bytes());
            }
        }
        [tag::OBJECTS, ..] => {
            let (header, inner) = split_header(bytes);
            into.extend_from_slice(header);
            if header.is_empty() {
                into.extend_from_slice(bytes);
            } else {
                put_with_parts(inner, depth + 1, get, into);
            }
        }
        [tag, inner @ ..] if variant(*tag).is_some() => {
            into.push(*tag);
            put_with_parts(inner, depth + 1, get, into);
        }
        _ => match blob(bytes).and_then(get) {
            Some(blob) => into.extend_from_slice(&blob),
            None => into.extend_from_slice(bytes),
        },
    }
}
