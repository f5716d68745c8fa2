//! A status never contradicts another: whoever asks, however often, sees a run go one way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keepstep::Filter;
use keepstep::prelude::*;

use crate::common::{Do, Lab, caught, grow, join, leaf};

/// How far a status is on the way that a run without interventions goes.
fn rank(status: Status) -> u8 {
    match status {
        Status::Pending => 1,
        Status::Running => 2,
        Status::Successful | Status::Failed => 3,
        other => panic!("the run is {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_sees_a_run_go_one_way() -> keepstep::Result<()> {
    const RUNS: usize = 60;

    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    let engine = lab.builder().max_running_runs(3).build().await?;
    let is_over = Arc::new(AtomicBool::new(false));
    let watchers = (0..3).map(|watcher| {
        let (engine, is_over) = (engine.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut seen = [0; RUNS];
            let mut note = |n: usize, status: Status| {
                assert!(rank(status) >= seen[n], "run {n} is {status} again");
                seen[n] = rank(status);
            };
            while !is_over.load(Ordering::Relaxed) {
                // A store in memory never makes anybody wait.
                tokio::task::yield_now().await;
                if watcher == 0 {
                    let all = Filter::all().limit(RUNS);
                    for run in engine.list(all).await.unwrap().runs {
                        note(run.id.parse().unwrap(), run.status);
                    }
                    continue;
                }
                for n in 0..RUNS {
                    match engine.metadata(n.to_string()).await {
                        Ok(metadata) => {
                            note(n, metadata.status);
                            let has_error = metadata.error.is_some();
                            assert_eq!(has_error, metadata.status == Status::Failed);
                            let has_ended = metadata.ended_at.is_some();
                            assert_eq!(has_ended, metadata.status.is_final());
                        }
                        Err(error) => assert!(matches!(error, Error::NotFound { .. })),
                    }
                }
            }
        })
    });
    let watchers: Vec<_> = watchers.collect();

    let good = join(
        "c",
        [grow("g", join("b", [leaf("a")])), caught("d", leaf("bad"))],
    );
    let bad = join("c", [leaf("a"), grow("g", leaf("bad"))]);
    let mut handles = Vec::new();
    for n in 0..RUNS {
        let tree = if n % 2 == 0 { &good } else { &bad };
        handles.push(engine.start(n.to_string(), tree.build()).await?);
    }
    for (n, handle) in handles.into_iter().enumerate() {
        // What a handle says can be read by everybody.
        match handle.clone().await {
            Ok(output) => assert_eq!((output, n % 2), (3 - 1 - 1 + 1, 0)),
            Err(error) => assert!(matches!(error, Error::Failed { .. }) && n % 2 == 1),
        }
        let expected = [Status::Successful, Status::Failed][n % 2];
        assert_eq!(handle.status().await?, expected);
        assert_eq!(engine.metadata(n.to_string()).await?.status, expected);
    }
    is_over.store(true, Ordering::Relaxed);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    for status in [Status::Successful, Status::Failed] {
        assert_eq!(engine.list(status).await?.runs.len(), RUNS / 2);
    }
    engine.shutdown().await
}
