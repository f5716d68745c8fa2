//! Making values ready to be stored: work under way that they refer to is awaited, the objects that they name are listed before
//! them, and those that are long are kept in blobs.

use std::sync::Arc;

use keepstep_storage::{BlobId, StorageError};
use rustc_hash::{FxHashMap, FxHashSet};

use super::address::{Address, Kind, PENDING, TEXT_LEN};
use super::objects::Objects;
use super::pins::Pins;
use super::{Reference, Target};
use crate::error::Error;
use crate::plan::{Child, NodeKind, Plan};
use crate::step::Fault;
use crate::value::{Value, split_header};

/// Values longer than this are kept as blobs: the journal and the memory hold only their address.
pub(crate) const MAX_INLINE_BYTES: usize = 64 << 10;

/// Why a value cannot be stored.
#[derive(Debug)]
pub(crate) enum Unkept {
    Storage(StorageError),
    /// It names an object that is not in the store.
    Missing(BlobId),
    /// Work that was to make an object failed.
    Work(Fault),
}

impl From<StorageError> for Unkept {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<Unkept> for Error {
    fn from(unkept: Unkept) -> Self {
        match unkept {
            Unkept::Storage(error) => Self::Storage(error),
            Unkept::Missing(object) => Self::ObjectNotFound { object },
            Unkept::Work(fault) => super::pending::error_of(fault),
        }
    }
}

impl From<Unkept> for Fault {
    fn from(unkept: Unkept) -> Self {
        match unkept {
            Unkept::Storage(error) => Self::Storage(error),
            Unkept::Missing(object) => {
                let error = Error::ObjectNotFound { object };
                Self::Error {
                    message: error.to_string(),
                    causes: vec![],
                }
            }
            Unkept::Work(fault) => fault,
        }
    }
}

/// What a value's references came to.
#[derive(Default)]
struct Names {
    ids: Vec<BlobId>,
    pins: Vec<Arc<Pins>>,
    /// Texts that stand for work that was under way, and the addresses to put in their places.
    fillings: FxHashMap<String, String>,
    seen_ids: FxHashSet<BlobId>,
    /// Where they are in memory.
    seen_pins: FxHashSet<usize>,
}

impl Names {
    fn name(&mut self, id: BlobId) {
        if self.seen_ids.insert(id) {
            self.ids.push(id);
        }
    }

    fn pin(&mut self, pins: Arc<Pins>) {
        if self.seen_pins.insert(Arc::as_ptr(&pins).addr()) {
            self.pins.push(pins);
        }
    }

    /// Puts addresses in the places of what stands for them.
    fn fill(&self, bytes: &mut [u8]) {
        if self.fillings.is_empty() {
            return;
        }
        let mut from = 0;
        while let Some(at) = find(&bytes[from..], PENDING.as_bytes()) {
            from += at;
            let text = bytes.get_mut(from..from + TEXT_LEN);
            let filled = text.and_then(|text| {
                let address = self.fillings.get(std::str::from_utf8(text).ok()?)?;
                text.copy_from_slice(address.as_bytes());
                Some(TEXT_LEN)
            });
            // A text of the user's that looks like one.
            from += filled.unwrap_or(1);
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

impl Objects {
    /// Whether a value can be stored as it is.
    pub(crate) fn is_kept(value: &Value) -> bool {
        value.is_settled() && split_header(value.as_bytes()).1.len() <= MAX_INLINE_BYTES
    }

    /// Makes a plan ready to be stored.
    pub(crate) async fn keep_plan(self: &Arc<Self>, mut plan: Plan) -> Result<Plan, Unkept> {
        self.settle_plan(&mut plan).await?;
        let mut long = Vec::new();
        plan.for_each_value(&mut |value| {
            if !Self::is_kept(value) {
                long.push(value.clone());
            }
        });
        if long.is_empty() {
            return Ok(plan);
        }
        let mut kept = Vec::with_capacity(long.len());
        for value in long {
            kept.push(self.offload(value).await?);
        }
        let mut kept = kept.into_iter();
        plan.for_each_value_mut(&mut |value| {
            if !Self::is_kept(value)
                && let Some(offloaded) = kept.next()
            {
                *value = offloaded;
            }
        });
        Ok(plan)
    }

    /// Puts what is long of a settled value into a blob. The names of objects stay before it.
    pub(crate) async fn offload(&self, value: Value) -> Result<Value, StorageError> {
        if Self::is_kept(&value) {
            return Ok(value);
        }
        let bytes = value.to_bytes();
        let (header, inner) = split_header(&bytes);
        let (header, inner) = (bytes.slice_ref(header), bytes.slice_ref(inner));
        let len = inner.len() as u64;
        let id = self.storage().put_blob(inner).await?;
        let mut pins = value.pins().to_vec();
        pins.push(Pins::of_pinned(self.storage(), vec![id]));
        Ok(Value::blob(&header, id, len).pinned(pins))
    }

    /// Awaits the work that a value refers to, and lists the objects that it names before it.
    pub(crate) async fn settle(self: &Arc<Self>, value: Value) -> Result<Value, Unkept> {
        if value.is_settled() {
            return Ok(value);
        }
        // Few values have references, and every body's future would have the size of this one.
        Box::pin(self.settle_references(value)).await
    }

    async fn settle_references(self: &Arc<Self>, value: Value) -> Result<Value, Unkept> {
        let mut names = Names::default();
        for reference in value.unsettled() {
            self.settle_one(reference, &mut names).await?;
        }
        let mut bytes = Value::header(&names.ids);
        let from = bytes.len();
        bytes.extend_from_slice(value.as_bytes());
        names.fill(&mut bytes[from..]);
        Ok(Value::of_bytes(bytes.into()).pinned(names.pins))
    }

    async fn settle_one(
        self: &Arc<Self>,
        Reference(target): &Reference,
        names: &mut Names,
    ) -> Result<(), Unkept> {
        let object = target.object().await.map_err(Unkept::Work)?;
        let Address { kind, blob, .. } = object.address;
        if let Target::Pending(pending) = &**target {
            let token = pending.stand_in().to_string();
            names.fillings.insert(token, object.address.to_string());
        }
        if !names.seen_ids.contains(&blob) {
            self.pin(&object.pins, blob, names).await?;
            if kind == Kind::Nest {
                let nested = self.nested_in(blob).await?;
                for &id in &*nested {
                    self.pin(&object.pins, id, names).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes over what pins an object; pins it if nothing does, and it is there.
    async fn pin(&self, pins: &[Arc<Pins>], blob: BlobId, names: &mut Names) -> Result<(), Unkept> {
        names.name(blob);
        let mut is_kept = false;
        for pins in pins {
            if pins.keeps(self.storage(), &blob) {
                is_kept = true;
                names.pin(Arc::clone(pins));
            }
        }
        if !is_kept {
            let pins = Pins::new(self.storage(), vec![blob]);
            if self.storage().blob_len(&blob).await?.is_none() {
                return Err(Unkept::Missing(blob));
            }
            names.pin(pins);
        }
        Ok(())
    }

    /// Settles the values of a plan, those of the plans of child runs included.
    pub(crate) async fn settle_plan(self: &Arc<Self>, plan: &mut Plan) -> Result<(), Unkept> {
        if plan.is_settled() {
            return Ok(());
        }
        Box::pin(self.settle_values_of(plan)).await
    }

    async fn settle_values_of(self: &Arc<Self>, plan: &mut Plan) -> Result<(), Unkept> {
        let mut unsettled = Vec::new();
        plan.for_each_value(&mut |value| {
            if !value.is_settled() {
                unsettled.push(value.clone());
            }
        });
        let mut settled = Vec::with_capacity(unsettled.len());
        for value in unsettled {
            settled.push(self.settle(value).await?);
        }
        let mut settled = settled.into_iter();
        plan.for_each_value_mut(&mut |value| {
            if !value.is_settled()
                && let Some(next) = settled.next()
            {
                *value = next;
            }
        });
        for node in &mut plan.nodes {
            if let NodeKind::Child(child) = &mut node.kind
                && let Some(mut of_child) = child.in_memory.unsettled.take()
            {
                self.settle_plan(&mut of_child).await?;
                let settled = Child::new(child.id.clone(), &of_child);
                **child = settled.ok_or_else(|| {
                    let message = Error::PlanTooLarge.to_string();
                    Unkept::Work(Fault::Unencodable { message })
                })?;
            }
        }
        Ok(())
    }
}
