//! Parents and their children: resumed and deleted together.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::{Batch, DeleteOutcome, NodeId, RunDelete};

use crate::common::{Do, Lab, World};

#[step(retries = 1, backoff = "1s..1s")]
async fn work(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

#[step]
async fn join(parts: Vec<String>) -> String {
    parts.join(" ")
}

/// A run, its child, and the child of that.
fn family() -> Workflow<String> {
    child(
        "child",
        join([child("grandchild", work("deep")), work("beside")]),
    )
}

#[tokio::test(start_paused = true)]
async fn resuming_a_parent_resumes_what_it_failed_by_down_to_the_innermost() -> keepstep::Result<()>
{
    let lab = Lab::new();
    lab.world.tell("deep", Do::Fail);
    let engine = lab.engine().await;
    let failed = engine.run("parent", family()).await;
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    lab.world.log();

    // What still fails has its retries anew, and fails them all.
    let failed = engine.resume::<String>("parent").await?.await;
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    assert_eq!(lab.world.log(), ["deep", "deep"]);
    for id in ["parent", "child", "grandchild"] {
        assert_eq!(engine.status(id).await?, Status::Failed);
    }

    // After a crash as well, and what was done is not done again.
    lab.crash(engine).await;
    lab.world.tell("deep", Do::FailTimes(1));
    let engine = lab.builder().max_running_runs(1).build().await?;
    let run = engine.resume::<String>("parent").await?;
    assert_eq!(run.await?, "deep beside");
    assert_eq!(lab.world.log(), ["deep", "deep"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn resuming_a_parent_resumes_all_children_that_failed_and_no_others() -> keepstep::Result<()>
{
    let lab = Lab::new();
    lab.world.tell("a", Do::Fail);
    lab.world.tell("b", Do::Hold);
    lab.world.tell("caught", Do::Fail);
    let engine = lab.engine().await;
    #[step]
    async fn both(parts: Vec<String>, caught: Result<String, keepstep::StepError>) -> String {
        format!("{} {}", parts.join(" "), caught.is_err())
    }
    let parts = [child("a", work("a")), child("b", work("b"))];
    let caught = child("caught", work("caught")).catch();
    let failed = engine.run("parent", both(parts, caught)).await;
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    // This one fails when nobody is there to see it.
    lab.world.tell("b", Do::Fail);
    while engine.status("b").await? != Status::Failed {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for name in ["a", "b", "caught"] {
        lab.world.tell(name, Do::Succeed);
    }
    lab.world.log();
    let run = engine.resume::<String>("parent").await?;
    assert_eq!(run.await?, "a b true");
    assert_eq!(lab.world.sorted_log(), ["a", "b"]);
    assert_eq!(engine.status("caught").await?, Status::Failed);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn deleting_a_parent_deletes_its_children_and_its_id_can_be_used_again()
-> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("deep", Do::Fail);
    let engine = lab.engine().await;
    let failed = engine.run("parent", family()).await;
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    // A run that has the name of a child and is none stays.
    engine.run("apart", work("apart")).await?;
    engine.delete("parent").await?;
    for id in ["parent", "child", "grandchild"] {
        let gone = engine.status(id).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }
    lab.world.tell("deep", Do::Succeed);
    assert_eq!(engine.run("parent", family()).await?, "deep beside");
    assert_eq!(engine.status("apart").await?, Status::Successful);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_parent_is_not_deleted_while_a_child_is_active() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("deep", Do::Hold);
    let engine = lab.engine().await;
    let run = engine
        .start("parent", join([family(), work("bad")]))
        .await?;
    lab.world.until("deep").await;
    engine.suspend("parent").await?;
    drop(run);
    let refused = engine.delete("parent").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "run \"parent\" cannot be deleted, since its child \"child\" is still running; cancel the child first, or cancel \
         \"parent\" if it has not ended"
    );
    // The innermost counts as well.
    engine.suspend("child").await?;
    let refused = engine.delete("parent").await.unwrap_err();
    let is_grandchild = |error: &Error| matches!(error, Error::ChildStillActive { child, .. } if child.as_str() == "grandchild");
    assert!(is_grandchild(&refused), "{refused:?}");
    for id in ["parent", "child", "grandchild"] {
        engine.status(id).await?;
    }
    engine.cancel("parent").await?;
    while engine.status("grandchild").await? != Status::Canceled {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    engine.delete("parent").await?;
    let gone = engine.status("grandchild").await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_of_the_parents_id_left_is_replaced() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    engine.run("parent", child("child", work("old"))).await?;
    // As if the parent had forgotten its children.
    let id = keepstep::storage::RunId::new("parent").unwrap();
    let record = lab.store.record(&id).await?.unwrap();
    let delete = RunDelete {
        run: id,
        epoch: record.epoch,
        node: NodeId(1),
        family: None,
    };
    let batch = Batch {
        deletes: vec![delete],
        ..Batch::default()
    };
    let deleted = lab.store.commit(batch).await?.deletes;
    assert_eq!(deleted, [DeleteOutcome::Deleted]);
    let run = engine.run("parent", child("child", work("new"))).await?;
    assert_eq!(run, "new");
    engine.shutdown().await
}
