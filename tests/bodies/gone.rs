//! An engine whose runtime has ended says so, at once, and lets go of its store.

use std::time::Duration;

use keepstep::Filter;
use keepstep::prelude::*;

use super::{runtime, soon};
use crate::common::{Do, World, leaf};

async fn opened(dir: &tempfile::TempDir, world: &World) -> Engine {
    let path = dir.path().join("data");
    let builder = Engine::builder()
        .resource(world.clone())
        .max_running_runs(3);
    builder.open(path.to_str().unwrap()).await.unwrap()
}

fn is_told<T: std::fmt::Debug>(result: keepstep::Result<T>) {
    match result {
        Err(error @ Error::RuntimeEnded) => {
            assert!(
                error.to_string().contains("Open the engine again"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_call_and_handle_says_that_the_runtime_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::default();
    world.tell("held", Do::Hold);
    let first = runtime();
    let (engine, handles) = first.block_on(async {
        let engine = opened(&dir, &world).await;
        let executing = engine
            .start("executing", leaf("held").build())
            .await
            .unwrap();
        world.until("held").await;
        let waiting = engine
            .start("waiting", event::<i64>("never"))
            .await
            .unwrap();
        let day = sleep(Duration::from_secs(86_400));
        let sleeping = engine.start("sleeping", Workflow::value(1).after(&day));
        let sleeping: Handle<i64> = sleeping.await.unwrap();
        let pending = engine.start("pending", leaf("held").build()).await.unwrap();
        (engine, [executing, waiting, sleeping, pending])
    });
    drop(first);
    // Nothing of the engine holds the store, although the engine and its handles are still there.
    let second = runtime();
    second.block_on(soon(async {
        let other = opened(&dir, &world).await;
        for id in ["executing", "waiting", "sleeping"] {
            assert_eq!(other.status(id).await.unwrap(), Status::Resumable, "{id}");
        }
        for handle in handles {
            let id = handle.id().to_owned();
            is_told(handle.status().await);
            is_told(handle.cancel().await);
            is_told(handle.await);
            is_told(engine.status(&id).await);
            is_told(engine.metadata(&id).await);
            is_told(engine.graph(&id).await);
            is_told(engine.output::<i64>(&id).await);
            is_told(engine.step_output::<i64>(&id, "a").await);
            is_told(engine.resume::<i64>(&id).await);
            is_told(engine.suspend(&id).await);
            is_told(engine.cancel(&id).await);
            is_told(engine.delete(&id).await);
            is_told(engine.send_event(&id, "never", &1).await);
            is_told(engine.start(&id, leaf("a").build()).await);
        }
        is_told(engine.run("new", leaf("a").build()).await);
        is_told(engine.list(Filter::all()).await);
        is_told(engine.resume_all().await);
        is_told(engine.put(&1).await);
        is_told(engine.maintain().await);
        is_told(engine.check().await);
        is_told(engine.shutdown().await);
        is_told(engine.shutdown().await);
        world.tell("held", Do::Succeed);
        let executing = other.resume::<i64>("executing").await.unwrap();
        assert_eq!(executing.await.unwrap(), 1);
        other.shutdown().await.unwrap();
    }));
}

#[test]
fn calls_under_way_in_another_runtime_are_told() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let world = World::default();
        world.tell("held", Do::Hold);
        let (first, second) = (runtime(), runtime());
        let engine = first.block_on(opened(&dir, &world));
        let of_second = engine.clone();
        let calls = second.spawn(async move {
            let engine = of_second;
            let run = engine.run("executing", leaf("held").build());
            let event = engine.run("waiting", event::<i64>("never"));
            let mut n = 0;
            let busy = async {
                loop {
                    n += 1;
                    let run = engine.run(format!("{n}"), leaf("a").build()).await;
                    if let Err(error) = run {
                        break Err::<(), _>(error);
                    }
                }
            };
            tokio::join!(run, event, busy)
        });
        first.block_on(world.until("held"));
        drop(first);
        let (run, event, busy) = second.block_on(soon(calls)).unwrap();
        is_told(run);
        is_told(event);
        is_told(busy);
        drop(engine);
    }
}

#[test]
fn a_run_goes_on_where_the_engine_is_and_not_where_it_was_started() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::default();
    world.tell("held", Do::Hold);
    let (home, other) = (runtime(), runtime());
    let engine = home.block_on(opened(&dir, &world));
    let handle = other.block_on(async {
        let handle = engine.start("run", leaf("held").build()).await.unwrap();
        world.until("held").await;
        handle
    });
    drop(other);
    assert_eq!(world.log(), ["held"]);
    world.tell("held", Do::Succeed);
    let third = runtime();
    assert_eq!(third.block_on(soon(handle)).unwrap(), 1);
    third.block_on(soon(engine.shutdown())).unwrap();
}
