//! What happened while nobody had the run in memory is taken in as it happened: in the order of time.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{StepError, StepErrorKind};

use crate::common::{Do, Lab, World};

const MINUTE: Duration = Duration::from_secs(60);

#[step(retries = 0)]
async fn work(name: String, #[resource] world: &World) -> Result<String, String> {
    world.act(&name).await.map(|()| name)
}

#[step]
async fn kind(result: Result<String, StepError>) -> String {
    result.unwrap_or_else(|error| format!("{:?}", error.kind))
}

/// A run that has begun and waits in the store, and an engine that has not looked at it.
async fn asleep<T>(lab: &Lab, workflow: Workflow<T>) -> keepstep::Result<Engine> {
    let engine = lab.engine().await;
    drop(engine.start("run", workflow).await?);
    while engine.metadata("run").await?.started_at.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    lab.crash(engine).await;
    Ok(lab.engine().await)
}

#[tokio::test(start_paused = true)]
async fn what_was_due_before_a_message_was_sent_comes_before_it() -> keepstep::Result<()> {
    for (sent_after, winner) in [
        (MINUTE / 2, Either::Left(7)),
        (2 * MINUTE, Either::Right(())),
    ] {
        let lab = Lab::new();
        let engine = asleep(&lab, race(event::<u32>("paid"), sleep(MINUTE))).await?;
        tokio::time::sleep(sent_after).await;
        engine.send_event("run", "paid", &7u32).await?;
        tokio::time::sleep(3 * MINUTE).await;
        let run = engine.resume::<Either<u32, ()>>("run").await?;
        assert_eq!(run.await?, winner);
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_holds_for_messages_that_were_sent_after_it() -> keepstep::Result<()> {
    for (sent_after, result) in [(MINUTE / 2, "paid"), (2 * MINUTE, "Timeout")] {
        let lab = Lab::new();
        let limited = event::<String>("paid").timeout(MINUTE);
        let engine = asleep(&lab, kind(limited.catch())).await?;
        tokio::time::sleep(sent_after).await;
        engine.send_event("run", "paid", &"paid").await?;
        tokio::time::sleep(3 * MINUTE).await;
        let run = engine.resume::<String>("run").await?;
        assert_eq!(run.await?, result);
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_message_is_compared_with_times_that_are_reached_by_one_before_it() -> keepstep::Result<()>
{
    #[step]
    async fn after(_: u32, at: std::time::SystemTime) -> Workflow<Either<u32, ()>> {
        race(event("second"), sleep_until(at))
    }
    let lab = Lab::new();
    let at = lab.clock.now() + MINUTE;
    let engine = asleep(&lab, after(event("first"), at)).await?;
    engine.send_event("run", "first", &1u32).await?;
    tokio::time::sleep(2 * MINUTE).await;
    engine.send_event("run", "second", &2u32).await?;
    let run = engine.resume::<Either<u32, ()>>("run").await?;
    assert_eq!(run.await?, Either::Right(()));
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn messages_of_several_names_come_in_order_of_arrival() -> keepstep::Result<()> {
    // Few names are looked up one by one, many are not.
    for n in [2, 40] {
        let lab = Lab::new();
        let events = (0..n).map(|n| event::<u32>(format!("{n:02}")));
        let engine = asleep(&lab, select(events.collect::<Vec<_>>())).await?;
        for name in ["unknown", "01", "00"] {
            engine.send_event("run", name, &1u32).await?;
        }
        let run = engine.resume::<(usize, u32)>("run").await?;
        assert_eq!(run.await?, (1, 1), "{n}");
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_sleep_that_is_longer_than_its_limit_is_too_late_however_late_it_is()
-> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = asleep(&lab, sleep(2 * MINUTE).timeout(MINUTE)).await?;
    tokio::time::sleep(3 * MINUTE).await;
    let ended = engine.resume::<()>("run").await?.await;
    let Err(Error::Failed { error, .. }) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.kind, StepErrorKind::Timeout);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_child_that_ended_in_time_counts_and_one_that_did_not_does_not() -> keepstep::Result<()> {
    for (ends_after, result) in [(MINUTE / 2, "child"), (2 * MINUTE, "Timeout")] {
        let lab = Lab::new();
        lab.world.tell("child", Do::Hold);
        let engine = lab.engine().await;
        let limited = child("child", work("child")).timeout(MINUTE);
        let parent = engine.start("run", kind(limited.catch())).await?;
        lab.world.until("child").await;
        engine.suspend("run").await?;
        drop(parent);
        tokio::time::sleep(ends_after).await;
        lab.world.tell("child", Do::Succeed);
        tokio::time::sleep(3 * MINUTE).await;
        assert_eq!(engine.status("child").await?, Status::Successful);
        let run = engine.resume::<String>("run").await?;
        assert_eq!(run.await?, result);
        engine.shutdown().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn children_messages_and_times_are_compared_with_each_other() -> keepstep::Result<()> {
    // Which of these comes at which minute.
    for (order, winner) in [
        (["b", "a", "event"], 1),
        (["event", "b", "a"], 2),
        (["a", "event", "b"], 0),
    ] {
        let lab = Lab::new();
        lab.world.tell("a", Do::Hold);
        lab.world.tell("b", Do::Hold);
        let engine = lab.engine().await;
        let first = select([
            child("a", work("a")),
            child("b", work("b")),
            event::<String>("event"),
        ]);
        drop(engine.start("run", first).await?);
        lab.world.until("a").await;
        lab.world.until("b").await;
        engine.suspend("run").await?;
        for what in order {
            match what {
                "event" => engine.send_event("run", "event", &"event").await?,
                child => lab.world.tell(child, Do::Succeed),
            }
            tokio::time::sleep(MINUTE).await;
        }
        let (place, _) = engine.resume::<(usize, String)>("run").await?.await?;
        assert_eq!(place, winner, "{order:?}");
        engine.shutdown().await?;
    }
    Ok(())
}
