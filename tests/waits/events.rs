//! Events: durable before the sender knows, used once, in order.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{StepErrorKind, SuspendReason};
use serde::{Deserialize, Serialize};

use crate::common::{Lab, World};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Approval {
    by: String,
    amount: u64,
}

fn approval(by: &str) -> Approval {
    Approval {
        by: by.to_owned(),
        amount: 100,
    }
}

#[step]
async fn pay(approval: Approval, #[resource] world: &World) -> Result<String, String> {
    world.act("pay").await.map(|()| approval.by)
}

#[step]
async fn names(approvals: Vec<Approval>) -> Vec<String> {
    approvals.into_iter().map(|approval| approval.by).collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_may_come_before_or_while_it_is_waited_for() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let workflow = || pay(event::<Approval>("approved").after(&sleep(Duration::from_secs(60))));
    let early = engine.start("early", workflow()).await?;
    engine
        .send_event("early", "approved", &approval("Ann"))
        .await?;
    assert_eq!(early.await?, "Ann");

    let late = engine.start("late", workflow()).await?;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(engine.status("late").await?, Status::Running);
    engine
        .send_event("late", "approved", &approval("Bob"))
        .await?;
    assert_eq!(late.await?, "Bob");
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn each_event_is_used_once_in_order_of_arrival() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let waits: Vec<_> = (0..5).map(|_| event::<Approval>("approved")).collect();
    let run = engine.start("run", names(waits)).await?;
    for by in ["a", "b", "c"] {
        engine.send_event("run", "approved", &approval(by)).await?;
        engine.send_event("run", "other", &1u8).await?;
    }
    lab_settles(&engine, "run", 3).await;
    for by in ["d", "e"] {
        engine.send_event("run", "approved", &approval(by)).await?;
    }
    assert_eq!(run.await?, ["a", "b", "c", "d", "e"]);
    engine.shutdown().await
}

async fn lab_settles(engine: &Engine, id: &str, done: u64) {
    while engine.metadata(id).await.unwrap().progress.done < done {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_message_of_one_id_is_dropped_also_after_the_first_was_used()
-> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let waits = [event::<Approval>("approved"), event::<Approval>("approved")];
    let run = engine.start("run", names(waits)).await?;
    let send = |by: &str, id: &str| {
        let send = engine.send_event("run", "approved", &approval(by));
        send.id(id)
    };
    send("a", "1").await?;
    lab_settles(&engine, "run", 1).await;
    send("again", "1").await?;
    send("again", "1").await?;
    send("b", "2").await?;
    assert_eq!(run.await?, ["a", "b"]);
    // Who is not sure, and sends again what had arrived, is not told that it is too late.
    send("b", "2").await?;
    let late = send("c", "3").await;
    assert!(
        matches!(
            late,
            Err(Error::AlreadyEnded {
                status: Status::Successful,
                ..
            })
        ),
        "{late:?}"
    );
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn events_of_two_names_have_ids_of_their_own() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let waits = [event::<Approval>("approved"), event::<Approval>("2:paid")];
    let run = engine.start("run", names(waits)).await?;
    for _ in 0..2 {
        engine
            .send_event("run", "approved", &approval("a"))
            .id("request-1")
            .await?;
    }
    let other = engine.send_event("run", "2:paid", &approval("b"));
    other.id("request-1").await?;
    assert_eq!(run.await?, ["a", "b"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_event_outlives_a_crash_and_is_used_once_only() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    drop(engine.start("run", pay(event("approved"))).await?);
    lab.crash(engine).await;

    // To a run that nobody drives.
    let engine = lab.engine().await;
    engine
        .send_event("run", "approved", &approval("Ann"))
        .await?;
    assert_eq!(engine.status("run").await?, Status::Resumable);
    lab.crash(engine).await;

    let engine = lab.engine().await;
    assert_eq!(engine.resume::<String>("run").await?.await?, "Ann");
    assert_eq!(lab.world.log(), ["pay"]);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn unknown_and_finished_runs_take_no_events() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    engine.run("done", Workflow::value(1)).await?;
    let unknown = engine.send_event("nobody", "e", &1).await;
    assert!(
        matches!(unknown, Err(Error::NotFound { .. })),
        "{unknown:?}"
    );
    let done = engine.send_event("done", "e", &1).await;
    assert!(matches!(done, Err(Error::AlreadyEnded { .. })), "{done:?}");
    let bad = engine.send_event("a\nb", "e", &1).await;
    assert!(matches!(bad, Err(Error::InvalidRunId(_))), "{bad:?}");
    let unencodable = std::collections::HashMap::from([(Unencodable, 1)]);
    let bad = engine.send_event("done", "e", &unencodable).await;
    assert!(matches!(bad, Err(Error::Unencodable { .. })), "{bad:?}");
    // No trace of them: a run of that id gets nothing.
    let run = engine.start("nobody", event::<u32>("e")).await?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(run.status().await?, Status::Running);
    engine.shutdown().await
}

#[derive(PartialEq, Eq, Hash)]
struct Unencodable;

impl Serialize for Unencodable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_of_another_type_suspends_the_run_and_is_kept() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let run = engine.start("run", pay(event("approved"))).await?;
    engine.send_event("run", "approved", &"a text").await?;
    match run.await {
        Err(Error::Suspended {
            reason: SuspendReason::Undecodable { step, param, .. },
            ..
        }) => {
            assert!(step.ends_with("pay"), "{step}");
            assert_eq!(param, "approval");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.status("run").await?, Status::Suspended);
    // It says the same again: nothing is lost.
    assert!(matches!(
        engine.resume::<String>("run").await?.await,
        Err(Error::Suspended { .. })
    ));
    assert!(lab.world.log().is_empty());
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn a_suspended_run_keeps_its_events_until_it_goes_on() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    drop(engine.start("run", event::<u32>("e")).await?);
    engine.suspend("run").await?;
    engine.send_event("run", "e", &5u32).await?;
    assert_eq!(engine.status("run").await?, Status::Suspended);
    assert_eq!(engine.resume::<u32>("run").await?.await?, 5);
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn large_events_and_many_of_them_arrive() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let large = "x".repeat(300_000);
    let run = engine.start("large", event::<String>("e")).await?;
    engine.send_event("large", "e", &large).await?;
    assert_eq!(run.await?, large);
    engine.maintain().await?;
    assert_eq!(engine.output::<String>("large").await?, large);

    let waits = all((0..3_000).map(|_| event::<u32>("e")));
    let run = engine.start("many", waits).await?;
    for n in 0..3_000u32 {
        engine.send_event("many", "e", &n).await?;
    }
    assert_eq!(run.await?, (0..3_000).collect::<Vec<u32>>());
    engine.shutdown().await
}

#[tokio::test(start_paused = true)]
async fn an_event_that_takes_too_long_is_a_failure_that_can_be_caught() -> keepstep::Result<()> {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let wait = event::<Approval>("approved").timeout(Duration::from_secs(3600));
    let error = engine.run("run", wait.catch()).await?.unwrap_err();
    assert_eq!(error.kind, StepErrorKind::Timeout);
    assert_eq!(error.step, "approved");
    engine.shutdown().await
}
