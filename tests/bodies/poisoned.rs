//! Calls of actors that end their process.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::virtual_actor;
use serde::{Deserialize, Serialize};

use crate::common::{Do, Lab, World};

/// Where a process of its own finds its store, and where it writes down what it began.
const STORE: &str = "KEEPSTEP_TEST_POISONED_STORE";
const BEGUN: &str = "KEEPSTEP_TEST_POISONED_BEGUN";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Machine {
    done: Vec<u64>,
}

#[virtual_actor(name = "bodies/machine")]
impl Machine {
    pub fn new() -> Self {
        Self::default()
    }

    pub async fn work(&mut self, n: u64) {
        self.done.push(n);
    }

    pub async fn poison(&mut self) {
        let path = std::env::var(BEGUN).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let file = options.append(true).create(true).open(path);
        writeln!(file.unwrap(), "begun").unwrap();
        std::process::abort()
    }

    pub async fn held(&mut self, n: u64, #[resource] world: &World) -> Result<(), String> {
        world.act("held").await?;
        self.done.push(n);
        Ok(())
    }

    pub async fn done(&self) -> Vec<u64> {
        self.done.clone()
    }
}

/// What a service does at each start.
#[ignore = "it is a process of another test"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service() {
    let url = std::env::var(STORE).unwrap();
    let builder = Engine::builder().resume_on_open(true).max_interruptions(3);
    let engine = builder.resource(World::default()).open(&url).await.unwrap();
    let machines = Machine::on(&engine);
    let is_new = machines.get_actor("good").await.is_err();
    let bad = machines.get_or_create("bad").await.unwrap();
    if is_new {
        bad.work(1).send().await.unwrap();
        let good = machines.get_or_create("good").await.unwrap();
        good.work(1)
            .delay(Duration::from_millis(1))
            .send()
            .await
            .unwrap();
        bad.poison().send().await.unwrap();
    }
    // The first process may be gone before this is sent.
    bad.work(2).id("second").send().await.unwrap();
    let good = machines.get_actor("good").await.unwrap();
    while good.done().await.unwrap().is_empty() || bad.done().await.unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.shutdown().await.unwrap();
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn a_sent_call_that_ends_its_process_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sled:{}", dir.path().join("data").display());
    let begun = dir.path().join("begun");
    let mut n_deaths = 0;
    loop {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process
            .args(["--ignored", "--exact", "poisoned::service"])
            .env(STORE, &url)
            .env(BEGUN, &begun);
        let ended = process.output().unwrap();
        let n_begun = std::fs::read_to_string(&begun).unwrap_or_default();
        if ended.status.success() {
            assert_eq!(n_begun.lines().count(), 3, "after {n_deaths} deaths");
            break;
        }
        n_deaths += 1;
        assert!(n_deaths < 10, "{ended:?}");
        if n_deaths == 1 && n_begun.is_empty() {
            panic!("{ended:?}");
        }
    }
    // What stood behind it was done, and nothing twice.
    let engine = Engine::builder().resource(World::default()).open(&url);
    let engine = engine.await.unwrap();
    let machines = Machine::on(&engine);
    let bad = machines.get_actor("bad").await.unwrap();
    assert_eq!(bad.done().await.unwrap(), [1, 2]);
    let good = machines.get_actor("good").await.unwrap();
    assert_eq!(good.done().await.unwrap(), [1]);
    engine.shutdown().await.unwrap();
}

async fn opened(lab: &Lab, max_interruptions: u32) -> Engine {
    let builder = lab.builder().resume_on_open(true);
    let builder = builder.max_interruptions(max_interruptions);
    builder.build().await.unwrap()
}

/// How a call comes to be stored.
#[derive(Debug, Clone, Copy)]
enum Stored {
    Sent,
    Planned,
    Repeated,
}

#[tokio::test(start_paused = true)]
async fn a_stored_call_is_made_as_often_as_is_allowed() -> keepstep::Result<()> {
    for stored in [Stored::Sent, Stored::Planned, Stored::Repeated] {
        for max_interruptions in 1..=4 {
            let lab = Lab::new();
            lab.world.tell("held", Do::Hold);
            let mut engine = opened(&lab, max_interruptions).await;
            let machine = Machine::on(&engine).get_or_create("m").await?;
            let call = machine.held(1);
            match stored {
                Stored::Sent => call.send().await?,
                Stored::Planned => call.delay(Duration::from_secs(60)).send().await?,
                Stored::Repeated => call.every("often", Duration::from_secs(60)).await?,
            }
            drop(machine);
            for _ in 0..max_interruptions {
                lab.world.until("held").await;
                lab.crash(engine).await;
                lab.world.log();
                engine = opened(&lab, max_interruptions).await;
            }
            // It is not made again, and others are.
            let machine = Machine::on(&engine).get_actor("m").await?;
            machine.work(2).await?;
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            assert_eq!(machine.done().await?, [2], "{stored:?}");
            assert!(lab.world.log().is_empty(), "{stored:?}");
            assert!(machine.reminders().await?.is_empty());
            // A new one is a new one.
            lab.world.tell("held", Do::Succeed);
            machine.held(3).send().await?;
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(machine.done().await?, [2, 3], "{stored:?}");
            drop(machine);
            engine.shutdown().await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_call_ends_its_count() -> keepstep::Result<()> {
    let lab = Lab::new();
    let mut engine = opened(&lab, 3).await;
    for n in 0..4 {
        lab.world.tell("held", Do::Hold);
        let machine = Machine::on(&engine).get_or_create("m").await?;
        machine.held(n).send().await?;
        drop(machine);
        for _ in 0..2 {
            lab.world.until("held").await;
            lab.crash(engine).await;
            lab.world.log();
            engine = opened(&lab, 3).await;
        }
        lab.world.until("held").await;
        lab.world.tell("held", Do::Succeed);
        let machine = Machine::on(&engine).get_actor("m").await?;
        while machine.done().await?.len() as u64 <= n {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        lab.world.log();
    }
    engine.shutdown().await
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn a_shutdown_cuts_no_call_short() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sled:{}", dir.path().join("data").display());
    let world = World::default();
    let open = async || {
        let builder = Engine::builder().resume_on_open(true).max_interruptions(2);
        builder.resource(world.clone()).open(&url).await
    };
    world.tell("held", Do::Hold);
    let engine = open().await?;
    let machine = Machine::on(&engine).get_or_create("m").await?;
    machine.held(1).send().await?;
    drop(machine);
    world.until("held").await;
    engine.shutdown().await?;
    for _ in 0..4 {
        world.log();
        let engine = open().await?;
        world.until("held").await;
        engine.shutdown().await?;
    }
    world.tell("held", Do::Succeed);
    let engine = open().await?;
    let machine = Machine::on(&engine).get_actor("m").await?;
    while machine.done().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(machine);
    engine.shutdown().await
}
