//! Bodies that block the threads of their runtime, and what ends a lease besides.

use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use keepstep::prelude::*;
use tokio::sync::watch;

use crate::common::{Do, leaf};
use crate::{Cluster, soon};

/// Where bodies block until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar, watch::Sender<usize>)>);

impl Gate {
    fn block(&self) {
        let (is_open, opened, entered) = &*self.0;
        entered.send_modify(|n| *n += 1);
        let is_open = is_open.lock().unwrap();
        drop(opened.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until so many bodies have begun.
    async fn until_entered(&self, n: usize) {
        let mut entered = self.0.2.subscribe();
        entered.wait_for(|entered| *entered >= n).await.unwrap();
    }

    fn entered(&self) -> usize {
        *self.0.2.borrow()
    }
}

#[step]
async fn block_the_thread(n: u64, #[resource] gate: &Gate) -> u64 {
    gate.block();
    n
}

/// What was logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn of_process() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::WARN)
                .with_writer(move || writer.clone())
                .init();
            log
        });
        log.clone()
    }

    async fn until(&self, says: &str) {
        while !String::from_utf8_lossy(&self.0.lock().unwrap()).contains(says) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs a future on a runtime of its own, all of whose threads can be blocked.
fn elsewhere<T: Send + 'static>(
    what: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(runtime.spawn(what)).unwrap()
    })
}

#[tokio::test]
async fn bodies_that_block_every_thread_for_several_leases_are_executed_once()
-> keepstep::Result<()> {
    let log = Log::of_process();
    let cluster = Cluster::new();
    let gate = Gate::default();
    let builder = || {
        let builder = cluster.builder().resource(gate.clone());
        builder.lease(Duration::from_secs(1))
    };
    let blocked = builder();
    let blocked = elsewhere(async move {
        let engine = blocked.build().await.unwrap();
        let first = engine.start("first", block_the_thread(1)).await.unwrap();
        let second = engine.start("second", block_the_thread(2)).await.unwrap();
        let outputs = (first.await.unwrap(), second.await.unwrap());
        drop(engine);
        outputs
    });
    soon(gate.until_entered(2)).await;
    let _other = builder().build().await?;
    let (client, schema) = crate::server::client(&cluster.url).await;
    // Several leases later the same node has the runs, and others have looked for some all the time.
    let has_lasted = format!(
        "SELECT count(*) = 2 FROM {schema}.run r JOIN {schema}.node n ON n.id = r.owner
        WHERE n.lease_until > n.opened_at + interval '4 s'"
    );
    soon(async {
        loop {
            let look = format!("NOTIFY {schema}, 'free'");
            client.batch_execute(&look).await.unwrap();
            let row = client.query_one(&has_lasted, &[]).await.unwrap();
            if row.get(0) || gate.entered() > 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    soon(log.until("nothing has run on this engine's runtime")).await;
    gate.open();
    assert_eq!(soon(blocked).await.unwrap(), (1, 2));
    assert_eq!(gate.entered(), 2);
    soon(log.until("a body blocked its thread")).await;
    Ok(())
}

#[tokio::test]
async fn an_engine_whose_runtime_ended_leaves_its_runs_to_others() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let builder = cluster.builder().lease(Duration::from_secs(1));
    let kept = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async move {
            let engine = builder.build().await.unwrap();
            drop(engine.start("run", leaf("a").build()).await.unwrap());
            engine
        })
    });
    let kept = soon(kept).await.unwrap();
    let other = cluster.worker().await;
    let waiting = other.start("run", leaf("a").build()).await?;
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(waiting).await?, 1);
    drop(kept);
    Ok(())
}

#[tokio::test]
async fn leases_that_ended_unnoticed_are_lost_with_the_next_renewal() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let engine = cluster.short_lived().await;
    let handle = engine.start("run", leaf("a").build()).await?;
    soon(cluster.world.until("a")).await;
    // As for a machine that stood still, its clocks with it.
    let (client, schema) = crate::server::client(&cluster.url).await;
    let end = format!("UPDATE {schema}.node SET lease_until = now() - interval '1 s'");
    client.batch_execute(&end).await.unwrap();
    soon(cluster.world.until("a dropped")).await;
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(handle).await?, 1);
    assert_eq!(cluster.world.log(), ["a", "a dropped", "a"]);
    Ok(())
}
