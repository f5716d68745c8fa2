//! Actors and schedules after every prefix of their writes, and after kills.

use std::sync::Arc;
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::storage::fault::{Recorded, replay};
use keepstep::storage::{Storage, memory};
use keepstep::{Clock, Missed};
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

/// An account with the calls that it took, in their order.
#[derive(Serialize, Deserialize)]
struct Account {
    cents: i64,
    calls: Vec<String>,
}

#[virtual_actor(name = "crash/account")]
impl Account {
    fn new(cents: i64) -> Self {
        let calls = Vec::new();
        Self { cents, calls }
    }

    pub(crate) async fn deposit(
        &mut self,
        cents: i64,
        note: String,
        #[resource] ledger: &Ledger,
    ) -> i64 {
        ledger.write(&format!("deposit {note}"));
        self.cents += cents;
        self.calls.push(note);
        self.cents
    }

    pub(crate) async fn bill(&mut self, note: String) -> Workflow<i64> {
        self.cents -= 1;
        self.calls.push(note.clone());
        billed(self.cents, note)
    }

    #[exclusive]
    pub(crate) async fn settle(&mut self, note: String) -> Workflow<i64> {
        self.cents -= 1;
        self.calls.push(note.clone());
        billed(self.cents, note)
    }

    pub(crate) async fn look(&self) -> (i64, Vec<String>) {
        (self.cents, self.calls.clone())
    }
}

#[step]
async fn billed(cents: i64, note: String, #[resource] ledger: &Ledger) -> i64 {
    ledger.write(&format!("billed {note}"));
    cents
}

#[step]
async fn both(a: i64, b: i64) -> i64 {
    a + b
}

async fn engine_on(store: Arc<dyn Storage>, ledger: &Ledger, clock: &Clock) -> Engine {
    let builder = Engine::builder()
        .storage(store)
        .seed(7)
        .clock(clock.clone());
    builder
        .resource(ledger.clone())
        .resume_on_open(true)
        .build()
        .await
        .unwrap()
}

/// A day in the life of an account: every way to call it. All of it has ids, so it can be said again.
async fn day(engine: &Engine, clock: &Clock) -> i64 {
    let account = Account::on(engine).get_or_create("a", 100).await.unwrap();
    account.deposit(1, "awaited").id("1").await.unwrap();
    account.deposit(2, "sent").id("2").send().await.unwrap();
    account
        .deposit(4, "planned")
        .id("3")
        .delay(Duration::from_secs(60))
        .send()
        .await
        .unwrap();
    account.bill("bill").id("4").await.unwrap();
    account.settle("settle").id("5").send().await.unwrap();
    account.deposit(8, "behind").id("6").await.unwrap();
    engine
        .schedule("s", "* * * * *", billed(0, "scheduled".to_owned()))
        .missed(Missed::One)
        .await
        .unwrap();
    let steps = both(
        account.deposit(16, "step").step(),
        account.bill("step bill").step(),
    );
    let output = engine.run("steps", steps).await.unwrap();
    tokio::time::sleep(Duration::from_secs(150)).await;
    engine.remove_schedule("s").await.unwrap();
    let _ = clock;
    output
}

const NOTES: [&str; 7] = [
    "awaited", "sent", "planned", "bill", "settle", "behind", "step",
];

#[tokio::test(start_paused = true)]
async fn actors_and_schedules_go_on_after_every_prefix_of_their_writes() {
    let clock = Clock::tokio();
    let recorded = Arc::new(Recorded::new(memory()));
    let ledger = Ledger::in_memory();
    let engine = engine_on(recorded.clone(), &ledger, &clock).await;
    day(&engine, &clock).await;
    drop(engine);
    let log = recorded.log();
    assert!(log.len() > 20, "{} writes", log.len());

    for writes in 0..=log.len() {
        let store = memory();
        replay(&log[..writes], &*store).await.unwrap();
        let ledger = Ledger::in_memory();
        let engine = engine_on(store.clone(), &ledger, &clock).await;
        day(&engine, &clock).await;
        let account = Account::on(&engine).get_actor("a").await.unwrap();
        let (cents, calls) = account.look().await.unwrap();
        assert_eq!(
            cents,
            100 + 1 + 2 + 4 + 8 + 16 - 3,
            "after {writes} writes: {calls:?}"
        );
        let mut sorted: Vec<_> = calls.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let mut expected = [&NOTES[..], &["step bill"]].concat();
        expected.sort_unstable();
        assert_eq!(sorted, expected, "each call once, after {writes} writes");
        // What was made in order stays in order.
        let place = |note: &str| calls.iter().position(|call| call == note).unwrap();
        let in_order = ["awaited", "sent", "bill", "settle", "behind"].map(place);
        assert!(in_order.is_sorted(), "after {writes} writes: {calls:?}");
        // No run is left in the middle, and none of a minute is there twice.
        let runs = engine
            .list(keepstep::Filter::all().limit(1000))
            .await
            .unwrap()
            .runs;
        for run in &runs {
            assert_eq!(
                run.status,
                Status::Successful,
                "{} after {writes} writes",
                run.id
            );
        }
        let bills = runs
            .iter()
            .filter(|run| run.id.contains("/bill/") || run.id.contains("/settle/"));
        assert_eq!(bills.count(), 3, "after {writes} writes");
        let minutes = runs.iter().filter(|run| run.id.starts_with("s@")).count();
        // Two or three before the crash and as many after it, and one for those in between.
        assert!(
            (2..=7).contains(&minutes),
            "{minutes} after {writes} writes"
        );
        engine.shutdown().await.unwrap();
    }
}
