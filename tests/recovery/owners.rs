//! One owner a run: what another engine has taken over is refused to the first.

use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::memory;

use crate::common::{Do, Lab, join, leaf};

#[tokio::test(start_paused = true)]
async fn what_another_engine_took_over_is_refused_to_the_first() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let first = lab.engine().await;
    let second = lab.engine().await;
    let workflow = join("c", [join("b", [leaf("a")])]).build();
    let fenced = first.start("run", &workflow).await?;
    lab.world.until("b").await;
    assert_eq!(second.status("run").await?, Status::Resumable);
    let handle = second.resume::<i64>("run").await?;
    lab.world.until_times("b", 2).await;
    assert_eq!(first.status("run").await?, Status::Resumable);
    assert_eq!(second.status("run").await?, Status::Running);
    assert_eq!(lab.world.log(), ["a", "b", "b"]);

    lab.world.tell("b", Do::Succeed);
    let error = fenced.await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
    assert_eq!(handle.await?, 3);
    // Whoever was first, the step after it ran once.
    assert_eq!(lab.world.log(), ["c"]);
    assert_eq!(first.output::<i64>("run").await?, 3);
    assert_eq!(second.output::<i64>("run").await?, 3);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_taken_can_be_taken_back() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let (first, second) = (lab.engine().await, lab.engine().await);
    let workflow = join("b", [leaf("a")]).build();
    drop(first.start("run", &workflow).await?);
    lab.world.until("b").await;
    let lost = second.start("run", &workflow).await?;
    lab.world.until_times("b", 2).await;
    // The first one's task learns of it when it next writes.
    first.suspend("run").await?;
    assert_eq!(first.status("run").await?, Status::Suspended);
    lab.world.tell("b", Do::Succeed);
    let error = lost.await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
    assert_eq!(second.run("run", &workflow).await?, 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_another_engine_canceled_stays_so() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("a", Do::Hold);
    let (first, second) = (lab.engine().await, lab.engine().await);
    let handle = first.start("run", leaf("a").build()).await?;
    lab.world.until("a").await;
    second.cancel("run").await?;
    lab.world.tell("a", Do::Succeed);
    let error = handle.await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
    for engine in [&first, &second] {
        assert_eq!(engine.status("run").await?, Status::Canceled);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_fenced_write_does_not_fail_those_it_was_committed_with() -> keepstep::Result<()> {
    let store = Arc::new(Faulty::new(memory()));
    let lab = Lab::on(store.clone());
    for who in ["taken", "kept", "blocker"] {
        lab.world.tell(who, Do::Hold);
    }
    let (first, second) = (lab.engine().await, lab.engine().await);
    let blocker = first.start("blocker", leaf("blocker").build()).await?;
    let taken = first.start("taken", leaf("taken").build()).await?;
    let kept = first.start("kept", leaf("kept").build()).await?;
    for who in ["taken", "kept", "blocker"] {
        lab.world.until(who).await;
    }
    second.cancel("taken").await?;
    // While one commit is held, the other two gather.
    store.inject(Fault::next(Call::Commit, Effect::Delay));
    lab.world.tell("blocker", Do::Succeed);
    store.until_held(1).await;
    let commits = store.calls(Call::Commit);
    lab.world.tell("taken", Do::Succeed);
    lab.world.tell("kept", Do::Succeed);
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    store.release_held();
    assert_eq!((blocker.await?, kept.await?), (1, 1));
    let error = taken.await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
    assert_eq!(store.calls(Call::Commit), commits + 1);
    Ok(())
}
