//! Messages to a run: what they say, and how the run takes them.
//!
//! A message stays in the store's inbox until the commit that records what came of it. A run in memory reads its inbox when it may
//! have mail and waits for some, each message once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bincode::Options;
use bytes::Bytes;
use keepstep_storage::{Message, MessageId, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::RunTask;
use crate::engine::Ended;
use crate::error::{Damage, Error, SuspendReason};
use crate::run::{Run, StepId};
use crate::value::Value;

/// How many messages are read at a time.
const PAGE: usize = 1000;
/// The version of a message's bytes.
const FORMAT: u8 = 1;

/// What a message to a run says. Stored as bincode: add variants at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Mail {
    /// Something happened that the run may wait for.
    Event { name: Arc<str>, value: Value },
    /// The run that a node waits for has ended.
    ChildEnded { step: StepId },
    /// The run that this one was started by was canceled, or needs it no more.
    Abandoned,
    /// Somebody canceled the run where another engine is.
    Cancel,
    /// Somebody suspended the run where another engine is.
    Suspend,
}

impl Mail {
    /// The bytes that are stored; `None` beyond 4 GiB.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        let mut bytes = vec![FORMAT];
        bincode::DefaultOptions::new()
            .serialize_into(&mut bytes, self)
            .ok()?;
        u32::try_from(bytes.len()).ok()?;
        Some(bytes.into())
    }

    /// What stored bytes say; what is wrong with them otherwise.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (version, mail) = bytes.split_first().ok_or("it is empty")?;
        if *version != FORMAT {
            return Err(format!(
                "it has format {version}, which this version of keepstep does not read"
            ));
        }
        bincode::DefaultOptions::new()
            .with_limit(mail.len() as u64)
            .deserialize(mail)
            .map_err(|error| error.to_string())
    }
}

/// An event that nothing has taken yet.
#[derive(Debug)]
struct Unread {
    id: MessageId,
    sent_at: Timestamp,
    value: Value,
}

/// The inbox of a run in memory, as far as it was read.
#[derive(Debug)]
pub(super) struct Mailbox {
    read_to: Option<MessageId>,
    may_have_more: bool,
    /// Events that nothing has taken yet, by name, in order of arrival.
    events: HashMap<Arc<str>, VecDeque<Unread>>,
    /// The first of each name that a node of the run waits for.
    awaited: BTreeSet<(MessageId, Arc<str>)>,
    /// Messages that need no event of their own, to be consumed with the next commit.
    taken: Vec<MessageId>,
    /// Messages that the run is not needed any more, to be consumed with the commit that ends it.
    abandoned: Vec<MessageId>,
    /// Messages that the run is to stop, to be consumed with the commit that stops it.
    suspending: Vec<MessageId>,
    /// Whether somebody said that there is mail.
    is_told: bool,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            read_to: None,
            // What arrived while the run was not in memory.
            may_have_more: true,
            events: HashMap::new(),
            awaited: BTreeSet::new(),
            taken: Vec::new(),
            abandoned: Vec::new(),
            suspending: Vec::new(),
            is_told: false,
        }
    }
}

impl Mailbox {
    /// Something arrived.
    pub(super) fn arrived(&mut self) {
        self.may_have_more = true;
        self.is_told = true;
    }

    /// Something may have arrived that nobody told of.
    pub(super) fn look_again(&mut self) {
        self.may_have_more = true;
    }

    fn push(&mut self, name: Arc<str>, event: Unread, is_listened: bool) {
        let id = event.id;
        let events = self.events.entry(Arc::clone(&name)).or_default();
        events.push_back(event);
        if events.len() == 1 && is_listened {
            self.awaited.insert((id, name));
        }
    }

    /// The name of the first event to arrive that a node of the run waits for, and when it was sent.
    ///
    /// Of what may be many that are waited for and many that are unread, only names are looked at of which the run began or ceased to
    /// wait since the last call.
    pub(super) fn first_for(&mut self, run: &mut Run) -> Option<(Arc<str>, Timestamp)> {
        let changed = run.take_changed_names();
        if self.events.is_empty() {
            return None;
        }
        self.first_of(changed, |name| run.listener(name).is_some())
    }

    fn first_of(
        &mut self,
        changed: Vec<Arc<str>>,
        is_listened: impl Fn(&str) -> bool,
    ) -> Option<(Arc<str>, Timestamp)> {
        for name in changed {
            let Some(first) = self.events.get(&name).and_then(VecDeque::front) else {
                continue;
            };
            let is_listened = is_listened(&name);
            let first = (first.id, name);
            match is_listened {
                true => drop(self.awaited.insert(first)),
                false => drop(self.awaited.remove(&first)),
            }
        }
        let (_, name) = self.awaited.first()?;
        let first = self.events.get(name).and_then(VecDeque::front)?;
        Some((Arc::clone(name), first.sent_at))
    }

    /// Takes the first event of a name.
    pub(super) fn take(&mut self, name: &Arc<str>) -> Option<(MessageId, Value)> {
        let events = self.events.get_mut(name)?;
        let Unread { id, value, .. } = events.pop_front()?;
        self.awaited.remove(&(id, Arc::clone(name)));
        match events.front() {
            // The run still waits for it, as far as is known here.
            Some(next) => drop(self.awaited.insert((next.id, Arc::clone(name)))),
            None => drop(self.events.remove(name)),
        }
        Some((id, value))
    }

    /// Messages that are done with.
    pub(super) fn take_taken(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.taken)
    }

    /// Messages that are done with once the run is canceled. Until then a crash must leave them, or nobody would know.
    pub(super) fn take_abandoned(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.abandoned)
    }

    /// Messages that are done with once the run has stopped, in whatever way.
    pub(super) fn take_suspending(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.suspending)
    }
}

impl RunTask {
    /// Reads the mail, if the run may have some and can do something with it.
    pub(super) async fn read_mail(&mut self) -> Result<(), Ended> {
        let may_matter = self.run.waits_for_others()
            || self.record.parent.is_some()
            || self.mailbox.is_told && self.shared.is_shared();
        // A cancel goes before a failure that is not the end yet.
        let may_change = self.run.is_active() || self.run.is_failing();
        if !may_matter || !may_change || self.is_shutting_down {
            return Ok(());
        }
        while std::mem::take(&mut self.mailbox.may_have_more) {
            let page = self
                .shared
                .storage
                .inbox(&self.id, self.mailbox.read_to, PAGE)
                .await
                .map_err(Ended::Interrupted)?;
            self.mailbox.may_have_more = page.len() == PAGE;
            for Message { id, sent_at, body } in page {
                self.mailbox.read_to = Some(id);
                let mail = Mail::decode(&body).map_err(|what| {
                    Ended::Unreadable(Error::Damaged {
                        run: self.id.clone(),
                        damage: Damage::Message { id: id.0, what },
                    })
                })?;
                self.take_mail(id, sent_at, mail).await?;
            }
        }
        Ok(())
    }

    async fn take_mail(
        &mut self,
        id: MessageId,
        sent_at: Timestamp,
        mail: Mail,
    ) -> Result<(), Ended> {
        debug!(run = %self.id, message = id.0, ?mail, "message read");
        match mail {
            Mail::Event { name, value } => {
                let offloaded = self.shared.objects.offload(value).await;
                let value = offloaded.map_err(Ended::Interrupted)?;
                let is_listened = self.run.listener(&name).is_some();
                let event = Unread { id, sent_at, value };
                self.mailbox.push(name, event, is_listened);
            }
            Mail::ChildEnded { step } => {
                self.mailbox.taken.push(id);
                self.look_after_child(step);
            }
            Mail::Abandoned | Mail::Cancel => {
                self.mailbox.abandoned.push(id);
                self.run.cancel();
                self.stop_steps();
            }
            Mail::Suspend => {
                self.mailbox.suspending.push(id);
                self.run.suspend(SuspendReason::Requested);
                self.stop_steps();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Codec;

    /// A change of these bytes makes messages unreadable that are under way: add a variant instead.
    #[test]
    fn messages_of_format_1_keep_their_bytes() {
        let value = Value::encode(&7u8, Codec::MessagePack).unwrap();
        let name = "paid".into();
        for (mail, hex) in [
            (Mail::Event { name, value }, "01000470616964020107"),
            (Mail::ChildEnded { step: StepId(300) }, "0101fb2c01"),
            (Mail::Abandoned, "0102"),
            (Mail::Cancel, "0103"),
            (Mail::Suspend, "0104"),
        ] {
            let bytes = mail.encode().unwrap();
            let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, hex);
            assert_eq!(Mail::decode(&bytes), Ok(mail));
        }
    }

    /// Whatever order names are listened to in, the first that is both unread and listened to comes first.
    #[test]
    fn the_first_event_that_is_listened_to_comes_first() {
        let mut random = 1_u64;
        let mut below = |n: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % n
        };
        let names: Vec<Arc<str>> = (0..30).map(|n| format!("name {n}").into()).collect();
        let (mut mailbox, mut listened, mut changed) =
            (Mailbox::default(), BTreeSet::new(), Vec::new());
        let mut unread: Vec<(u64, Arc<str>)> = Vec::new();
        let value = Value::encode(&7u8, Codec::MessagePack).unwrap();
        for n in 0..20_000 {
            let name = Arc::clone(&names[below(30) as usize]);
            match below(4) {
                0 => {
                    unread.push((n, Arc::clone(&name)));
                    let event = Unread {
                        id: MessageId(n),
                        sent_at: Timestamp(n),
                        value: value.clone(),
                    };
                    let is_listened = listened.contains(&name);
                    mailbox.push(name, event, is_listened);
                }
                1 => {
                    listened.insert(Arc::clone(&name));
                    changed.push(name);
                }
                2 => {
                    listened.remove(&name);
                    changed.push(name);
                }
                _ => {
                    let found = mailbox
                        .first_of(std::mem::take(&mut changed), |name| listened.contains(name));
                    let at = unread.iter().position(|(_, name)| listened.contains(name));
                    let expected = at.map(|at| unread.remove(at));
                    assert_eq!(
                        found,
                        expected.clone().map(|(n, name)| (name, Timestamp(n)))
                    );
                    if let Some((n, name)) = expected {
                        let taken = mailbox.take(&name).map(|(id, _)| id);
                        assert_eq!(taken, Some(MessageId(n)));
                    }
                }
            }
        }
    }

    /// Many messages that nobody waits for yet are not looked at each time.
    #[test]
    fn unread_events_cost_nothing_until_somebody_listens_to_them() {
        let n = 16_000;
        let mut mailbox = Mailbox::default();
        let name = |n: u64| -> Arc<str> { format!("name {n}").into() };
        for n in 0..n {
            let event = Unread {
                id: MessageId(n),
                sent_at: Timestamp(n),
                value: Value::encode(&7u8, Codec::MessagePack).unwrap(),
            };
            mailbox.push(name(n), event, false);
        }
        let n_asked = std::cell::Cell::new(0);
        // The last to arrive is listened to first.
        for n in (0..n).rev() {
            for _ in 0..3 {
                let changed = vec![name(n)];
                let found = mailbox.first_of(changed, |_| {
                    n_asked.set(n_asked.get() + 1);
                    true
                });
                assert_eq!(found, Some((name(n), Timestamp(n))));
                assert_eq!(
                    mailbox.first_of(Vec::new(), |_| panic!("nothing has changed")),
                    Some((name(n), Timestamp(n)))
                );
            }
            mailbox.take(&name(n)).unwrap();
        }
        assert_eq!(n_asked.get(), 3 * n);
        assert!(mailbox.awaited.is_empty() && mailbox.events.is_empty());
    }

    #[test]
    fn other_bytes_are_an_error() {
        for bytes in [&[][..], &[2, 2], &[1], &[1, 9], &[1, 2, 0], &[1, 0, 200, 1]] {
            assert!(Mail::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
