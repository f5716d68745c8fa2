//! An actor is in one place at a time, and goes where it is called.

use keepstep::virtual_actor;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::{Cluster, soon};

#[derive(Debug, Serialize, Deserialize)]
struct Tally {
    count: u64,
}

#[virtual_actor]
impl Tally {
    pub fn new() -> Self {
        Self { count: 0 }
    }

    pub async fn incr(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub async fn count(&self) -> u64 {
        self.count
    }
}

#[tokio::test]
async fn calls_of_two_engines_are_made_one_at_a_time() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.worker().await, cluster.worker().await);
    let at_a = Tally::on(&a).get_or_create("t").await.unwrap();
    let at_b = Tally::on(&b).get_or_create("t").await.unwrap();
    assert_eq!(soon(at_a.incr()).await.unwrap(), 1);
    assert_eq!(soon(at_b.incr()).await.unwrap(), 2);
    // A query needs nobody's leave.
    assert_eq!(soon(at_a.count()).await.unwrap(), 2);
    assert_eq!(soon(at_a.incr()).await.unwrap(), 3);

    let mut calls = Vec::new();
    for n in 0..40 {
        let actor = if n % 2 == 0 { &at_a } else { &at_b };
        calls.push(tokio::spawn(actor.incr().into_future()));
    }
    let mut counts = Vec::new();
    for call in calls {
        counts.push(soon(call).await.unwrap().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (4..=43).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_call_that_was_sent_is_made_wherever_the_actor_is() {
    let cluster = Cluster::new();
    let (owner, other) = (cluster.worker().await, cluster.submitter().await);
    let here = Tally::on(&owner).get_or_create("t").await.unwrap();
    assert_eq!(soon(here.incr()).await.unwrap(), 1);
    let there = Tally::on(&other).get_or_create("t").await.unwrap();
    there.incr().send().await.unwrap();
    soon(async {
        while there.count().await.unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_crashed_engines_actors_go_on_elsewhere() {
    let cluster = Cluster::new();
    let doomed = cluster.short_lived().await;
    let tally = Tally::on(&doomed).get_or_create("t").await.unwrap();
    assert_eq!(soon(tally.incr()).await.unwrap(), 1);
    drop((tally, doomed));
    let other = cluster.worker().await;
    let tally = Tally::on(&other).get_or_create("t").await.unwrap();
    assert_eq!(soon(tally.incr()).await.unwrap(), 2);
}
