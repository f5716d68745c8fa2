//! What one engine creates or gives up reaches a worker by notice, and not when it looks.

use std::time::{Duration, Instant};

use crate::common::act;
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
