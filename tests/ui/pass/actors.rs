//! Every form of actor.

use std::path::Path;
use std::sync::Arc;

use keepstep::{Engine, Workflow, virtual_actor};
use serde::{Deserialize, Serialize};

struct Db;

mod fallible {
    pub type Result<T> = std::result::Result<T, String>;
    pub mod plain {
        pub type Result = std::result::Result<u64, String>;
    }
}

/// An account.
#[derive(Serialize, Deserialize)]
pub struct Account {
    cents: i64,
    owner: String,
}

#[virtual_actor(name = "forms/account", version = 2, migrate = migrate)]
#[allow(clippy::new_ret_no_self)]
impl Account {
    /// What new accounts begin with.
    const START: i64 = 5;

    /// Opens an account for `owner`.
    pub async fn new(owner: &str, #[resource] db: &Db) -> Result<Self, std::fmt::Error> {
        let _ = db;
        Ok(Account {
            cents: Self::START,
            owner: owner.to_owned(),
        })
    }

    /// Pays in.
    pub async fn deposit(&mut self, cents: i64) -> i64 {
        self.change(cents)
    }

    pub fn plain(&mut self, (a, b): (i64, i64), r#type: &str, path: &Path) -> Result<Self, std::fmt::Error> {
        self.cents += a + b + r#type.len() as i64 + path.as_os_str().len() as i64;
        Ok(Account { cents: self.cents, owner: self.owner.clone() })
    }

    #[method(retries = 3, backoff = "1ms..2ms", timeout = "3s")]
    pub(crate) async fn with_options(&mut self, #[resource] db: Arc<Db>) -> fallible::Result<Workflow<i64>> {
        let _ = db;
        Ok(Workflow::value(self.cents))
    }

    #[exclusive]
    #[method(retries = 1)]
    pub async fn exclusive(&mut self) -> Workflow<Vec<i64>> {
        Workflow::value(vec![self.cents])
    }

    pub fn cents(&self) -> i64 {
        self.cents
    }

    pub async fn aliased(&self) -> fallible::plain::Result {
        Ok(1)
    }

    pub async fn aliased_change(&mut self) -> fallible::plain::Result {
        Ok(1)
    }

    pub async fn lent(&self, #[resource] db: &Db) -> fallible::Result<String> {
        let _ = db;
        Ok(self.owner.clone())
    }

    fn change(&mut self, cents: i64) -> i64 {
        self.cents += cents;
        self.cents
    }

    pub fn helper() -> u8 {
        1
    }
}

fn migrate(old: keepstep::StoredState) -> keepstep::Result<Account> {
    old.decode()
}

mod private {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Inner;

    #[virtual_actor]
    impl Inner {
        fn new() -> Self {
            Inner
        }

        pub(super) async fn poke(&mut self) -> Inner {
            Inner
        }
    }

    pub(crate) async fn run(engine: &Engine) -> keepstep::Result<()> {
        Inner::on(engine).get_or_create("i").await?.poke().await?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> keepstep::Result<()> {
    let engine = Engine::builder().resource(Db).resource(Arc::new(Db)).open("memory:").await?;
    let accounts: AccountActors = Account::on(&engine);
    let a: AccountRef = accounts.get_or_create("a", "Ada").await?;
    assert_eq!(a.deposit(1).await?, 6);
    let again: Account = a.plain((1, 2), "xy", Path::new("abc")).await?;
    assert_eq!(again.cents, 14);
    assert_eq!(a.with_options().await?, 14);
    assert_eq!(a.exclusive().await?, [14]);
    assert_eq!((a.cents().await?, a.aliased().await?, a.aliased_change().await?), (14, 1, 1));
    assert_eq!(a.lent().await?, "Ada");
    assert_eq!(Account::helper(), 1);
    let w: Workflow<i64> = a.deposit(Workflow::value(1)).step();
    assert_eq!(engine.run("w", w).await?, 15);
    private::run(&engine).await?;
    let a = Account::on(&engine).get_actor("a").await?;
    assert_eq!(a.id(), "a");
    engine.shutdown().await
}
