//! Handles: what `get_or_create` gives, deletion, reminders, and listings.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use keepstep_storage::{
    Epoch, Expect, Position, RunId, RunKind, RunRecord, RunWrite, StepCounts, StoredStatus,
    ValueKey, WriteOutcome,
};
use tokio::sync::oneshot;

use super::NAMESPACE;
use super::agenda::Agenda;
use super::current::current_engine;
use super::def::{ActorDef, ActorState};
use super::execute::{Stage, panicked};
use super::residents::Mail;
use super::stored::{self, Message, State};
use super::waits::{Wait, circle_of, waiters_here};
use crate::engine::{Engine, Shared, default_engine};
use crate::error::{Error, Result};
use crate::resource::Resources;
use crate::step::{Failure, StepFault};

/// An actor, by its type and id: what every generated handle derefs to. Cloning is cheap. It does not keep its engine going.
#[derive(Clone)]
pub struct ActorHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) def: &'static ActorDef,
    pub(super) id: RunId,
}

impl ActorHandle {
    pub(super) fn new(shared: &Arc<Shared>, def: &'static ActorDef, id: &str) -> Result<Self> {
        let id = RunId::of_parts(&[NAMESPACE, def.name, id])?;
        // Who uses an actor wants actors to live.
        shared.awaken();
        Ok(Self {
            shared: Arc::clone(shared),
            def,
            id,
        })
    }

    /// The actor's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.parts().nth(2).unwrap_or_default()
    }

    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.def.name
    }

    /// Removes a reminder that was made with [`ActorCall::every`](crate::ActorCall::every), durably. One that is not there may
    /// be removed.
    ///
    /// # Errors
    /// [`Error::ActorNotFound`], [`Error::ShutDown`], [`Error::Storage`].
    pub async fn forget(&self, name: impl Into<String>) -> Result<()> {
        let name = name.into();
        self.shared.check_runtime()?;
        self.post(&Message::Forget { name }, None).await
    }

    /// The reminders of the actor, in the order of their names.
    ///
    /// # Errors
    /// [`Error::ActorNotFound`], [`Error::Storage`].
    pub async fn reminders(&self) -> Result<Vec<ActorReminder>> {
        self.shared.check_runtime()?;
        self.must_exist().await?;
        let agenda = Agenda::read(&*self.shared.storage, &self.id).await?;
        let mut reminders = agenda.into_reminders();
        // Those on their way to the agenda.
        for message in self
            .shared
            .storage
            .inbox(&self.id, None, usize::MAX)
            .await?
        {
            match stored::decode(&self.id, "message", &message.body)? {
                Message::Remind { name, reminder } => drop(reminders.insert(name, reminder)),
                Message::Forget { name } => drop(reminders.remove(&name)),
                Message::Call { .. } => {}
            }
        }
        let shown = |(name, reminder): (String, stored::Reminder)| ActorReminder {
            name,
            method: reminder.call.method,
            every: Duration::from_micros(reminder.every_micros),
            next_at: reminder.next_at.into(),
        };
        Ok(reminders.into_iter().map(shown).collect())
    }

    /// Deletes the actor with all that is stored of it, once the calls before this one are done. Its id can then be used
    /// again. Workflows that it started go on.
    ///
    /// # Errors
    /// [`Error::ActorNotFound`], [`Error::ActorDeadlock`] if the caller would wait for itself, [`Error::ShutDown`],
    /// [`Error::Storage`].
    pub async fn delete(&self) -> Result<()> {
        self.shared.check_runtime()?;
        let waiters = waiters_here().await?;
        let deadlock = |circle| self.deadlock("delete", circle);
        let wait = self.shared.wait_for_call(&waiters, &self.id, None);
        let mut wait = wait.map_err(deadlock)?;
        // Once it is in memory, it is known whether its calls wait for a run.
        let seat = self.shared.actor(self.def, &self.id, None)?;
        let mut committed = seat.committed.subscribe();
        tokio::select! {
            biased;
            _ = committed.wait_for(Option::is_some) => {}
            circle = circle_of(&mut wait) => return Err(deadlock(circle)),
        }
        // From now on it is not taken back.
        let claim = wait.as_ref().and_then(Wait::claim);
        if claim.is_some_and(|claim| !claim.begin()) {
            return Err(deadlock(circle_of(&mut wait).await));
        }
        let waits = &self.shared.actors.waits;
        if let Some(circle) = waits.circle_behind(&self.id, &waiters, None) {
            return Err(deadlock(circle));
        }
        let (reply, deleted) = oneshot::channel();
        self.shared
            .actor(self.def, &self.id, Some(Mail::Delete(reply)))?;
        let shared = &self.shared;
        shared.explained(deleted.await.map_err(|_| shared.over())?)
    }

    pub(super) fn not_found(&self) -> Error {
        Error::ActorNotFound {
            actor: self.id.clone(),
        }
    }

    pub(super) fn deadlock(&self, method: &str, circle: Vec<RunId>) -> Error {
        Error::ActorDeadlock {
            actor: self.id.clone(),
            method: method.to_owned(),
            circle,
        }
    }

    async fn must_exist(&self) -> Result<()> {
        match self.shared.storage.record(&self.id).await? {
            Some(_) => Ok(()),
            None => Err(self.not_found()),
        }
    }
}

impl PartialEq for ActorHandle {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for ActorHandle {}

impl fmt::Debug for ActorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.def.name, self.id())
    }
}

/// A call that an actor repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActorReminder {
    /// Its name.
    pub name: String,
    /// The method it calls.
    pub method: String,
    /// How often.
    pub every: Duration,
    /// When it is made next.
    pub next_at: SystemTime,
}

/// Where actors of a type are: on the engine of the step or method this code runs in, else on the default one.
#[doc(hidden)]
pub async fn actor_engine(engine: Option<&Engine>) -> Result<ActorEngine> {
    Ok(ActorEngine(match (engine, current_engine()) {
        (Some(engine), _) => Arc::clone(engine.shared()),
        (None, Some(shared)) => shared,
        (None, None) => Arc::clone(default_engine().await?.shared()),
    }))
}

/// The engine of actors.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct ActorEngine(Arc<Shared>);

impl ActorEngine {
    /// An actor, which is made durably if it is not there.
    pub async fn get_or_create<F>(
        &self,
        def: &'static ActorDef,
        id: &str,
        construct: impl FnOnce(ConstructorInput) -> F,
    ) -> Result<ActorHandle>
    where
        F: Future<Output = Result<ActorState, StepFault>>,
    {
        let shared = &self.0;
        shared.check_runtime()?;
        let handle = ActorHandle::new(shared, def, id)?;
        let _lock = shared.locks().lock(&handle.id).await;
        if shared.storage.record(&handle.id).await?.is_some() {
            return Ok(handle);
        }
        let stage = Stage {
            shared: Arc::clone(shared),
            def,
            id: handle.id.clone(),
        };
        let input = ConstructorInput(Arc::clone(&shared.resources));
        let making = AssertUnwindSafe(async {
            let state = construct(input).await?;
            def.write(&state)
        });
        let made = making.catch_unwind().await;
        let encoded = made.unwrap_or_else(|panic| Err(panicked(&*panic)));
        let value = encoded.map_err(|fault| stage.constructor_fault(fault))?;
        let settled = shared.objects.settle(value).await;
        let value = settled.map_err(|unkept| stage.constructor_fault(StepFault(unkept.into())))?;
        let mut blobs = Vec::new();
        value.for_each_blob(&mut |blob| blobs.push(blob));
        let state = State {
            version: def.version,
            value,
        };
        let mut write = creation(
            shared,
            &handle.id,
            RunKind::Actor,
            def.name,
            vec![(ValueKey::State, Some(stored::encode(&state)?))],
        );
        write.blobs = blobs;
        let committed = shared
            .commit_all(Some(write), Vec::new(), Vec::new())
            .await?;
        match committed.writes.first() {
            // Another process was faster: there is one.
            Some(WriteOutcome::Written | WriteOutcome::Exists) => Ok(handle),
            Some(&WriteOutcome::BlobMissing { blob: object }) => {
                Err(Error::ObjectNotFound { object })
            }
            _ => Err(Error::Fenced {
                run: handle.id.clone(),
            }),
        }
    }

    /// An actor that exists.
    ///
    /// # Errors
    /// [`Error::ActorNotFound`].
    pub async fn get(&self, def: &'static ActorDef, id: &str) -> Result<ActorHandle> {
        self.0.check_runtime()?;
        let handle = ActorHandle::new(&self.0, def, id)?;
        handle.must_exist().await?;
        Ok(handle)
    }

    /// A page of actors.
    pub async fn list(&self, def: &'static ActorDef, filter: ActorFilter) -> Result<ActorPage> {
        self.0.check_runtime()?;
        list(&self.0, filter.type_name(def.name)).await
    }
}

/// The write that makes something that is not a run of a user's.
pub(crate) fn creation(
    shared: &Shared,
    id: &RunId,
    kind: RunKind,
    name: &str,
    values: Vec<(ValueKey, Option<bytes::Bytes>)>,
) -> RunWrite {
    let now = shared.clock.timestamp();
    RunWrite {
        run: id.clone(),
        expect: Expect::New,
        record: RunRecord {
            kind,
            status: StoredStatus::Running,
            // Where others share the store, it is whose it is called by.
            owner: (!shared.is_shared()).then_some(shared.node),
            // Not the first one there is: whoever still serves a deleted one of this id must not meet its own epoch again.
            epoch: Epoch(1 + (shared.random_u64() >> 16)),
            incarnation: shared.random_u64(),
            workflow: name.to_owned(),
            plan_hash: [0; 32],
            created_at: now,
            started_at: Some(now),
            ended_at: None,
            wake_at: None,
            first_entry: Position(0),
            next_entry: Position(0),
            journal_bytes: 0,
            steps: StepCounts::default(),
            parent: None,
            build: shared.build.clone(),
            n_orphaned: 0,
        },
        entry: None,
        truncate: false,
        values,
        blobs: shared.build.executable.into_iter().collect(),
        consumed: Vec::new(),
        only_with: None,
    }
}

/// What a constructor is given.
#[derive(Debug)]
#[doc(hidden)]
pub struct ConstructorInput(Arc<Resources>);

impl ConstructorInput {
    /// The resource of a type.
    pub fn resource<T: Send + Sync + 'static>(
        &self,
        param: &'static str,
    ) -> Result<Arc<T>, StepFault> {
        self.0.get::<T>().ok_or_else(|| {
            StepFault(crate::step::Fault::MissingResource {
                param,
                type_name: std::any::type_name::<T>(),
            })
        })
    }
}

/// What a constructor gave that may fail.
#[doc(hidden)]
pub fn constructed<A, E: Failure<M>, M>(made: Result<A, E>) -> Result<A, StepFault> {
    made.map_err(crate::step::fault)
}

/// Which actors a listing has, in the order of their type and id.
///
/// ```
/// use keepstep_core::ActorFilter;
///
/// let second_page = ActorFilter::all().id_prefix("customer/").after("customer/17").limit(50);
/// # let _ = second_page;
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ActorFilter {
    type_name: Option<String>,
    id_prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

impl ActorFilter {
    /// Every actor, 100 to a page.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only actors of the type of this name. [`Engine::list_actors`] needs it.
    pub fn type_name(mut self, name: impl Into<String>) -> Self {
        self.type_name = Some(name.into());
        self
    }

    /// Only actors whose id starts so.
    pub fn id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.id_prefix = prefix.into();
        self
    }

    /// Only actors after this id: where the page before ended.
    pub fn after(mut self, id: impl Into<String>) -> Self {
        self.after = Some(id.into());
        self
    }

    /// At most so many actors; at least 1.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit.max(1));
        self
    }
}

/// A page of actors.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ActorPage {
    /// The actors.
    pub actors: Vec<ActorSummary>,
    /// Where to go on; `None` when there is nothing more.
    pub next: Option<String>,
}

/// An actor in a listing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ActorSummary {
    /// Its id.
    pub id: String,
    /// The name of its type.
    pub type_name: String,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it has something to do next, if that is at a time.
    pub wake_at: Option<SystemTime>,
}

impl Engine {
    /// A page of the actors of a type, in the order of their ids. Runs have a listing of their own.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn list_actors(&self, filter: ActorFilter) -> Result<ActorPage> {
        self.shared().check_runtime()?;
        list(self.shared(), filter).await
    }
}

async fn list(shared: &Arc<Shared>, filter: ActorFilter) -> Result<ActorPage> {
    let ActorFilter {
        type_name,
        id_prefix,
        after,
        limit,
    } = filter;
    let limit = limit.unwrap_or(100);
    let Some(type_name) = type_name else {
        return Ok(ActorPage::default());
    };
    let prefix = RunId::prefix_of_parts(&[NAMESPACE, &type_name]) + &id_prefix;
    let after = after.map(|after| RunId::of_parts(&[NAMESPACE, &type_name, &after]));
    let mut listed = shared
        .storage
        .list_by_id(
            RunKind::Actor,
            &prefix,
            after.transpose()?.as_ref(),
            limit.saturating_add(1),
        )
        .await?;
    let has_more = listed.len() > limit;
    listed.truncate(limit);
    let actors: Vec<_> = listed
        .into_iter()
        .map(|listed| ActorSummary {
            id: listed.run.parts().nth(2).unwrap_or_default().to_owned(),
            type_name: type_name.clone(),
            created_at: listed.record.created_at.into(),
            wake_at: listed.record.wake_at.map(Into::into),
        })
        .collect();
    let next = actors
        .last()
        .filter(|_| has_more)
        .map(|last| last.id.clone());
    Ok(ActorPage { actors, next })
}
