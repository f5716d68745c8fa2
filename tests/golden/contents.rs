//! What is in the stores: runs in every status, with everything that can be stored of one; actors; schedules.
//!
//! The steps stay as they are: stored runs call them. What is written only once tells whether a step ran again: it knows whether it
//! runs in the program that wrote the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Error, StoredState, SuspendReason, all};
use serde::{Deserialize, Serialize};

/// Whether gates are open: they are where stores are read, and not where they are written.
static OPEN: AtomicBool = AtomicBool::new(false);

pub(crate) fn open_gates() {
    OPEN.store(true, Ordering::SeqCst);
}

/// What keeps the writing program from finishing a run.
#[step(name = "golden/gate")]
async fn gate() {
    while !OPEN.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

/// Says in which program it ran.
#[step(name = "golden/written")]
async fn written() -> bool {
    !OPEN.load(Ordering::SeqCst)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    id: u64,
    lines: Vec<(String, i64)>,
    note: Option<String>,
}

fn order() -> Order {
    Order {
        id: 17,
        lines: vec![("piano".into(), -5), ("stool".into(), 300)],
        note: None,
    }
}

#[step(name = "golden/order")]
async fn make_order(was_written: bool) -> Order {
    assert!(was_written, "a step whose result was stored ran again");
    order()
}

#[step(name = "golden/total", version = 3, codec = "bincode")]
async fn total(order: Order, more: Vec<i64>) -> i64 {
    order.lines.iter().map(|(_, n)| n).chain(&more).sum()
}

#[step(name = "golden/zeros")]
async fn zeros(n: usize) -> Vec<u8> {
    vec![0; n]
}

#[step(name = "golden/length")]
async fn length(bytes: Vec<u8>) -> i64 {
    bytes.len() as i64
}

#[step(name = "golden/volatile", checkpoint = false)]
async fn volatile() -> i64 {
    4
}

#[step(name = "golden/fib")]
async fn fib(n: u64) -> Workflow<i64> {
    match n {
        0 | 1 => total(
            Order {
                lines: vec![],
                ..order()
            },
            vec![n as i64],
        )
        .after(&gate()),
        n => sum([fib(n - 1), fib(n - 2)]),
    }
}

#[step(name = "golden/sum")]
async fn sum(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[step(name = "golden/count")]
async fn count(left: u64, sum: i64) -> Workflow<i64> {
    match left {
        0 => Workflow::value(sum).after(&gate()),
        n => count(n - 1, sum + 1),
    }
}

#[step(name = "golden/fail", retries = 0)]
async fn fail() -> anyhow::Result<i64> {
    anyhow::ensure!(
        OPEN.load(Ordering::SeqCst),
        "not in the program that wrote it"
    );
    Ok(5)
}

#[step(name = "golden/again", retries = 9, backoff = "3s..3s")]
async fn again() -> anyhow::Result<i64> {
    anyhow::ensure!(OPEN.load(Ordering::SeqCst), "not yet");
    Ok(i64::from(context().attempt() > 1))
}

#[step(name = "golden/caught")]
async fn caught(result: Result<i64, StepError>) -> i64 {
    match result {
        Ok(_) => 0,
        Err(error) => error.attempts.into(),
    }
}

#[derive(Serialize, Deserialize)]
struct Account {
    cents: u64,
    log: Vec<String>,
}

#[virtual_actor(name = "golden/account", version = 2, migrate = never)]
impl Account {
    pub fn new(cents: u64) -> Self {
        let log = vec!["made".into()];
        Account { cents, log }
    }

    pub async fn add(&mut self, cents: u64, why: String) -> u64 {
        self.cents += cents;
        self.log.push(why);
        self.cents
    }

    pub async fn get(&self) -> (u64, usize) {
        (self.cents, self.log.len())
    }
}

fn never(_old: StoredState) -> Result<Account, String> {
    Err("nothing is older".into())
}

const ACCOUNT: &str = "golden-account";
/// What is in the account after all calls that change it. A store that is older than a day is reminded with one that changes nothing.
const AFTER_ALL: u64 = 13;
/// A time limit that no store lives to see.
const A_LIFE: Duration = Duration::from_secs(3_000_000_000);
const SCHEDULE: &str = "golden-schedule";

/// Writes a store, and leaves it as a crash does.
pub(crate) async fn write(url: &str) -> Vec<&'static str> {
    let engine = Engine::builder()
        .build_id("golden")
        .compact_above(4 << 10)
        .open(url)
        .await
        .unwrap();
    let scene = Scene { engine: &engine };
    let mut ids = Vec::new();
    for (id, workflow) in runs() {
        scene.write(id, workflow).await;
        ids.push(id);
    }
    let account = Account::on(&engine)
        .get_or_create(ACCOUNT, 5)
        .await
        .unwrap();
    account.add(7, "first").id("call-1").await.unwrap();
    account
        .add(1, "soon")
        .delay(Duration::from_millis(100))
        .send()
        .await
        .unwrap();
    account
        .add(0, "daily")
        .every("daily", Duration::from_secs(86_400))
        .await
        .unwrap();
    ids.push(ACCOUNT);
    #[cfg(feature = "schedules")]
    {
        engine
            .schedule(SCHEDULE, "0 3 1 1 *", total(order(), vec![1]))
            .await
            .unwrap();
        ids.push(SCHEDULE);
    }
    ids
}

/// Every run, and how it is made.
fn runs() -> Vec<(&'static str, Workflow<i64>)> {
    let paid = || total(make_order(written()), [volatile(), Workflow::value(1)]);
    vec![
        (
            "successful",
            paid()
                .name("paid")
                .metadata(serde_json::json!({"by": "Ann"})),
        ),
        ("failed", fail()),
        ("canceled", paid().after(&gate())),
        ("suspended", paid().after(&gate())),
        ("running", paid().after(&gate())),
        ("retrying", again()),
        ("caught", caught(fail().catch()).after(&gate())),
        ("sleeping", paid().after(&sleep(Duration::from_secs(6)))),
        (
            "event",
            total(event::<Order>("order").timeout(A_LIFE), [sum(vec![1])]),
        ),
        (
            "event-sent",
            total(event::<Order>("order"), [sum(vec![1])]).after(&gate()),
        ),
        ("race", length_of_race()),
        ("expanding", fib(4)),
        ("compacted", count(300, 0)),
        (
            "large",
            sum([
                length(zeros(100_000)).after(&gate()),
                length(zeros(70_000).name("zeros")),
            ]),
        ),
        (
            "parent",
            sum(all([child("child", paid().after(&gate())), paid()])),
        ),
    ]
}

fn length_of_race() -> Workflow<i64> {
    either(race(gate(), sum(vec![3]).after(&gate())))
}

#[step(name = "golden/either")]
async fn either(first: Either<(), i64>) -> i64 {
    first.right().unwrap_or(3)
}

/// The output of a run.
fn output_of(id: &str) -> i64 {
    match id {
        "failed" => 5,
        "retrying" | "caught" => 1,
        "event" | "event-sent" => 296,
        "race" | "expanding" => 3,
        "compacted" => 300,
        "large" => 170_000,
        "parent" => 600,
        _ => 300,
    }
}

/// An engine on a store.
pub(crate) struct Scene<'a> {
    pub(crate) engine: &'a Engine,
}

impl Scene<'_> {
    /// Brings a run to where it is to be found.
    async fn write(&self, id: &str, workflow: Workflow<i64>) {
        let engine = self.engine;
        let handle = engine.start(id, workflow).await.unwrap();
        match id {
            "successful" => assert_eq!(handle.await.unwrap(), output_of(id)),
            "failed" => drop(handle.await.unwrap_err()),
            "canceled" => engine.cancel(id).await.unwrap(),
            _ => {
                self.until_it_waits(id).await;
                if id == "suspended" {
                    engine.suspend(id).await.unwrap();
                }
                if id == "event-sent" {
                    engine.send_event(id, "order", &order()).await.unwrap();
                }
            }
        }
    }

    /// Waits until all is durable that comes before what the run waits for.
    async fn until_it_waits(&self, id: &str) {
        loop {
            let metadata = self.engine.metadata(id).await.unwrap();
            let progress = metadata.progress;
            let is_there = match id {
                "suspended" | "running" | "sleeping" | "large" => progress.done >= 3,
                "retrying" => metadata.wake_at.is_some(),
                "event" | "event-sent" | "race" => true,
                "caught" => progress.failed == 1,
                // Every expansion is there, up to the gates.
                "expanding" => progress.total == 23,
                "compacted" => progress.total >= 302,
                "parent" => {
                    let child = self.engine.metadata("child").await;
                    progress.done >= 4 && child.is_ok_and(|child| child.progress.done >= 3)
                }
                other => panic!("{other}"),
            };
            if is_there {
                assert!(id != "compacted" || metadata.journal_bytes < 20_000);
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The run is as the other program left it.
    pub(crate) async fn is_as_stored(&self, id: &str) {
        let status = match id {
            ACCOUNT | SCHEDULE => return,
            "successful" => Status::Successful,
            "failed" => Status::Failed,
            "canceled" => Status::Canceled,
            "suspended" => Status::Suspended,
            _ => Status::Resumable,
        };
        assert_eq!(self.engine.status(id).await.unwrap(), status, "{id}");
        let metadata = self.engine.metadata(id).await.unwrap();
        assert_eq!(metadata.build.id, "golden", "{id}");
        match id {
            "successful" => {
                assert_eq!(metadata.user, Some(serde_json::json!({"by": "Ann"})));
                let output = self.engine.step_output::<i64>(id, "paid").await;
                assert_eq!(output.unwrap(), output_of(id));
            }
            "failed" => assert!(metadata.error.is_some()),
            "suspended" => assert_eq!(metadata.suspended, Some(SuspendReason::Requested)),
            _ => {}
        }
        drop(self.engine.graph(id).await.unwrap());
    }

    /// The run goes on to its end.
    pub(crate) async fn goes_on(&self, id: &str) {
        match id {
            ACCOUNT => self.account().await,
            SCHEDULE => self.schedule().await,
            "canceled" => {}
            "parent" => {
                // Its child is a run of its own.
                drop(self.engine.resume::<i64>("child").await.unwrap());
                self.ends(id).await;
            }
            "event" => {
                let handle = self.engine.resume::<i64>(id).await.unwrap();
                self.engine.send_event(id, "order", &order()).await.unwrap();
                assert_eq!(handle.await.unwrap(), output_of(id));
            }
            _ => self.ends(id).await,
        }
    }

    async fn ends(&self, id: &str) {
        let handle = self.engine.resume::<i64>(id).await.unwrap();
        // What hangs says where.
        let Ok(output) = tokio::time::timeout(Duration::from_secs(20), handle).await else {
            let metadata = self.engine.metadata(id).await.unwrap();
            let graph = self.engine.graph(id).await.unwrap().to_mermaid();
            panic!(
                "{metadata:#?}\n{graph}\n{:?}",
                self.engine.list(keepstep::Filter::all()).await
            );
        };
        assert_eq!(output.unwrap(), output_of(id), "{id}");
    }

    async fn account(&self) {
        let account = Account::on(self.engine).get_actor(ACCOUNT).await.unwrap();
        // The call of this id was made.
        let again = account.add(7, "again").id("call-1").await;
        assert_eq!(again.unwrap(), 12);
        // The one that was sent comes, late as it is.
        let arrived = async {
            while account.get().await.unwrap().0 != AFTER_ALL {
                tokio::task::yield_now().await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(20), arrived).await;
        arrived.expect("the call that was sent arrives");
        let reminders = account.reminders().await.unwrap();
        assert_eq!(reminders.len(), 1);
    }

    #[cfg(feature = "schedules")]
    async fn schedule(&self) {
        let schedules = self.engine.schedules().await.unwrap();
        assert_eq!(schedules[0].name, SCHEDULE);
        assert!(schedules[0].next_at.is_some());
    }

    #[cfg(not(feature = "schedules"))]
    async fn schedule(&self) {}

    /// The run has ended, and its output is there.
    pub(crate) async fn has_ended(&self, id: &str) {
        match id {
            ACCOUNT => {
                let account = Account::on(self.engine).get_actor(id).await.unwrap();
                let (balance, n_calls) = account.get().await.unwrap();
                assert_eq!(balance, AFTER_ALL);
                assert!(n_calls >= 3, "{n_calls}");
            }
            SCHEDULE => {}
            "canceled" => {
                let output = self.engine.output::<i64>(id).await;
                assert!(matches!(output, Err(Error::Canceled { .. })), "{output:?}");
            }
            id => {
                let output = self.engine.output::<i64>(id).await.unwrap();
                assert_eq!(output, output_of(id), "{id}");
            }
        }
    }
}
