//! The hash of a plan: whether a run of this id was made of the same workflow.
//!
//! It covers what is computed: steps, their versions, arguments, edges and names. It leaves out how: retries,
//! time-outs, metadata and the fingerprints of types may change between two deployments without making it another workflow. Maps are hashed
//! without regard to order, since a `HashMap` has another order in every process.

use rmp::Marker;

use super::{Arg, NodeKind, Plan, Until};
use crate::value::{Value, split_header, tag};

/// A hasher that is fed a few bytes at a time: it gathers them first.
#[derive(Default)]
struct Sink {
    gathered: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Sink {
    /// So much is hashed several blocks at a time.
    const ENOUGH: usize = 64 << 10;

    /// One for a level of a value: on the stack, those of a deep value would not all have room.
    #[inline(never)]
    fn boxed() -> Box<Self> {
        Box::default()
    }

    // Nearly always a few bytes, whose number the caller knows.
    #[inline]
    fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= Self::ENOUGH {
            self.flush();
        }
        self
    }

    #[inline(never)]
    fn flush(&mut self) {
        self.hasher.update(&self.gathered);
        self.gathered.clear();
    }

    #[inline(never)]
    fn finalize(&mut self) -> blake3::Hash {
        self.hasher.update(&self.gathered);
        self.hasher.finalize()
    }
}

/// Hashes a plan.
pub(crate) fn hash(plan: &Plan) -> [u8; 32] {
    let mut hasher = Sink::default();
    let text = |hasher: &mut Sink, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    let nodes = |hasher: &mut Sink, nodes: &[u32]| {
        hasher.update(&(nodes.len() as u64).to_le_bytes());
        for node in nodes {
            hasher.update(&node.to_le_bytes());
        }
    };
    hasher.update(b"keepstep plan 1");
    for step in &plan.steps {
        text(&mut hasher, &step.name);
        hasher.update(&step.version.to_le_bytes());
    }
    for node in &plan.nodes {
        match &node.kind {
            NodeKind::Step { step, args } => {
                hasher
                    .update(b"S")
                    .update(&step.to_le_bytes())
                    .update(&(args.len() as u64).to_le_bytes());
                args.iter().for_each(|arg| hash_arg(&mut hasher, arg));
            }
            NodeKind::Value(value) => {
                hasher.update(b"V");
                hash_value(&mut hasher, value);
            }
            NodeKind::Catch(inner) => {
                hasher.update(b"C").update(&inner.to_le_bytes());
            }
            NodeKind::Sleep(Until::After(micros)) => {
                hasher.update(b"T").update(&micros.to_le_bytes());
            }
            NodeKind::Sleep(Until::At(time)) => {
                hasher.update(b"U").update(&time.0.to_le_bytes());
            }
            NodeKind::Event(name) => {
                hasher.update(b"E");
                text(&mut hasher, name);
            }
            NodeKind::All(inputs) => {
                hasher.update(b"L");
                nodes(&mut hasher, inputs);
            }
            NodeKind::First(told, inputs) => {
                hasher.update(b"F").update(&[*told as u8]);
                nodes(&mut hasher, inputs);
            }
            NodeKind::Child(child) => {
                hasher.update(b"R");
                text(&mut hasher, child.id.as_str());
                hasher.update(&child.hash);
            }
        }
        if let Some(extra) = &node.extra {
            if let Some(name) = &extra.name {
                hasher.update(b"N");
                text(&mut hasher, name);
            }
            for other in &extra.after {
                hasher.update(b"A").update(&other.to_le_bytes());
            }
        }
    }
    *hasher.finalize().as_bytes()
}

fn hash_arg(hasher: &mut Sink, arg: &Arg) {
    match arg {
        Arg::Value(value) => {
            hasher.update(b"v");
            hash_value(hasher, value);
        }
        Arg::Node(node) => {
            hasher.update(b"n").update(&node.to_le_bytes());
        }
        Arg::Seq(items) => {
            hasher
                .update(b"s")
                .update(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| hash_arg(hasher, item));
        }
        Arg::Map(entries) => {
            hasher
                .update(b"m")
                .update(&(entries.len() as u64).to_le_bytes());
            for (key, value) in entries {
                hash_value(hasher, key);
                hash_arg(hasher, value);
            }
        }
        Arg::Some(inner) => {
            hasher.update(b"o");
            hash_arg(hasher, inner);
        }
    }
}

fn hash_value(hasher: &mut Sink, value: &Value) {
    // The objects that the value refers to stand in itself, too.
    let (_, bytes) = split_header(value.as_bytes());
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    match bytes {
        [tag::MESSAGE_PACK, packed @ ..]
            if hash_packed(hasher, packed, 0, Lists::Ordered).is_some() => {}
        // Another codec, or bytes that are not what their tag says: as they stand.
        _ => {
            hasher.update(bytes);
        }
    }
}

/// Whether two values have the same content, whatever the order of maps and lists in it: a set of a type that is not known to be
/// one is a list, and has another order each time.
pub(crate) fn is_same_content(a: &Value, b: &Value) -> bool {
    let digest = |value: &Value| {
        let mut hasher = Sink::default();
        match split_header(value.as_bytes()).1 {
            [tag::MESSAGE_PACK, packed @ ..]
                if hash_packed(&mut hasher, packed, 0, Lists::Unordered).is_some() =>
            {
                Some(hasher.finalize())
            }
            _ => None,
        }
    };
    if a == b {
        return true;
    }
    match (digest(a), digest(b)) {
        (Some(a), Some(b)) => a == b,
        // bincode does not say where maps are: what is in another order has the same bytes, each as often.
        _ => counts(split_header(a.as_bytes()).1) == counts(split_header(b.as_bytes()).1),
    }
}

fn counts(bytes: &[u8]) -> Box<[usize; 256]> {
    let mut counts = Box::new([0; 256]);
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    counts
}

/// Whether the order of a list's elements is part of what is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    Ordered,
    Unordered,
}

/// Deeper nesting than the codec itself takes is hashed as it stands.
const MAX_DEPTH: u32 = 1024;

/// Hashes one MessagePack value and returns what follows it; `None` if it is not one.
///
/// Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.
fn hash_packed<'a>(
    hasher: &mut Sink,
    bytes: &'a [u8],
    depth: u32,
    lists: Lists,
) -> Option<&'a [u8]> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (first, rest) = bytes.split_first()?;
    // How many bytes after the marker belong to it: a length field, and what it counts.
    let field = |width: usize| -> Option<usize> {
        Some(
            rest.get(..width)?
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte)),
        )
    };
    let (header, payload, items) = match Marker::from_u8(*first) {
        Marker::Null
        | Marker::True
        | Marker::False
        | Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::Reserved => (0, 0, None),
        Marker::U8 | Marker::I8 => (0, 1, None),
        Marker::U16 | Marker::I16 => (0, 2, None),
        Marker::U32 | Marker::I32 | Marker::F32 => (0, 4, None),
        Marker::U64 | Marker::I64 | Marker::F64 => (0, 8, None),
        Marker::FixStr(length) => (0, usize::from(length), None),
        Marker::Str8 | Marker::Bin8 => (1, field(1)?, None),
        Marker::Str16 | Marker::Bin16 => (2, field(2)?, None),
        Marker::Str32 | Marker::Bin32 => (4, field(4)?, None),
        Marker::FixExt1 => (0, 2, None),
        Marker::FixExt2 => (0, 3, None),
        Marker::FixExt4 => (0, 5, None),
        Marker::FixExt8 => (0, 9, None),
        Marker::FixExt16 => (0, 17, None),
        Marker::Ext8 => (1, field(1)? + 1, None),
        Marker::Ext16 => (2, field(2)? + 1, None),
        Marker::Ext32 => (4, field(4)? + 1, None),
        Marker::FixArray(length) => (0, 0, Some((usize::from(length), false))),
        Marker::Array16 => (2, 0, Some((field(2)?, false))),
        Marker::Array32 => (4, 0, Some((field(4)?, false))),
        Marker::FixMap(length) => (0, 0, Some((usize::from(length), true))),
        Marker::Map16 => (2, 0, Some((field(2)?, true))),
        Marker::Map32 => (4, 0, Some((field(4)?, true))),
    };
    let own = 1 + header + payload;
    hasher.update(bytes.get(..own)?);
    let mut rest = bytes.get(own..)?;
    match items {
        None => {}
        Some((length, false)) if lists == Lists::Ordered => {
            for _ in 0..length {
                rest = hash_packed(hasher, rest, depth + 1, lists)?;
            }
        }
        Some((length, is_map)) => {
            // A sum does not depend on the order of what is summed.
            let mut sum = [0u64; 4];
            for _ in 0..length {
                let mut entry = Sink::boxed();
                rest = hash_packed(&mut entry, rest, depth + 1, lists)?;
                if is_map {
                    rest = hash_packed(&mut entry, rest, depth + 1, lists)?;
                }
                let entry = entry.finalize();
                for (total, part) in sum.iter_mut().zip(entry.as_bytes().chunks_exact(8)) {
                    let part = part
                        .iter()
                        .fold(0u64, |word, byte| word << 8 | u64::from(*byte));
                    *total = total.wrapping_add(part);
                }
            }
            sum.iter().for_each(|part| {
                hasher.update(&part.to_le_bytes());
            });
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::plan::{Args, PlanNode};
    use crate::value::Codec;

    fn hash_of(value: impl Serialize) -> [u8; 32] {
        let value = Value::encode(&value, Codec::MessagePack).unwrap();
        hash(&Plan {
            steps: vec![],
            nodes: vec![PlanNode {
                kind: NodeKind::Value(value),
                extra: None,
            }],
        })
    }

    /// A map whose entries are written in the order given.
    struct Ordered<'a>(&'a [(&'a str, u32)]);

    impl Serialize for Ordered<'_> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().copied())
        }
    }

    #[test]
    fn the_order_of_a_map_does_not_matter_and_that_of_a_list_does() {
        assert_eq!(
            hash_of(Ordered(&[("a", 1), ("b", 2)])),
            hash_of(Ordered(&[("b", 2), ("a", 1)]))
        );
        assert_ne!(
            hash_of(Ordered(&[("a", 1), ("b", 2)])),
            hash_of(Ordered(&[("a", 2), ("b", 1)]))
        );
        assert_ne!(hash_of([1, 2]), hash_of([2, 1]));
        assert_ne!(hash_of((1, [2])), hash_of((1, 2)));
    }

    #[test]
    fn what_types_look_like_is_no_part_of_what_a_plan_is() {
        let plan = |version, fingerprints: &[u32]| Plan {
            steps: vec![crate::plan::StepRef {
                name: "s".into(),
                version,
                fingerprints: fingerprints.into(),
            }],
            nodes: vec![PlanNode {
                kind: NodeKind::Step {
                    step: 0,
                    args: Args::new(),
                },
                extra: None,
            }],
        };
        assert_eq!(hash(&plan(1, &[1, 2])), hash(&plan(1, &[3])));
        assert_ne!(hash(&plan(1, &[])), hash(&plan(2, &[])));
    }

    #[test]
    fn every_kind_of_value_is_walked_to_its_end() {
        let value = serde_json::json!({"n": null, "b": [true, false], "i": [-1, -200, 70_000, 5_000_000_000u64, u64::MAX],
            "f": 1.5, "s": "x".repeat(300), "l": (0..100_000).collect::<Vec<u32>>(), "o": {"": {}}});
        let packed = rmp_serde::to_vec_named(&value).unwrap();
        assert_eq!(
            hash_packed(&mut Sink::default(), &packed, 0, Lists::Ordered),
            Some(&[][..])
        );
        for cut in [0, 1, packed.len() / 2, packed.len() - 1] {
            assert_eq!(
                hash_packed(&mut Sink::default(), &packed[..cut], 0, Lists::Ordered),
                None
            );
        }
    }
}
