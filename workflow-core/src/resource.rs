//! Things that steps use and nothing stores: connections, clients, configuration.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

/// The resources of an engine, one a type.
#[derive(Default)]
pub(crate) struct Resources {
    by_type: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl Resources {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, resource: T) {
        self.by_type.insert(TypeId::of::<T>(), Arc::new(resource));
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.by_type.get(&TypeId::of::<T>())?)
            .downcast()
            .ok()
    }

    pub(crate) fn contains(&self, type_id: TypeId) -> bool {
        self.by_type.contains_key(&type_id)
    }
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} resources", self.by_type.len())
    }
}
