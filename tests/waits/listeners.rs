//! Listeners: polled until their event is stored, then never again, and told of it at least once.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{BoxError, EventListener, event_listener, wait_for};
use serde::{Deserialize, Serialize};

use crate::common::{Do, Lab, World};

/// What listeners act in: they have no resources.
static WORLD: std::sync::OnceLock<std::sync::Mutex<Vec<(String, World)>>> =
    std::sync::OnceLock::new();

fn world(of: &str) -> World {
    let worlds = WORLD.get_or_init(Default::default).lock().unwrap();
    let found = worlds.iter().find(|(name, _)| name == of);
    found.unwrap().1.clone()
}

/// A lab whose world listeners of this name act in.
fn lab(name: &str) -> Lab {
    let lab = Lab::new();
    let worlds = WORLD.get_or_init(Default::default);
    let mut worlds = worlds.lock().unwrap();
    worlds.push((name.to_owned(), lab.world.clone()));
    lab
}

#[derive(Debug, Serialize, Deserialize)]
struct Queue {
    name: String,
    n_polls: u32,
}

fn queue(name: &str) -> Queue {
    Queue {
        name: name.to_owned(),
        n_polls: 0,
    }
}

#[event_listener]
impl EventListener for Queue {
    type Event = String;

    async fn poll(&mut self) -> Result<String, BoxError> {
        self.n_polls += 1;
        world(&self.name).act("poll").await?;
        Ok(format!("message of {}", self.name))
    }

    async fn checkpointed(&mut self, event: &String) -> Result<(), BoxError> {
        // What polling changed is here.
        assert_eq!(
            (self.n_polls, &**event),
            (1, &*format!("message of {}", self.name))
        );
        Ok(world(&self.name).act("told").await?)
    }
}

#[step]
async fn then(event: String, #[resource] world: &World) -> Result<String, String> {
    world.act("then").await.map(|()| event)
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_told_before_the_workflow_goes_on() -> keepstep::Result<()> {
    let lab = lab("plain");
    let engine = lab.engine().await;
    let output = engine.run("run", then(wait_for(queue("plain")))).await?;
    assert_eq!(output, "message of plain");
    assert_eq!(lab.world.log(), ["poll", "told", "then"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_event_is_stored_polls_again_and_one_after_it_does_not()
-> keepstep::Result<()> {
    let lab = lab("crash");
    let workflow = then(wait_for(queue("crash")));
    lab.world.tell("poll", Do::Hold);
    let engine = lab.engine().await;
    drop(engine.start("run", &workflow).await?);
    lab.world.until("poll").await;
    lab.crash(engine).await;
    assert_eq!(lab.world.log(), ["poll", "poll dropped"]);

    lab.world.tell("poll", Do::Succeed);
    lab.world.tell("told", Do::Hold);
    let engine = lab.engine().await;
    drop(engine.resume::<String>("run").await?);
    lab.world.until("told").await;
    lab.crash(engine).await;
    assert_eq!(lab.world.log(), ["poll", "told", "told dropped"]);

    lab.world.tell("told", Do::Succeed);
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", &workflow).await?, "message of crash");
    assert_eq!(lab.world.log(), ["told", "then"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn errors_are_pauses_and_not_failures() -> keepstep::Result<()> {
    let lab = lab("errors");
    lab.world.tell("poll", Do::FailTimes(20));
    lab.world.tell("told", Do::FailTimes(20));
    let engine = lab.engine().await;
    // The value that was polled at last comes of a listener as it was stored, not of one that failed before.
    let output = engine.run("run", wait_for(queue("errors"))).await?;
    assert_eq!(output, "message of errors");
    assert_eq!(lab.world.log().len(), 42);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_is_one_of_the_whole_wait() -> keepstep::Result<()> {
    let lab = lab("late");
    lab.world.tell("poll", Do::FailTimes(u32::MAX));
    let engine = lab.engine().await;
    let wait = wait_for(queue("late")).timeout(Duration::from_secs(600));
    let error = engine.run("run", wait.catch()).await?.unwrap_err();
    assert_eq!(error.message, "it took longer than 600s");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn listeners_take_up_no_place_while_they_wait() -> keepstep::Result<()> {
    let lab = lab("many");
    lab.world.tell("poll", Do::Hold);
    let engine = lab.builder().max_concurrent_steps(1).build().await?;
    let mut runs = Vec::new();
    for n in 0..10 {
        runs.push(
            engine
                .start(format!("run {n}"), wait_for(queue("many")))
                .await?,
        );
    }
    lab.world.until_times("poll", 10).await;
    // A step finds a place.
    engine.run("other", then("x".to_owned())).await?;
    lab.world.tell("poll", Do::Succeed);
    for run in runs {
        assert_eq!(run.await?, "message of many");
    }
    engine.shutdown().await
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_race_is_won_by_the_event_that_is_stored_in_time_however_late_its_source_is_told()
-> keepstep::Result<()> {
    for crashes in [false, true] {
        let name = if crashes { "raced crash" } else { "raced" };
        let lab = lab(name);
        lab.world.tell("told", Do::Hold);
        let engine = lab.engine().await;
        // What comes while the source is being told is not used up by the branch that has lost.
        let first = race(wait_for(queue(name)), select([event::<u32>("other")]));
        let first = race(first.timeout(MINUTE), sleep(MINUTE));
        let both = all([
            describe(&first),
            describe_other(event::<u32>("other").after(&first)),
        ]);
        drop(engine.start("run", &both).await?);
        lab.world.until("told").await;
        engine.send_event("run", "other", &7u32).await?;
        tokio::time::sleep(2 * MINUTE).await;
        let engine = if crashes {
            lab.crash(engine).await;
            tokio::time::sleep(2 * MINUTE).await;
            lab.engine().await
        } else {
            engine
        };
        lab.world.tell("told", Do::FailTimes(3));
        let message = format!("message of {name}");
        assert_eq!(engine.run("run", &both).await?, [&*message, "other 7"]);
        engine.shutdown().await?;
    }
    Ok(())
}

#[step]
async fn describe(first: Either<Either<String, (usize, u32)>, ()>) -> String {
    match first {
        Either::Left(Either::Left(message)) => message,
        other => format!("{other:?}"),
    }
}

#[step]
async fn describe_other(other: u32) -> String {
    format!("other {other}")
}

#[tokio::test(start_paused = true)]
async fn of_two_listeners_in_a_race_one_is_told() -> keepstep::Result<()> {
    let lab = lab("winner");
    let other = self::lab("loser");
    other.world.tell("poll", Do::Hold);
    lab.world.tell("told", Do::Hold);
    let engine = lab.engine().await;
    let first = select([wait_for(queue("loser")), wait_for(queue("winner"))]);
    let run = engine.start("run", first).await?;
    lab.world.until("told").await;
    other.world.tell("poll", Do::Succeed);
    tokio::time::sleep(MINUTE).await;
    lab.world.tell("told", Do::Succeed);
    assert_eq!(run.await?, (1, "message of winner".to_owned()));
    assert_eq!(other.world.log(), ["poll", "poll dropped"]);
    engine.shutdown().await
}

#[derive(Debug, Serialize, Deserialize)]
struct Hasty;

#[event_listener(retries = 1)]
impl EventListener for Hasty {
    type Event = String;

    async fn poll(&mut self) -> Result<String, BoxError> {
        Ok(world("hasty").act("poll").await.map(|()| String::new())?)
    }

    async fn checkpointed(&mut self, _event: &String) -> Result<(), BoxError> {
        Ok(world("hasty").act("told").await?)
    }
}

#[tokio::test(start_paused = true)]
async fn retries_of_a_listener_are_those_of_its_poll() -> keepstep::Result<()> {
    let lab = lab("hasty");
    lab.world.tell("told", Do::FailTimes(5));
    let engine = lab.engine().await;
    engine.run("told", wait_for(Hasty)).await?;
    lab.world.tell("poll", Do::FailTimes(2));
    let failed = engine.run("polled", wait_for(Hasty)).await;
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    engine.shutdown().await
}
