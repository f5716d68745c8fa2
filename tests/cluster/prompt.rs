//! What one engine creates or gives up reaches a worker by notice, and not when it looks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstep::storage::Storage;
use keepstep::storage::fault::{Call, Faulty};

use crate::common::{act, leaf};
use crate::{Cluster, soon};

/// Less than the time between two looks.
const PROMPT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn short_waits_of_runs_that_others_start_are_short() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (_worker, submitter) = (cluster.worker().await, cluster.submitter().await);
    for n in 0..20 {
        let nap = keepstep::sleep(Duration::from_millis(200));
        let workflow = act(format!("a{n}"), Vec::<i64>::new()).after(&nap);
        let start = Instant::now();
        soon(submitter.run(format!("run-{n}"), workflow)).await?;
        println!("{n}: {:?}", start.elapsed());
        assert!(start.elapsed() < PROMPT, "{n}: {:?}", start.elapsed());
    }
    Ok(())
}

/// Whoever starts a run locks it for a moment when it begins to wait for it, which may be when a worker claims runs. Here the lock
/// lasts until a claim has met it, as it may where a commit waits for a disk.
#[tokio::test]
async fn a_run_that_is_locked_when_workers_look_begins_once_it_is_free() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let submitter = cluster.submitter().await;
    let run = submitter.start("run", leaf("a").build()).await?;
    let (client, schema) = crate::server::client(&cluster.url).await;
    let (watcher, _) = crate::server::client(&cluster.url).await;
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await;
    let pid: i32 = pid.unwrap().get(0);
    let lock = format!("BEGIN; SELECT FROM {schema}.run WHERE id = 'run' FOR UPDATE");
    client.batch_execute(&lock).await.unwrap();
    let store = keepstep::storage::open(&cluster.url).await?;
    let store = Arc::new(Faulty::new(store));
    let builder = cluster.builder();
    let builder = builder.storage(Arc::clone(&store) as Arc<dyn Storage>);
    let _worker = builder.build().await?;
    // It waits for the lock; or it has passed the run over, also when it looked again since it hears of others.
    let waits = "SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
    soon(async {
        while store.calls(Call::Claim) < 3
            && watcher.query(waits, &[&pid]).await.unwrap().is_empty()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    if watcher.query(waits, &[&pid]).await.unwrap().is_empty() {
        // It has passed the run over: nothing is to tell it of the run but a look that comes later.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(cluster.world.log(), [""; 0]);
    let start = Instant::now();
    client.batch_execute("COMMIT").await.unwrap();
    soon(cluster.world.until("a")).await;
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert_eq!(soon(run).await?, 1);
    Ok(())
}
