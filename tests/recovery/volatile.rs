//! `checkpoint = false`: a result that is not stored, and is worked out again only if something still needs it.

use keepstep::prelude::*;

use crate::common::{Do, Lab, World, act, caught, leaf};

#[step(checkpoint = false, retries = 0)]
async fn volatile(who: String, input: i64, #[resource] world: &World) -> Result<i64, String> {
    world.act(&who).await?;
    Ok(input + 1)
}

#[tokio::test(start_paused = true)]
async fn without_a_crash_it_runs_once() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let v = volatile("v", leaf("a").build());
    let workflow = act("root", vec![v.clone(), act("b", vec![v.clone()]), v]);
    assert_eq!(engine.run("run", workflow).await?, 2 + 3 + 2 + 1);
    assert_eq!(lab.world.log(), ["a", "v", "b", "root"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_it_runs_again_if_something_needs_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("c", Do::Hold);
    let engine = lab.engine().await;
    // `b` is done with its `v`; `c` still needs `w`, which needs `v` again.
    let v = volatile("v", leaf("a").build());
    let w = volatile("w", v.clone());
    let unneeded = volatile("u", leaf("x").build());
    let b = act("b", vec![v, unneeded]);
    let workflow = act("root", vec![act("c", vec![w]).after(&b), b]);
    drop(engine.start("run", &workflow).await?);
    lab.world.until("c").await;
    lab.crash(engine).await;
    let mut log = lab.world.sorted_log();
    log.retain(|noted| noted != "c dropped");
    assert_eq!(log, ["a", "b", "c", "u", "v", "w", "x"]);

    lab.world.tell("c", Do::Succeed);
    let engine = lab.engine().await;
    assert_eq!(
        engine.run("run", &workflow).await?,
        (3 + 1) + (2 + 2 + 1) + 1
    );
    assert_eq!(lab.world.log(), ["v", "w", "c", "root"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn the_result_of_a_run_is_stored_whatever_its_step_says() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let workflow = volatile("root", leaf("a").build());
    assert_eq!(engine.run("run", &workflow).await?, 2);
    lab.crash(engine).await;
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", &workflow).await?, 2);
    assert_eq!(lab.world.log(), ["a", "root"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_second_execution_may_fail_where_the_first_did_not() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("b", Do::Hold);
    let engine = lab.engine().await;
    let workflow = act("b", vec![volatile("v", 1)]);
    drop(engine.start("run", &workflow).await?);
    lab.world.until("b").await;
    lab.crash(engine).await;
    lab.world.log();
    lab.world.tell("v", Do::Fail);
    let engine = lab.engine().await;
    let error = engine.run("run", &workflow).await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    lab.world.tell("v", Do::Succeed);
    lab.world.tell("b", Do::Succeed);
    assert_eq!(engine.resume::<i64>("run").await?.await?, 3);
    assert_eq!(lab.world.log(), ["v", "v", "b"]);
    // What was caught stays caught.
    lab.world.tell("bad", Do::Fail);
    let tree = caught("caught", leaf("bad")).build();
    assert_eq!(engine.run("caught", volatile("after", tree)).await?, 0);
    engine.shutdown().await
}
