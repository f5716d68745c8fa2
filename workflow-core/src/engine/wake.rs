//! Taking runs back into memory that wait outside of it: because a time has come, or mail.

use std::sync::Arc;

use keepstep_storage::RunId;

use super::lock::KeyedGuard;
use super::shared::{Seat, SeatState, Shared, WakePermit};
use super::slots::{Line, Permits};
use crate::executor::FIRST_PAGE_BYTES;

/// A run that nobody else changes while it is taken back.
struct Held {
    id: RunId,
    seat: Arc<Seat>,
    permit: WakePermit,
    _lock: KeyedGuard,
}

impl Shared {
    /// Wakes what is due, each with its permit: runs are read with one call for all of them.
    pub(crate) async fn wake_all(self: Arc<Self>, due: Vec<(RunId, WakePermit)>) {
        let mut held = Vec::with_capacity(due.len());
        for (id, permit) in due {
            if id.parts().next().is_some() {
                self.wake(id);
                continue;
            }
            let Some(_lock) = self.locks.try_lock(&id) else {
                // Somebody is busy with it, maybe for long: the others do not wait for that.
                self.unpark(id, Some(permit));
                continue;
            };
            if let Some(seat) = self.waits_outside(&id) {
                held.push(Held {
                    id,
                    seat,
                    permit,
                    _lock,
                });
            }
        }
        if held.is_empty() {
            return;
        }
        let ids: Vec<RunId> = held.iter().map(|held| held.id.clone()).collect();
        let read = self.storage.read_runs(&ids, FIRST_PAGE_BYTES).await;
        // If one of them cannot be read, each is read by itself: the others can.
        let mut read = read.unwrap_or_default().into_iter();
        for held in held {
            let read = read.next().flatten();
            let permits = Permits {
                slot: None,
                waking: Some(held.permit),
            };
            self.go_on_with(&held.id, held.seat, permits, read).await;
        }
    }

    /// Takes a run back into memory that waits outside of it, once nobody else is busy with it.
    pub(crate) fn unpark(self: &Arc<Self>, id: RunId, permit: Option<WakePermit>) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let _lock = shared.locks.lock(&id).await;
            let Some(seat) = shared.waits_outside(&id) else {
                return;
            };
            let permits = Permits {
                slot: None,
                waking: permit,
            };
            shared.go_on_with(&id, seat, permits, None).await;
        });
    }

    /// The seat of a run that waits outside memory, for a slot too if it had begun, or one that nobody has taken yet; `None` if it is in
    /// memory, or not to be.
    fn waits_outside(&self, id: &RunId) -> Option<Arc<Seat>> {
        let roster = self.roster();
        let seat = match roster.seats.get(id) {
            Some((
                SeatState::Parked | SeatState::Remote | SeatState::Queued(_, Line::Interrupted),
                seat,
            )) => Arc::clone(seat),
            Some(_) => return None,
            None => Seat::new([0; 32]),
        };
        (!roster.is_closed && !roster.lost.contains(id)).then_some(seat)
    }
}
