//! Group claims: who claims runs while others are being claimed shares one call of the store with all who did meanwhile.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use keepstep_storage::{NodeId, RunId, RunRecord, Storage, StorageError};
use tokio::sync::{mpsc, oneshot};

/// How many runs are claimed with one call, unless one caller asks for more.
const MAX_CLAIMS: usize = 512;

type Claimed = Result<Vec<Option<RunRecord>>, StorageError>;

/// A claim that somebody waits for.
#[derive(Debug)]
pub(super) struct ClaimRequest {
    runs: Vec<RunId>,
    reply: oneshot::Sender<Claimed>,
}

/// The way to the store for all claims of an engine.
#[derive(Debug)]
pub(super) struct Claims(mpsc::UnboundedSender<ClaimRequest>);

impl Claims {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<ClaimRequest>) {
        let (requests, received) = mpsc::unbounded_channel();
        (Self(requests), received)
    }

    /// Claims runs; `None` if nobody does that any more.
    pub(super) async fn claim(&self, runs: &[RunId]) -> Option<Claimed> {
        let (reply, claimed) = oneshot::channel();
        let runs = runs.to_vec();
        self.0.send(ClaimRequest { runs, reply }).ok()?;
        claimed.await.ok()
    }
}

/// Claims what is asked for until nobody is left to ask.
pub(super) async fn run_claims(
    storage: Arc<dyn Storage>,
    (node, lease): (NodeId, Duration),
    mut requests: mpsc::UnboundedReceiver<ClaimRequest>,
) {
    let mut gathered: Vec<ClaimRequest> = Vec::new();
    loop {
        if gathered.is_empty() && requests.recv_many(&mut gathered, MAX_CLAIMS).await == 0 {
            return;
        }
        while gathered.len() < MAX_CLAIMS
            && let Ok(request) = requests.try_recv()
        {
            gathered.push(request);
        }
        // A run that is asked for twice is claimed twice, one after the other, and so is all behind it.
        let mut claimed_ids = HashSet::new();
        let fits = |request: &ClaimRequest| {
            let is_new = request
                .runs
                .iter()
                .all(|run| claimed_ids.insert(run.clone()));
            is_new && claimed_ids.len() <= MAX_CLAIMS
        };
        let n = gathered.iter().map(fits).take_while(|fits| *fits).count();
        let later = gathered.split_off(n.max(1));
        let asked = std::mem::replace(&mut gathered, later);
        let runs: Vec<RunId> = asked
            .iter()
            .flat_map(|asked| &asked.runs)
            .cloned()
            .collect();
        match claim(&*storage, &runs, node, lease).await {
            Ok(records) => {
                let mut records = records.into_iter();
                for asked in asked {
                    let claimed = records.by_ref().take(asked.runs.len()).collect();
                    // Whoever asked may have gone.
                    drop(asked.reply.send(Ok(claimed)));
                }
            }
            Err(error) if asked.len() > 1 && !error.is_retryable() => {
                // It is one of them that cannot be claimed, such as one that is damaged.
                for asked in asked {
                    let claimed = claim(&*storage, &asked.runs, node, lease).await;
                    drop(asked.reply.send(claimed));
                }
            }
            Err(error) => {
                for asked in asked {
                    drop(asked.reply.send(Err(error.clone())));
                }
            }
        }
    }
}

async fn claim(storage: &dyn Storage, runs: &[RunId], node: NodeId, lease: Duration) -> Claimed {
    // A store that panics must not leave those who wait for it waiting.
    let claiming = AssertUnwindSafe(storage.claim(runs, node, lease));
    let claimed = claiming.catch_unwind().await;
    claimed.unwrap_or_else(|_| Err(panicked(storage)))
}

fn panicked(storage: &dyn Storage) -> StorageError {
    StorageError::Backend {
        backend: storage.describe().backend,
        operation: "claim",
        source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
            "it panicked",
        )),
    }
}

#[cfg(test)]
mod tests {
    use keepstep_storage::fault::{Call, Effect, Fault, Faulty};
    use keepstep_storage::memory;

    use super::*;

    #[tokio::test]
    async fn one_run_that_cannot_be_claimed_fails_no_claim_of_others() {
        let store = Arc::new(Faulty::new(memory()));
        let corrupt = StorageError::Corrupt {
            location: "here".to_owned(),
            what: "for the test".to_owned(),
        };
        // Together, and then the second by itself.
        for nth in [1, 3] {
            let fault = Fault::at(Call::Claim, nth, Effect::Fail);
            store.inject(fault.with_error(corrupt.clone()));
        }
        let (claims, requests) = Claims::new();
        let runs = ["a", "b", "c"].map(|id| [RunId::new(id).unwrap()]);
        let claiming = runs.iter().map(|run| claims.claim(run));
        let mut claiming = Box::pin(futures_util::future::join_all(claiming));
        assert!(futures_util::poll!(&mut claiming).is_pending());
        let node = (NodeId(1), Duration::from_secs(30));
        let claimed = tokio::select! {
            claimed = &mut claiming => claimed,
            () = run_claims(store.clone(), node, requests) => panic!("claims are still asked for"),
        };
        let succeeded = claimed.iter().map(|claimed| matches!(claimed, Some(Ok(_))));
        assert_eq!(succeeded.collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(store.calls(Call::Claim), 4);
    }
}
