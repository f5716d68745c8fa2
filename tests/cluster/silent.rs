//! Engines whose connections are cut off in silence: nothing comes any more, and nobody closes them. What others ask for arrives
//! all the same, and nothing is done twice.

use std::time::{Duration, Instant};

use keepstep::prelude::*;

use crate::common::{Do, act, join, leaf};
use crate::line::Line;
use crate::{Cluster, soon};

/// Silence is noticed after a second, or with the next heartbeat, which are five seconds apart; then there are connections to be
/// made and calls to be asked again. The rest is for a slow machine: without a time-out this takes minutes.
const BOUND: Duration = Duration::from_secs(30);

/// What is asked over each kind of connection: the one that listens, that of the leases, those of commits and of claims; and all.
const KINDS: [&str; 5] = ["LISTEN", ".renew(", ".commit(", ".claim_free(", ""];

/// Who is cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Worker,
    Submitter,
    Both,
}

async fn bounded<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    let began = Instant::now();
    let done = soon(future).await;
    let took = began.elapsed();
    assert!(took < BOUND, "{what}: {took:?}");
    done
}

/// A worker and a submitter work together, then connections of theirs fall silent, and they go on.
async fn cut_off(who: Who, kind: &'static str) -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let lines = [Line::to(&cluster.url).await, Line::to(&cluster.url).await];
    let [worker, submitter] = &lines;
    // Renewals are two seconds apart.
    let builder = || cluster.builder().lease(Duration::from_secs(6));
    let _worker = builder().storage(&*worker.url).build().await?;
    let builder = builder().worker(false);
    let submitter = builder.storage(&*submitter.url).build().await?;
    let world = &cluster.world;
    for name in ["a", "d"] {
        world.tell(name, Do::Hold);
    }
    soon(submitter.run("warm", leaf("warm").build())).await?;
    let held = submitter.start("held", join("b", [leaf("a")]).build());
    let held = soon(held).await?;
    let doomed = soon(submitter.start("doomed", leaf("d").build())).await?;
    let go = keepstep::event::<()>("go").after(&leaf("w").build());
    let waits = act("x", Vec::<i64>::new()).after(&go);
    let waits = soon(submitter.start("waits", waits)).await?;
    for name in ["a", "d", "w"] {
        soon(world.until(name)).await;
    }
    for (line, cut) in lines.iter().zip([Who::Worker, Who::Submitter]) {
        if who == cut || who == Who::Both {
            line.swallow(kind, false);
        }
    }

    let cancel = bounded("a cancel", submitter.cancel("doomed"));
    let new = bounded("a new run", submitter.run("new", leaf("n").build()));
    let event = bounded("an event", async {
        submitter.send_event("waits", "go", &()).await?;
        waits.await
    });
    let (canceled, new, waited) = tokio::join!(cancel, new, event);
    canceled?;
    assert_eq!((new?, waited?), (1, 1));
    let ended = soon(doomed).await;
    assert!(matches!(ended, Err(Error::Canceled { .. })), "{ended:?}");
    for (line, cut) in lines.iter().zip([Who::Worker, Who::Submitter]) {
        // A submitter takes no runs, and so has no connection over which it did so.
        let is_used = cut == Who::Worker || kind != ".claim_free(";
        if is_used && (who == cut || who == Who::Both) {
            bounded("a new connection", line.until_made_anew()).await;
        }
    }
    world.tell("a", Do::Succeed);
    assert_eq!(bounded("the end of a run", held).await?, 2);
    let expected = ["a", "b", "d", "d dropped", "n", "w", "warm", "x"];
    assert_eq!(world.sorted_log(), expected);
    Ok(())
}

/// All at a time: each has a store of its own.
async fn cut_off_each(who: Who) -> keepstep::Result<()> {
    let each = KINDS.map(|kind| (kind, tokio::spawn(cut_off(who, kind))));
    for (kind, cut) in each {
        println!("{kind:?}");
        cut.await.unwrap()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_hears_of_everything_and_does_it_once() -> keepstep::Result<()> {
    cut_off_each(Who::Worker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submitter_that_is_cut_off_hears_of_everything() -> keepstep::Result<()> {
    cut_off_each(Who::Submitter).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_are_all_cut_off_hear_of_everything() -> keepstep::Result<()> {
    cut_off_each(Who::Both).await
}

/// New connections are silent, too, for longer than the lease: others go on with the runs, and the worker takes part again when
/// the line is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_line_for_longer_than_its_lease_takes_part_again_later()
-> keepstep::Result<()> {
    let cluster = Cluster::new();
    let line = Line::to(&cluster.url).await;
    let (lease, one) = (Duration::from_secs(2), 1);
    let builder = || cluster.builder().lease(lease).max_running_runs(one);
    let cut_off = builder().storage(&*line.url).build().await?;
    let submitter = cluster.submitter().await;
    let world = &cluster.world;
    for name in ["a", "c", "d"] {
        world.tell(name, Do::Hold);
    }
    let steps = join("b", [join("a", [leaf("first")])]);
    let run = soon(submitter.start("run", steps.build())).await?;
    soon(world.until("a")).await;

    line.swallow_all();
    let _other = builder().build().await?;
    // Its body is stopped where its lease has ended, and executed where the run is now.
    bounded("another worker", world.until_times("a", 2)).await;
    bounded("the end of a body", world.until("a dropped")).await;
    world.tell("a", Do::Succeed);
    assert_eq!(bounded("a run", run).await?, 3);
    assert_eq!(world.sorted_log(), ["a", "a", "a dropped", "b", "first"]);

    line.pass_on();
    // There is one slot at each worker, so both are at work when both runs are.
    let mut runs = Vec::new();
    for name in ["c", "d"] {
        runs.push(soon(submitter.start(name, leaf(name).build())).await?);
    }
    for name in ["c", "d"] {
        bounded("both workers", world.until(name)).await;
    }
    for name in ["c", "d"] {
        world.tell(name, Do::Succeed);
    }
    for run in runs {
        assert_eq!(bounded("a run", run).await?, 1);
    }
    assert_eq!(world.sorted_log(), ["c", "d"]);
    assert_eq!(soon(cut_off.status("run")).await?, Status::Successful);
    Ok(())
}
