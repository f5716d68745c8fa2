//! What a body is given is what the constructor took, whatever its form.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use keepstep::{Engine, Workflow, step};

struct Db(u64);

mod hidden {
    pub type Result = std::result::Result<keepstep::Workflow<String>, std::fmt::Error>;
}

#[step]
async fn borrowed(text: &str, list: &[u8], path: &Path, map: &HashMap<String, u8>, number: &u64) -> String {
    format!("{text} {list:?} {} {} {number}", path.display(), map["a"])
}

#[step(codec = "bincode")]
fn patterns(mut a: i64, (b, c): (i64, i64), _: u8, [d, ..]: [i64; 2]) -> i64 {
    a *= 1000;
    a + b * 100 + c * 10 + d
}

#[step]
async fn resources(before: u64, #[resource] db: &Db, between: u64, #[resource] shared: Arc<Db>, after: u64) -> [u64; 5] {
    [before, db.0, between, shared.0, after]
}

#[step]
fn blocking(#[resource] db: &Db, text: &str) -> Result<String, std::fmt::Error> {
    Ok(format!("{text} {}", db.0))
}

#[step]
async fn fib(n: u64) -> anyhow::Result<Workflow<u64>> {
    Ok(if n <= 1 { Workflow::value(n) } else { add(fib(n - 1), fib(n - 2)) })
}

#[step(name = "add two", retries = 0)]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[step]
async fn alias(text: String) -> hidden::Result {
    Ok(blocking(text))
}

#[step(retries = 0)]
async fn fails() -> Result<(), &'static str> {
    Err("on purpose")
}

struct Account;

impl Account {
    #[step]
    async fn associated(id: u64) -> u64 {
        id + 1
    }
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let engine = Engine::builder().resource(Db(7)).open("memory:").await?;

    let map = HashMap::from([("a".to_string(), Workflow::value(3u8))]);
    let text = borrowed("text", [1, 2].as_slice(), "some/path", map, add(1, 1));
    assert_eq!(engine.run("borrowed", text).await?, "text [1, 2] some/path 3 2");
    assert_eq!(engine.run("patterns", patterns(1, (2, 3), 0, [4, 5])).await?, 1234);
    assert_eq!(engine.run("resources", resources(1, 2, 3)).await?, [1, 7, 2, 7, 3]);
    assert_eq!(engine.run("fib", fib(10)).await?, 55);
    assert_eq!(engine.run("alias", alias("text")).await?, "text 7");
    assert_eq!(engine.run("associated", Account::associated(1)).await?, 2);
    assert!(engine.run("fails", fails()).await.is_err());
    Ok(())
}
