//! Calls that would wait for themselves, by way of whom or what they may: each is an error that names the circle, and nobody waits
//! for ever.

use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Error, StepErrorKind};
use serde::{Deserialize, Serialize};

use crate::common::{Do, Lab, World};
use crate::troupe::{Result, sum};

/// Calls others, in every way there is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Knot {
    touched: u64,
}

#[virtual_actor(name = "knot")]
impl Knot {
    pub(crate) fn new() -> Self {
        Self { touched: 0 }
    }

    pub(crate) async fn touch(&mut self) -> u64 {
        self.touched += 1;
        self.touched
    }

    pub(crate) async fn touched(&self) -> u64 {
        self.touched
    }

    /// Awaits a call of another, once the world lets it.
    pub(crate) async fn reach(
        &mut self,
        other: String,
        who: String,
        #[resource] world: &World,
    ) -> Result<u64> {
        self.touched += 1;
        drop(world.act(&who).await);
        Knot::get_actor(other).await?.touch().await
    }

    /// Awaits a call of the next, which does so, too, and the last one awaits the first.
    pub(crate) async fn ring(&mut self, mut others: Vec<String>) -> Result<u64> {
        self.touched += 1;
        let next = Knot::get_actor(others.remove(0)).await?;
        match others.is_empty() {
            true => next.touch().await,
            false => next.ring(others).await,
        }
    }

    /// A query that awaits a call.
    pub(crate) async fn peek(&self, other: String) -> Result<u64> {
        Knot::get_actor(other).await?.touch().await
    }

    /// Awaits a query that awaits a call of this one.
    pub(crate) async fn peeked(&mut self, other: String, me: String) -> Result<u64> {
        Knot::get_actor(other).await?.peek(me).await
    }

    /// Has itself deleted.
    pub(crate) async fn end(&mut self, me: String) -> Result<()> {
        Knot::get_actor(me).await?.delete().await
    }

    /// Returns a workflow that touches another, once the world lets it.
    pub(crate) async fn touching(&mut self, other: String) -> Result<Workflow<u64>> {
        self.touched += 1;
        let touch = Knot::get_actor(other).await?.touch().step();
        Ok(touch.after(&gate("gate".to_owned())))
    }

    /// Awaits a call of another that returns such a workflow.
    pub(crate) async fn awaits(&mut self, other: String, me: String) -> Result<u64> {
        self.touched += 1;
        Knot::get_actor(other).await?.touching(me).await
    }

    #[exclusive]
    pub(crate) async fn with_child(&mut self, me: String) -> Result<Workflow<u64>> {
        let touch = Knot::get_actor(me).await?.touch().step();
        let after = touch.after(&gate("gate".to_owned()));
        Ok(child("outer", child("inner", after)))
    }

    #[exclusive]
    pub(crate) async fn by_way_of(&mut self, other: String, me: String) -> Result<Workflow<u64>> {
        let other = Knot::get_actor(other).await?;
        Ok(other.reach(me, "gate".to_owned()).step())
    }

    /// Its own steps call it, and another that does not.
    #[exclusive]
    pub(crate) async fn in_order(&mut self, other: String, me: String) -> Result<Workflow<u64>> {
        let (me, other) = (Knot::get_actor(me).await?, Knot::get_actor(other).await?);
        Ok(sum(me.touch().step(), child("aside", other.touch().step())))
    }
}

#[step(name = "circles::gate", retries = 0)]
async fn gate(who: String, #[resource] world: &World) -> Result<(), String> {
    world.act(&who).await
}

struct Knots {
    lab: Lab,
    engine: Engine,
}

impl Knots {
    async fn new() -> Self {
        let lab = Lab::new();
        let engine = lab.engine().await;
        for id in ["a", "b", "c"] {
            Knot::on(&engine).get_or_create(id).await.unwrap();
        }
        Self { lab, engine }
    }

    async fn get(&self, id: &str) -> KnotRef {
        Knot::on(&self.engine).get_actor(id).await.unwrap()
    }

    /// All of them take calls.
    async fn are_free(&self) {
        for id in ["a", "b", "c"] {
            soon(self.get(id).await.touch()).await.unwrap();
        }
    }
}

/// With paused time, whoever waits for ever does so for an hour at once.
async fn soon<F: IntoFuture>(future: F) -> F::Output {
    let hour = Duration::from_secs(3600);
    let done = tokio::time::timeout(hour, future.into_future()).await;
    done.expect("somebody waits for ever")
}

/// What is said of a circle, wherever it is in an error.
fn said(error: &Error) -> String {
    let mut said = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        said += &format!(": {error}");
        source = error.source();
    }
    said
}

#[tokio::test(start_paused = true)]
async fn of_two_methods_that_await_each_other_one_fails_and_one_goes_on() {
    let knots = Knots::new().await;
    let (a, b) = (knots.get("a").await, knots.get("b").await);
    knots.lab.world.tell("a", Do::Hold);
    knots.lab.world.tell("b", Do::Hold);
    let at_a = tokio::spawn(a.reach("b", "a").into_future());
    let at_b = tokio::spawn(b.reach("a", "b").into_future());
    knots.lab.world.until("a").await;
    knots.lab.world.until("b").await;
    knots.lab.world.tell("a", Do::Succeed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    knots.lab.world.tell("b", Do::Succeed);
    let error = soon(at_b).await.unwrap().unwrap_err();
    assert!(
        said(&error).contains(
            "`knot::touch` of actor/knot/a would wait for itself for ever: actor/knot/a waits for actor/knot/b, which waits for \
             actor/knot/a; send it"
        ),
        "{}",
        said(&error)
    );
    assert_eq!(soon(at_a).await.unwrap().unwrap(), 1);
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_ring_of_three_says_who_waits_for_whom() {
    let knots = Knots::new().await;
    let ring = ["b", "c", "a"].map(str::to_owned).to_vec();
    let error = soon(knots.get("a").await.ring(ring)).await.unwrap_err();
    assert!(
        format!("{error:?}").contains(
            "actor/knot/a waits for actor/knot/b, which waits for actor/knot/c, which waits for actor/knot/a"
        ),
        "{error:?}"
    );
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_waits_for_whoever_its_caller_waits_for() {
    let knots = Knots::new().await;
    let a = knots.get("a").await;
    let error = soon(a.peeked("b", "a")).await.unwrap_err();
    assert!(format!("{error:?}").contains("for ever"), "{error:?}");
    // A query alone keeps nobody from a call.
    assert_eq!(soon(knots.get("b").await.peek("b")).await.unwrap(), 1);
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_method_that_deletes_its_own_actor_is_told() {
    let knots = Knots::new().await;
    let error = soon(knots.get("a").await.end("a")).await.unwrap_err();
    assert!(
        said(&error).contains("`delete` of actor/knot/a"),
        "{error:?}"
    );
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_of_an_exclusive_workflow_does_not_wait_for_it() {
    let knots = Knots::new().await;
    let error = soon(knots.get("a").await.with_child("a"))
        .await
        .unwrap_err();
    let said = said(&error);
    assert!(
        said.contains("actor/knot/a waits for actor/knot/a/with_child/")
            && said.contains(
                ", which waits for outer, which waits for inner, which waits for actor/knot/a"
            ),
        "{said}"
    );
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_of_an_exclusive_workflow_does_not_wait_for_it_after_a_crash_either() {
    let Knots { lab, engine } = Knots::new().await;
    lab.world.tell("gate", Do::Hold);
    let a = Knot::on(&engine).get_actor("a").await.unwrap();
    a.with_child("a").send().await.unwrap();
    lab.world.until("gate").await;
    drop(a);
    lab.crash(engine).await;
    lab.world.tell("gate", Do::Succeed);
    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    let knots = Knots { lab, engine };
    knots.are_free().await;
    let error = soon(knots.engine.output::<u64>("inner")).await.unwrap_err();
    assert!(said(&error).contains("for ever"), "{}", said(&error));
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_workflow_does_not_wait_for_itself_by_way_of_another_actor() {
    let knots = Knots::new().await;
    let a = knots.get("a").await;
    let error = soon(a.by_way_of("b", "a")).await.unwrap_err();
    let said = said(&error);
    assert!(
        said.contains("actor/knot/a waits for actor/knot/a/by_way_of/")
            && said.contains(", which waits for actor/knot/b, which waits for actor/knot/a"),
        "{said}"
    );
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_workflow_does_not_wait_for_itself_by_way_of_another_actor_after_a_crash() {
    let Knots { lab, engine } = Knots::new().await;
    lab.world.tell("gate", Do::Hold);
    let a = Knot::on(&engine).get_actor("a").await.unwrap();
    a.by_way_of("b", "a").send().await.unwrap();
    lab.world.until("gate").await;
    drop(a);
    lab.crash(engine).await;
    lab.world.tell("gate", Do::Succeed);
    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    Knots { lab, engine }.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_method_does_not_wait_for_a_workflow_that_waits_for_its_actor() {
    let knots = Knots::new().await;
    let a = knots.get("a").await;
    knots.lab.world.tell("gate", Do::Hold);
    let awaits = tokio::spawn(a.awaits("b", "a").into_future());
    knots.lab.world.until("gate").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    knots.lab.world.tell("gate", Do::Succeed);
    let error = soon(awaits).await.unwrap().unwrap_err();
    let said = format!("{error:?}");
    assert!(
        said.contains("actor/knot/a waits for actor/knot/b/touching/")
            && said.contains(", which waits for actor/knot/a;"),
        "{said}"
    );
    knots.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_outlived_who_waited_for_it_may_call_them() {
    let Knots { lab, engine } = Knots::new().await;
    lab.world.tell("gate", Do::Hold);
    let a = Knot::on(&engine).get_actor("a").await.unwrap();
    let awaits = tokio::spawn(a.awaits("b", "a").into_future());
    lab.world.until("gate").await;
    awaits.abort();
    drop((a, awaits.await));
    lab.crash(engine).await;
    lab.world.tell("gate", Do::Succeed);
    let engine = lab.builder().resume_on_open(true).build().await.unwrap();
    let runs = engine.list(keepstep::Filter::all()).await.unwrap().runs;
    let handle = engine.resume::<u64>(&runs[0].id).await.unwrap();
    assert_eq!(soon(handle).await.unwrap(), 1);
    Knots { lab, engine }.are_free().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_circle_is_none() {
    let knots = Knots::new().await;
    let a = knots.get("a").await;
    // A step of the exclusive workflow itself goes through, and another actor is called beside it.
    assert_eq!(soon(a.in_order("b", "a")).await.unwrap(), 2);
    // Many at once to one, and one after the other.
    let calls = (0..50).map(|n| {
        let to = if n % 2 == 0 { "b" } else { "c" };
        tokio::spawn(a.reach(to, "free").into_future())
    });
    for call in calls.collect::<Vec<_>>() {
        soon(call).await.unwrap().unwrap();
    }
    knots.are_free().await;
}

#[step(retries = 0)]
async fn calls_inside(id: String, other: String) -> Result<u64> {
    Knot::get_actor(id)
        .await?
        .reach(other, "free".to_owned())
        .await
}

#[tokio::test(start_paused = true)]
async fn a_step_that_awaits_a_call_in_its_body_waits_as_its_run() {
    let knots = Knots::new().await;
    let inside = knots.engine.run("free", calls_inside("a", "b"));
    assert_eq!(soon(inside).await.unwrap(), 1);
    let error = soon(knots.engine.run("circle", calls_inside("a", "a")))
        .await
        .unwrap_err();
    let Error::Failed { error, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind, StepErrorKind::Error);
    assert!(format!("{error:?}").contains("for ever"), "{error:?}");
    knots.are_free().await;
}
