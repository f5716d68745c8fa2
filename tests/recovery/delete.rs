//! Deleting: only what is not active, with everything that belongs to it.

use keepstep::Filter;
use keepstep::prelude::*;
use serde_json::json;

use crate::common::{Do, Lab, act, join, leaf};

async fn assert_gone(engine: &Engine, id: &str) {
    for error in [
        engine.status(id).await.err(),
        engine.output::<i64>(id).await.err(),
        engine.step_output::<i64>(id, "act").await.err(),
        engine.metadata(id).await.err(),
        engine.graph(id).await.err(),
        engine.resume::<i64>(id).await.err(),
        engine.delete(id).await.err(),
    ] {
        assert!(matches!(error, Some(Error::NotFound { .. })), "{error:?}");
    }
    assert!(
        engine
            .list(Filter::all().id_prefix(id))
            .await
            .unwrap()
            .runs
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn an_active_run_cannot_be_deleted() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    let engine = lab.builder().max_running_runs(1).build().await?;
    let first = engine.start("running", leaf("held").build()).await?;
    let second = engine.start("pending", leaf("a").build()).await?;
    for (id, is) in [("running", Status::Running), ("pending", Status::Pending)] {
        match engine.delete(id).await {
            Err(Error::StillActive { status, .. }) => assert_eq!(status, is),
            other => panic!("{other:?}"),
        }
    }
    lab.world.tell("held", Do::Succeed);
    assert_eq!((first.await?, second.await?), (1, 1));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_is_not_active_is_deleted_and_its_id_is_free() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("held", Do::Hold);
    lab.world.tell("bad", Do::Fail);
    let engine = lab.engine().await;
    drop(engine.start("resumable", leaf("held").build()).await?);
    lab.world.until("held").await;
    lab.crash(engine).await;
    let engine = lab.engine().await;
    let named = join("b", [leaf("a")]).build().metadata(json!({"a": 1}));
    engine.run("good", named).await?;
    engine.run("bad", leaf("bad").build()).await.unwrap_err();
    for id in ["canceled", "suspended"] {
        drop(engine.start(id, leaf("held").build()).await?);
    }
    lab.world.until_times("held", 3).await;
    engine.cancel("canceled").await?;
    engine.suspend("suspended").await?;
    lab.world.log();

    for id in ["good", "bad", "canceled", "suspended", "resumable"] {
        engine.delete(id).await?;
        assert_gone(&engine, id).await;
    }
    for id in ["good", "bad", "canceled", "suspended", "resumable"] {
        // Nothing of the earlier run is found in the new one.
        assert_eq!(engine.run(id, act("new", vec![1])).await?, 2);
        let metadata = engine.metadata(id).await?;
        assert!(metadata.user.is_none() && metadata.error.is_none());
        assert!(metadata.suspended.is_none());
        let old = engine.step_output::<i64>(id, "b").await.unwrap_err();
        assert!(matches!(old, Error::StepNotFound { .. }), "{old:?}");
    }
    assert_eq!(lab.world.log(), ["new"; 5]);
    engine.shutdown().await
}
