//! Calls at several engines that wait for each other: an actor that is busy cannot go where it is called from.

use std::future::ready;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::common::{Do, World};
use crate::{Cluster, soon};

type Result<T, E = keepstep::Error> = std::result::Result<T, E>;

/// Calls others, in every way there is.
#[derive(Debug, Serialize, Deserialize)]
struct Link {
    touched: u64,
}

#[virtual_actor(name = "link")]
impl Link {
    pub fn new() -> Self {
        Self { touched: 0 }
    }

    pub async fn touch(&mut self) -> u64 {
        self.touched += 1;
        self.touched
    }

    pub async fn touched(&self) -> u64 {
        self.touched
    }

    /// Does nothing, until the world lets it.
    pub async fn stay(&mut self, me: String, #[resource] world: &World) -> u64 {
        drop(world.act(&me).await);
        self.touched
    }

    /// Awaits a call of another, once the world lets it.
    pub async fn reach(
        &mut self,
        me: String,
        other: String,
        #[resource] world: &World,
    ) -> Result<u64> {
        drop(world.act(&me).await);
        Link::get_actor(other).await?.touch().await
    }

    /// Awaits a query of another, once the world lets it.
    pub async fn look(
        &mut self,
        me: String,
        other: String,
        #[resource] world: &World,
    ) -> Result<u64> {
        drop(world.act(&me).await);
        Link::get_actor(other).await?.touched().await
    }

    /// Deletes another, once the world lets it.
    pub async fn end(
        &mut self,
        me: String,
        other: String,
        #[resource] world: &World,
    ) -> Result<()> {
        drop(world.act(&me).await);
        Link::get_actor(other).await?.delete().await
    }

    /// Calls wait for a workflow that touches another, once the world lets it.
    #[exclusive]
    pub async fn alone(&mut self, me: String, other: String) -> Result<Workflow<u64>> {
        let touch = Link::get_actor(other).await?.touch().step();
        Ok(touch.after(&gate(me)))
    }

    /// Returns a workflow whose child touches another, once the world lets it.
    pub async fn touching(&mut self, me: String, other: String) -> Result<Workflow<u64>> {
        let touch = Link::get_actor(other).await?.touch().step();
        Ok(child("kid", touch.after(&gate(me))))
    }

    /// Awaits such a workflow.
    pub async fn ask(&mut self, other: String, third: String) -> Result<u64> {
        let asked = Link::get_actor(&other).await?;
        asked.touching(other, third).await
    }
}

#[step(name = "circles::gate", retries = 0)]
async fn gate(who: String, #[resource] world: &World) -> Result<(), String> {
    world.act(&who).await
}

async fn link(engine: &Engine, id: &str) -> LinkRef {
    Link::on(engine).get_or_create(id).await.unwrap()
}

/// Makes a call that waits for the world.
async fn held<T: std::marker::Send + 'static>(
    cluster: &Cluster,
    who: &str,
    call: impl IntoFuture<Output = Result<T>, IntoFuture: std::marker::Send + 'static>,
) -> JoinHandle<Result<T>> {
    cluster.world.tell(who, Do::Hold);
    let call = tokio::spawn(call.into_future());
    soon(cluster.world.until(who)).await;
    call
}

/// What is said of a circle, wherever it is in an error.
fn said(error: &keepstep::Error) -> String {
    let mut said = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        said += &format!(": {error}");
        source = error.source();
    }
    said
}

#[track_caller]
fn is_circle<T: std::fmt::Debug>(ended: Result<T>, names: &str) {
    let said = said(&ended.unwrap_err());
    assert!(said.contains("would wait for itself for ever"), "{said}");
    assert!(said.contains(names), "{said}");
}

#[tokio::test]
async fn of_two_methods_that_await_each_other_one_fails_and_one_goes_on() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    let (a, b) = (link(&one, "a").await, link(&two, "b").await);
    let at_a = held(&cluster, "a", a.reach("a", "b")).await;
    let at_b = held(&cluster, "b", b.reach("b", "a")).await;
    cluster.world.tell("a", Do::Succeed);
    cluster.world.tell("b", Do::Succeed);
    is_circle(
        soon(at_a).await.unwrap(),
        "actor/link/b waits for actor/link/a, which waits for actor/link/b",
    );
    assert_eq!(soon(at_b).await.unwrap().unwrap(), 1);
    // The call that failed is not made afterwards.
    assert_eq!(soon(b.touch()).await.unwrap(), 1);
    assert_eq!(soon(a.touch()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_ring_of_three_engines_is_broken_in_one_place() {
    let cluster = Cluster::new();
    let mut calls = Vec::new();
    for (me, other) in [("a", "b"), ("b", "c"), ("c", "a")] {
        let engine = cluster.worker().await;
        let call = held(&cluster, me, link(&engine, me).await.reach(me, other)).await;
        calls.push((engine, call));
    }
    // Each exists by now.
    for me in ["a", "b", "c"] {
        cluster.world.tell(me, Do::Succeed);
    }
    let mut ended = Vec::new();
    for (engine, call) in calls {
        ended.push((soon(call).await.unwrap(), engine));
    }
    let (first, engine) = ended.remove(0);
    is_circle(
        first,
        "actor/link/b waits for actor/link/c, which waits for actor/link/a, which waits for actor/link/b",
    );
    for (result, _) in &ended {
        assert_eq!(*result.as_ref().unwrap(), 1);
    }
    for (id, touched) in [("a", 2), ("b", 1), ("c", 2)] {
        assert_eq!(
            soon(link(&engine, id).await.touch()).await.unwrap(),
            touched
        );
    }
}

#[tokio::test]
async fn an_exclusive_workflows_step_at_one_engine_and_a_method_at_another() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    let (a, b) = (link(&one, "a").await, link(&two, "b").await);
    let at_b = held(&cluster, "b", b.reach("b", "a")).await;
    let at_a = held(&cluster, "a", a.alone("a", "b")).await;
    cluster.world.tell("b", Do::Succeed);
    cluster.world.tell("a", Do::Succeed);
    let ended = soon(at_b).await.unwrap();
    is_circle(ended, "actor/link/a waits for actor/link/a/alone/");
    assert_eq!(soon(at_a).await.unwrap().unwrap(), 1);
    assert_eq!(soon(a.touch()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_returned_workflows_child_at_one_engine_and_a_method_at_another() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    let (a, b) = (link(&one, "a").await, link(&two, "b").await);
    link(&one, "c").await;
    let at_b = held(&cluster, "b", b.reach("b", "a")).await;
    let at_a = held(&cluster, "c", a.ask("c", "b")).await;
    cluster.world.tell("b", Do::Succeed);
    cluster.world.tell("c", Do::Succeed);
    let said = soon(at_b).await.unwrap();
    is_circle(
        said,
        ", which waits for kid, which waits for actor/link/b, which waits for actor/link/a",
    );
    assert_eq!(soon(at_a).await.unwrap().unwrap(), 1);
    assert_eq!(soon(a.touch()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_method_that_deletes_what_waits_for_its_actor() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    let (a, b) = (link(&one, "a").await, link(&two, "b").await);
    let at_a = held(&cluster, "a", a.end("a", "b")).await;
    let at_b = held(&cluster, "b", b.reach("b", "a")).await;
    cluster.world.tell("a", Do::Succeed);
    cluster.world.tell("b", Do::Succeed);
    is_circle(soon(at_a).await.unwrap(), "`delete` of actor/link/b");
    assert_eq!(soon(at_b).await.unwrap().unwrap(), 1);
    assert_eq!(soon(b.touch()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_query_does_not_wait_for_an_actor_that_is_on_its_way() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    let (a, b) = (link(&one, "a").await, link(&two, "b").await);
    assert_eq!(soon(b.touch()).await.unwrap(), 1);
    let at_a = held(&cluster, "a", a.look("a", "b")).await;
    let at_b = held(&cluster, "b", b.reach("b", "a")).await;
    // Somebody at the first engine waits for it.
    let mut wanted = Box::pin(link(&one, "b").await.touch().into_future());
    tokio::select! {
        biased;
        _ = &mut wanted => panic!("it is busy"),
        () = ready(()) => {}
    }
    cluster.world.tell("b", Do::Succeed);
    cluster.world.tell("a", Do::Succeed);
    assert_eq!(soon(at_a).await.unwrap().unwrap(), 1);
    assert_eq!(soon(at_b).await.unwrap().unwrap(), 1);
    assert_eq!(soon(wanted).await.unwrap(), 2);
}

/// They wait as long as others wait for each other, and are looked at as often.
#[tokio::test]
async fn who_waits_for_long_at_other_engines_is_in_no_circle() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker().await, cluster.worker().await);
    // From one engine to the other and back: the last one is only slow.
    let (c, d, e) = (
        link(&one, "c").await,
        link(&two, "d").await,
        link(&one, "e").await,
    );
    let at_e = held(&cluster, "e", e.stay("e")).await;
    let at_d = held(&cluster, "d", d.reach("d", "e")).await;
    let at_c = held(&cluster, "c", c.reach("c", "d")).await;
    cluster.world.tell("c", Do::Succeed);
    cluster.world.tell("d", Do::Succeed);
    for round in ["first", "second"] {
        let (a, b) = (format!("{round} a"), format!("{round} b"));
        let (one, two) = (link(&one, &a).await, link(&two, &b).await);
        let at_a = held(&cluster, &a, one.reach(&*a, &*b)).await;
        let at_b = held(&cluster, &b, two.reach(&*b, &*a)).await;
        cluster.world.tell(&a, Do::Succeed);
        cluster.world.tell(&b, Do::Succeed);
        is_circle(soon(at_a).await.unwrap(), &b);
        assert_eq!(soon(at_b).await.unwrap().unwrap(), 1);
    }
    assert!(!at_c.is_finished() && !at_d.is_finished() && !at_e.is_finished());
    cluster.world.tell("e", Do::Succeed);
    assert_eq!(soon(at_e).await.unwrap().unwrap(), 0);
    assert_eq!(soon(at_d).await.unwrap().unwrap(), 1);
    assert_eq!(soon(at_c).await.unwrap().unwrap(), 1);
}
