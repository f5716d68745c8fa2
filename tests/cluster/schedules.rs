//! Schedules that several engines share.

use std::collections::BTreeSet;

use keepstep::Filter;
use keepstep::prelude::*;

use crate::common::leaf;
use crate::{Cluster, soon};

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_start_together_say_a_changed_schedule_without_errors() -> keepstep::Result<()>
{
    let cluster = Cluster::new();
    let mut engines = Vec::new();
    for _ in 0..3 {
        engines.push(cluster.worker().await);
    }
    let say = |n: usize, engine: Engine| async move {
        let cron = format!("{} 3 * * * Europe/Warsaw", n % 60);
        engine.schedule("s", cron, leaf("a").build()).await
    };
    for n in 0..20 {
        let said: Vec<_> = engines
            .iter()
            .map(|engine| tokio::spawn(say(n, engine.clone())))
            .collect();
        for said in said {
            soon(said).await.unwrap()?;
        }
        let schedules = engines[0].schedules().await?;
        assert_eq!(schedules[0].cron, format!("{n} 3 * * * Europe/Warsaw"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_comes_at_all_workers_at_once_has_one_run() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let clock = keepstep::Clock::system();
    let mut engines = Vec::new();
    for _ in 0..3 {
        let worker = cluster.builder().clock(clock.clone());
        engines.push(worker.build().await?);
    }
    let said = engines[0].schedule("s", "0 * * * *", leaf("a").build());
    said.missed(keepstep::Missed::All).await?;
    clock.set(clock.now() + std::time::Duration::from_secs(3 * 3600));
    // Each of them notices within half a minute that its clock was set.
    let ids: BTreeSet<_> = soon(async {
        loop {
            let page = engines[1].list(Filter::all()).await.unwrap();
            let done = page.runs.iter();
            let done = done.filter(|run| run.status == Status::Successful);
            if done.count() == 3 {
                break page.runs.into_iter().map(|run| run.id).collect();
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert_eq!(cluster.world.log(), ["a"; 3]);
    Ok(())
}
