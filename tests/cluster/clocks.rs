//! A worker's clock is set while it executes. What lasts within its process does not depend on that.

use std::time::Duration;

use keepstep::Clock;

use crate::common::{Do, leaf};
use crate::{Cluster, server, soon};

const LEASE: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

/// Executes a body for longer than a lease, after somebody has set the worker's clock.
async fn executes_once(set: impl Fn(&Clock)) -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("a", Do::Hold);
    let clock = Clock::system();
    let worker = cluster.builder().clock(clock.clone()).lease(LEASE);
    let worker = worker.build().await?;
    let run = worker.start("run", leaf("a").build()).await?;
    soon(cluster.world.until("a")).await;
    let other = cluster.worker().await;

    let (client, schema) = server::client(&cluster.url).await;
    let leased = format!(
        "SELECT extract(epoch FROM lease_until)::float8 FROM {schema}.node
         WHERE id = (SELECT owner FROM {schema}.run WHERE id = 'run')"
    );
    let leased_until = async || -> f64 { client.query_one(&leased, &[]).await.unwrap().get(0) };
    let first = leased_until().await;
    set(&clock);
    // Without a renewal, the lease would have ended by then.
    soon(async {
        while leased_until().await < first + 1.5 * LEASE.as_secs_f64() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(cluster.world.log(), ["a"]);
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(run).await?, 1);
    assert!(cluster.world.log().is_empty());
    assert_eq!(other.output::<i64>("run").await?, 1);
    Ok(())
}

#[tokio::test]
async fn leases_are_renewed_while_the_clock_is_set_back() -> keepstep::Result<()> {
    executes_once(|clock| clock.set(clock.now() - HOUR)).await
}

#[tokio::test]
async fn leases_are_not_counted_as_lost_when_the_clock_is_set_forward() -> keepstep::Result<()> {
    executes_once(|clock| clock.set(clock.now() + HOUR)).await
}
