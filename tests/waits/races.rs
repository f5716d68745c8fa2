//! The first of several: one outcome, whoever looks, and the others stopped.

use std::time::Duration;

use keepstep::prelude::*;

use crate::common::{Do, Lab, World};

#[step]
async fn work(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

#[step]
async fn loud(first: Either<String, ()>) -> String {
    first
        .map_left(|name| name.to_uppercase())
        .left_or_else(|()| "nobody".to_owned())
}

#[tokio::test(start_paused = true)]
async fn the_first_to_end_counts_and_the_others_are_stopped() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("slow", Do::Hold);
    let engine = lab.engine().await;
    let first = select([work("slow"), work("quick"), work("slow")]);
    assert_eq!(engine.run("run", first).await?, (1, "quick".to_owned()));
    let graph = engine.graph("run").await?;
    let waiting = graph
        .nodes
        .iter()
        .filter(|node| node.state == Some(keepstep::NodeState::Running));
    assert_eq!(waiting.count(), 0);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_race_against_the_clock_is_decided_by_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    lab.world.tell("slow", Do::Hold);
    let engine = lab.engine().await;
    let minute = || sleep(Duration::from_secs(60));
    let lost = loud(race(work("slow"), minute()));
    assert_eq!(engine.run("lost", lost).await?, "nobody");
    let won = loud(race(work("quick"), minute()));
    let before = lab.clock.now();
    assert_eq!(engine.run("won", won).await?, "QUICK");
    assert!(lab.clock.now().duration_since(before).unwrap() < Duration::from_secs(1));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn every_reader_sees_the_same_winner_after_a_crash_too() -> keepstep::Result<()> {
    let lab = Lab::new();
    // One reader is done before the crash, the other one after it.
    lab.world.tell("second", Do::Hold);
    let engine = lab.engine().await;
    #[step]
    async fn reader(
        name: String,
        first: (usize, u32),
        #[resource] world: &World,
    ) -> Result<(usize, u32), String> {
        world.act(&name).await.map(|()| first)
    }
    let first = select([event::<u32>("a"), event::<u32>("b")]);
    let workflow = all([reader("first", &first), reader("second", &first)]);
    drop(engine.start("run", &workflow).await?);
    engine.send_event("run", "b", &2u32).await?;
    lab.world.until("first").await;
    engine.send_event("run", "a", &1u32).await?;
    lab.crash(engine).await;
    lab.world.tell("second", Do::Succeed);
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", &workflow).await?, [(1, 2), (1, 2)]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn of_no_workflows_there_is_no_first() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let none = engine
        .start("run", select(Vec::<Workflow<u32>>::new()))
        .await;
    assert!(matches!(none, Err(Error::EmptySelect)), "{none:?}");
    assert!(matches!(
        engine.status("run").await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(
        engine.run("all", all(Vec::<Workflow<u32>>::new())).await?,
        [0u32; 0]
    );
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn what_is_not_checkpointed_is_where_a_race_depends_on_it() -> keepstep::Result<()> {
    let lab = Lab::new();
    #[step(checkpoint = false)]
    async fn fleeting(#[resource] world: &World) -> Result<u32, String> {
        world.act("fleeting").await.map(|()| 1)
    }
    #[step]
    async fn last(first: (usize, u32), #[resource] world: &World) -> Result<usize, String> {
        world.act("last").await.map(|()| first.0)
    }
    lab.world.tell("last", Do::Hold);
    let engine = lab.engine().await;
    let workflow = last(select([fleeting(), event("never")]));
    drop(engine.start("run", &workflow).await?);
    lab.world.until("last").await;
    lab.crash(engine).await;
    lab.world.tell("last", Do::Succeed);
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", &workflow).await?, 0);
    let log = ["fleeting", "last", "last dropped", "last"];
    assert_eq!(lab.world.log(), log);
    engine.shutdown().await
}
