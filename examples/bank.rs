//! A bank that is killed again and again while money moves: at every restart, every cent is there.
//!
//! Accounts are virtual actors. A transfer is a workflow: it withdraws, then deposits, and pays back if it cannot. Each call is
//! a step, so it happens once, however often its process dies. This program starts itself as a child, which makes transfers,
//! kills it with `SIGKILL` at random moments, and starts it again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{ActorFilter, Filter};
use serde::{Deserialize, Serialize};

const ACCOUNTS: u64 = 8;
const START: i64 = 1_000;
const TRANSFERS: u64 = 200;
const KILLS: u32 = 12;

#[derive(Serialize, Deserialize)]
struct Account {
    cents: i64,
    is_closed: bool,
}

#[virtual_actor]
impl Account {
    fn new(cents: i64) -> Self {
        Account {
            cents,
            is_closed: false,
        }
    }

    pub async fn withdraw(&mut self, cents: i64) -> Result<i64, String> {
        if self.cents < cents {
            return Err(format!("{} is not enough for {cents}", self.cents));
        }
        self.cents -= cents;
        Ok(self.cents)
    }

    pub async fn deposit(&mut self, cents: i64) -> Result<i64, String> {
        if self.is_closed {
            return Err("the account is closed".to_owned());
        }
        self.cents += cents;
        Ok(self.cents)
    }

    /// Takes back what could not be deposited elsewhere, in whatever state the account is.
    pub async fn refund(&mut self, cents: i64) -> i64 {
        self.cents += cents;
        self.cents
    }

    pub async fn close(&mut self) {
        self.is_closed = true;
    }

    pub async fn balance(&self) -> i64 {
        self.cents
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    Done,
    Refused,
    PaidBack,
}

/// A saga: what was done is undone if the rest cannot be.
#[step]
async fn transfer(from: String, to: String, cents: i64) -> keepstep::Result<Workflow<Outcome>> {
    let account = Account::get_actor(&from).await?;
    let withdrawn = account.withdraw(cents).step().catch();
    Ok(then_deposit(withdrawn, from, to, cents))
}

#[step]
async fn then_deposit(
    withdrawn: Result<i64, StepError>,
    from: String,
    to: String,
    cents: i64,
) -> keepstep::Result<Workflow<Outcome>> {
    if withdrawn.is_err() {
        return Ok(Workflow::value(Outcome::Refused));
    }
    let account = Account::get_actor(&to).await?;
    let deposited = account.deposit(cents).step().catch();
    Ok(or_pay_back(deposited, from, cents))
}

#[step]
async fn or_pay_back(
    deposited: Result<i64, StepError>,
    from: String,
    cents: i64,
) -> keepstep::Result<Workflow<Outcome>> {
    if deposited.is_ok() {
        return Ok(Workflow::value(Outcome::Done));
    }
    let account = Account::get_actor(&from).await?;
    Ok(paid_back(account.refund(cents).step()))
}

#[step]
async fn paid_back(_balance: i64) -> Outcome {
    Outcome::PaidBack
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1) {
        Some(data) => bank(&data).await,
        None => robber(),
    }
}

/// What a user would write: it does not know whether it is the first to run.
async fn bank(data: &str) -> anyhow::Result<()> {
    keepstep::init(Engine::open(data).await?);
    let engine = keepstep::default_engine().await?;
    // What an earlier process left in the middle is brought to its end; then every cent must be somewhere.
    for (_, resumed) in engine.resume_all().await? {
        resumed?.await?;
    }
    for n in 0..ACCOUNTS {
        Account::get_or_create(format!("account {n}"), START).await?;
    }
    // Nothing can be paid into this one.
    Account::get_actor("account 0").await?.close().await?;
    println!("total {}", total().await?);

    let mut transfers = Vec::new();
    for n in 0..TRANSFERS {
        let (from, to) = (n * 7 % ACCOUNTS, (n * 3 + 1) % ACCOUNTS);
        let cents = i64::try_from(n * 37 % 400)?;
        let workflow = transfer(format!("account {from}"), format!("account {to}"), cents);
        transfers.push(engine.start(format!("transfer {n}"), workflow).await?);
    }
    let mut outcomes = Vec::new();
    for transfer in transfers {
        outcomes.push(transfer.await?);
    }
    println!("total {}", total().await?);
    let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
    let (done, refused, paid_back) = (
        count(Outcome::Done),
        count(Outcome::Refused),
        count(Outcome::PaidBack),
    );
    println!("{done} done, {refused} refused, {paid_back} paid back");
    let runs = engine.list(Filter::all().limit(1)).await?.runs.len();
    assert_eq!(runs, 1);
    engine.shutdown().await?;
    Ok(())
}

async fn total() -> keepstep::Result<i64> {
    let mut total = 0;
    for account in Account::list_actors(ActorFilter::all()).await?.actors {
        total += Account::get_actor(&account.id).await?.balance().await?;
    }
    Ok(total)
}

/// Kills the bank over and over, and counts the money each time.
fn robber() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let mut totals = 0;
    for n in 0..=KILLS {
        let mut child = spawn(data.path())?;
        let lines = match child.stdout.take() {
            Some(stdout) => BufReader::new(stdout).lines(),
            None => anyhow::bail!("the child has no output"),
        };
        let mut killer = None;
        for line in lines {
            let line = line?;
            if let Some(total) = line.strip_prefix("total ") {
                assert_eq!(total.parse::<i64>()?, START * i64::try_from(ACCOUNTS)?);
                totals += 1;
                if n < KILLS && killer.is_none() {
                    // Transfers are under way from here on.
                    let moment = Duration::from_millis(fastrand::u64(0..150));
                    let pid = child.id();
                    killer = Some(std::thread::spawn(move || {
                        std::thread::sleep(moment);
                        Command::new("kill").args(["-9", &pid.to_string()]).status()
                    }));
                }
            } else {
                println!("{line}");
            }
        }
        child.wait()?;
        if let Some(killer) = killer {
            drop(killer.join());
        }
    }
    println!("the money was counted {totals} times, after {KILLS} kills, and was all there");
    Ok(())
}

fn spawn(data: &Path) -> anyhow::Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(child)
}
