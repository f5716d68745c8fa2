//! What is not an argument of a step: outputs, events, child runs, schedules, listeners, calls of actors in workflows.

use keepstep::prelude::*;
use keepstep::{BoxError, SuspendReason, all};
use serde::{Deserialize, Serialize};

use super::{a_moment, lab, rename};
use crate::common::{Do, Lab, World};

#[derive(Debug, Serialize, Deserialize)]
struct Old {
    id: u64,
    by: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Grown {
    #[serde(default)]
    note: Option<String>,
    id: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Other {
    id: Vec<String>,
}

#[step(name = "other/make")]
async fn make(#[resource] world: &World) -> Result<Old, String> {
    world.act("make").await?;
    let by = "Ann".into();
    Ok(Old { id: 17, by })
}

#[step(name = "other/was")]
async fn was(old: Old) -> u64 {
    old.id
}

#[step(name = "other/add")]
async fn add(grown: Grown) -> u64 {
    grown.id + u64::from(grown.note.is_some())
}

#[step(name = "other/bad")]
async fn bad(other: Other) -> u64 {
    other.id.len() as u64
}

fn undecodable(error: Error) -> (String, String, String) {
    match error {
        Error::Suspended {
            reason:
                SuspendReason::Undecodable {
                    step, param, field, ..
                },
            ..
        } => (step, param, field),
        other => panic!("{other:?}"),
    }
}

fn told(step: &str, param: &str, field: &str) -> (String, String, String) {
    (step.into(), param.into(), field.into())
}

#[tokio::test(start_paused = true)]
async fn an_output_is_read_as_what_its_type_has_become() {
    let (_store, lab) = lab();
    let engine = lab.engine().await;
    engine.run("run", make().name("made")).await.unwrap();
    for grown in [
        engine.output::<Grown>("run").await.unwrap(),
        engine.step_output("run", "made").await.unwrap(),
    ] {
        assert_eq!((grown.id, grown.note), (17, None));
    }
    for error in [
        engine.output::<Other>("run").await.unwrap_err(),
        engine
            .step_output::<Other>("run", "made")
            .await
            .unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Undecodable { field, .. } if field == "id"),
            "{error}"
        );
        assert!(error.to_string().contains("run"), "{error}");
    }
    assert_eq!(engine.output::<Old>("run").await.unwrap().by, "Ann");
    engine.shutdown().await.unwrap();
}

/// Starts a run, and crashes when it waits.
async fn interrupted(lab: &Lab, workflow: Workflow<u64>) {
    let engine = lab.engine().await;
    drop(engine.start("run", workflow).await.unwrap());
    a_moment().await;
    lab.crash(engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_result_of_older_code_is_read_by_newer_code() {
    let (store, lab) = lab();
    // The second result is not there yet when the run is interrupted, so the first waits with it.
    lab.world.tell("gate", Do::Hold);
    interrupted(&lab, was(make()).after(&gate())).await;
    rename(&store, &[("other/was", "other/bad")]);
    let engine = lab.engine().await;
    lab.world.tell("gate", Do::Succeed);
    let error = engine.resume::<u64>("run").await.unwrap().await;
    assert_eq!(
        undecodable(error.unwrap_err()),
        told("other/bad", "other", "id")
    );
    lab.crash(engine).await;
    rename(&store, &[("other/was", "other/add")]);
    let engine = lab.engine().await;
    let handle = engine.resume::<u64>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), 17);
    engine.shutdown().await.unwrap();
}

#[step(name = "other/gate")]
async fn gate(#[resource] world: &World) -> Result<(), String> {
    world.act("gate").await
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_decode_suspends_the_run_and_is_kept() {
    let (store, lab) = lab();
    interrupted(&lab, was(event::<Old>("made"))).await;
    rename(&store, &[("other/was", "other/bad")]);
    let engine = lab.engine().await;
    let by = "Bob".to_owned();
    engine
        .send_event("run", "made", &Old { id: 5, by })
        .await
        .unwrap();
    let error = engine.resume::<u64>("run").await.unwrap().await;
    assert_eq!(
        undecodable(error.unwrap_err()),
        told("other/bad", "other", "id")
    );
    lab.crash(engine).await;
    rename(&store, &[("other/was", "other/add")]);
    let engine = lab.engine().await;
    let handle = engine.resume::<u64>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), 5);
    engine.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_child_run_is_suspended_by_itself_and_its_parent_waits() {
    let (store, lab) = lab();
    lab.world.tell("make", Do::Hold);
    let both = all([child("child", was(make())), Workflow::value(1)]);
    let sum = sum(both);
    interrupted(&lab, sum).await;
    rename(&store, &[("other/was", "other/bad")]);
    let engine = lab.engine().await;
    lab.world.tell("make", Do::Succeed);
    let parent = engine.resume::<u64>("run").await.unwrap();
    let error = engine.resume::<u64>("child").await.unwrap().await;
    assert_eq!(
        undecodable(error.unwrap_err()),
        told("other/bad", "other", "id")
    );
    assert_eq!(engine.status("run").await.unwrap(), Status::Running);
    drop(parent);
    lab.crash(engine).await;
    rename(&store, &[("other/was", "other/add")]);
    let engine = lab.engine().await;
    let parent = engine.resume::<u64>("run").await.unwrap();
    drop(engine.resume::<u64>("child").await.unwrap());
    assert_eq!(parent.await.unwrap(), 18);
    engine.shutdown().await.unwrap();
}

#[step(name = "other/sum")]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

/// A listener as the program has it that stored it.
#[derive(Serialize, Deserialize)]
struct Queue {
    name: String,
}

#[event_listener(name = "queue/was")]
impl EventListener for Queue {
    type Event = u64;

    async fn poll(&mut self) -> Result<u64, BoxError> {
        // A message never comes.
        std::future::pending().await
    }
}

/// As a later program has it.
#[derive(Serialize, Deserialize)]
struct Numbered {
    name: u64,
}

#[event_listener(name = "queue/bad")]
impl EventListener for Numbered {
    type Event = u64;

    async fn poll(&mut self) -> Result<u64, BoxError> {
        Ok(self.name)
    }
}

#[derive(Serialize, Deserialize)]
struct Mended {
    name: String,
    #[serde(default)]
    after: Option<u64>,
}

#[event_listener(name = "queue/add")]
impl EventListener for Mended {
    type Event = u64;

    async fn poll(&mut self) -> Result<u64, BoxError> {
        Ok(self.name.len() as u64 + self.after.unwrap_or(0))
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_does_not_decode_suspends_the_run() {
    let (store, lab) = lab();
    let name = "orders".into();
    interrupted(&lab, keepstep::wait_for(Queue { name })).await;
    rename(&store, &[("queue/was", "queue/bad")]);
    let engine = lab.engine().await;
    let report = engine.check().await.unwrap();
    assert!(report.to_string().contains("`listener`"), "{report}");
    let error = engine.resume::<u64>("run").await.unwrap().await;
    assert_eq!(
        undecodable(error.unwrap_err()),
        told("queue/bad::poll", "listener", "name")
    );
    lab.crash(engine).await;
    rename(&store, &[("queue/was", "queue/add")]);
    let engine = lab.engine().await;
    engine.check().await.unwrap().assert_ok();
    let handle = engine.resume::<u64>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), 6);
    engine.shutdown().await.unwrap();
}

#[derive(Serialize, Deserialize)]
struct Till {
    cents: u64,
}

#[virtual_actor(name = "till/was")]
impl Till {
    pub fn new() -> Self {
        Till { cents: 0 }
    }

    pub async fn add(&mut self, old: Old) -> u64 {
        self.cents += old.id;
        self.cents
    }
}

mod later {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Till {
        cents: u64,
    }

    #[virtual_actor(name = "till/bad")]
    impl Till {
        pub fn new() -> Self {
            Till { cents: 0 }
        }

        pub async fn add(&mut self, other: Other) -> u64 {
            self.cents += other.id.len() as u64;
            self.cents
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_an_actor_in_a_workflow_that_does_not_decode_suspends_the_run() {
    let (store, lab) = lab();
    let engine = lab.engine().await;
    later::Till::on(&engine).get_or_create("t").await.unwrap();
    let till = Till::on(&engine).get_or_create("t").await.unwrap();
    lab.world.tell("make", Do::Hold);
    let added = till
        .add(Old {
            id: 3,
            by: "c".into(),
        })
        .step();
    drop(engine.start("run", added.after(&make())).await.unwrap());
    a_moment().await;
    drop(till);
    lab.crash(engine).await;
    rename(&store, &[("till/was", "till/bad")]);
    let engine = lab.engine().await;
    lab.world.tell("make", Do::Succeed);
    let error = engine.resume::<u64>("run").await.unwrap().await;
    assert_eq!(
        undecodable(error.unwrap_err()),
        told("till/bad::add", "other", "id")
    );
    lab.crash(engine).await;
    store.heal();
    let engine = lab.engine().await;
    let handle = engine.resume::<u64>("run").await.unwrap();
    assert_eq!(handle.await.unwrap(), 3);
    engine.shutdown().await.unwrap();
}
