//! Every form of function that can be a step.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use keepstep::{Workflow, step};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
}

/// A resource.
struct Db;

mod fallible {
    pub type Result = std::result::Result<i64, std::fmt::Error>;
    pub mod generic {
        pub type Result<T> = std::result::Result<T, String>;
    }
    pub mod dynamic {
        pub type Result = std::result::Result<keepstep::Workflow<String>, std::fmt::Error>;
    }
}

#[step]
async fn nothing() {}

#[step]
fn nothing_blocking() -> () {}

#[step]
async fn one() -> i64 {
    1
}

#[step()]
fn blocking(a: i64) -> i64 {
    a
}

#[step]
pub async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[step]
pub(crate) async fn two_args(text: String) -> Result<i64, std::num::ParseIntError> {
    text.parse()
}

#[step]
async fn boxed_error() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err("no")?
}

#[step]
async fn anyhow_result() -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("no")
}

#[step]
fn io_result(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

#[step]
async fn alias() -> fallible::Result {
    Ok(1)
}

#[step]
async fn generic_alias() -> fallible::generic::Result<Order> {
    Err("no".into())
}

#[step]
async fn dynamic_alias() -> fallible::dynamic::Result {
    Ok(concat("a", "b"))
}

#[step]
async fn fib(n: u64) -> Workflow<u64> {
    if n <= 1 {
        return Workflow::value(n);
    }
    add_u64(fib(n - 1), fib(n - 2))
}

#[step]
async fn add_u64(a: u64, b: u64) -> u64 {
    a + b
}

#[step]
fn dynamic_result(n: u64) -> anyhow::Result<keepstep::Workflow<u64>> {
    anyhow::ensure!(n > 0, "zero");
    Ok(fib(n))
}

#[step]
async fn concat(a: &str, b: &str) -> String {
    tokio_free_yield().await;
    format!("{a}{b}")
}

async fn tokio_free_yield() {}

#[step]
async fn borrowed(order: &Order, items: &[Order], names: &HashMap<String, Vec<u8>>, number: &i64) -> usize {
    order.id as usize + items.len() + names.len() + *number as usize
}

#[step]
async fn patterns(mut a: i64, (b, c): (i64, i64), Order { id }: Order, [d, ..]: [i64; 2], _: i64, _unused: u8) -> i64 {
    a += b + c + d;
    a + id as i64
}

#[step]
async fn raw(r#type: String) -> String {
    r#type
}

#[step]
async fn r#match(r#fn: u8) -> u8 {
    r#fn
}

#[step]
async fn with_resources(a: i64, #[resource] db: &Db, #[resource] shared: Arc<Db>, b: i64, #[resource] client: &Arc<dyn Fn() + Send + Sync>) -> i64 {
    let _: &Db = db;
    let _: Arc<Db> = shared;
    client();
    a + b
}

#[step]
fn with_resources_blocking(#[resource] db: &Db, text: &str) -> usize {
    let _ = db;
    text.len()
}

#[step(
    name = "billing/charge",
    version = 2,
    retries = 5,
    backoff = "100ms..30s",
    timeout = "1.5m",
    checkpoint = false,
    codec = "bincode",
)]
async fn all_options(order: Order) -> u64 {
    order.id
}

#[step(codec = "msgpack", backoff = "2s", retries = 0u32)]
async fn other_options() {}

mod outer {
    use keepstep::step;

    pub mod inner {
        use keepstep::step;

        #[step]
        pub(in crate::outer) async fn visible_outside() -> u8 {
            super::private();
            1
        }
    }

    fn private() {}

    #[step]
    pub(super) async fn from_super() {
        let _ = inner::visible_outside();
    }
}

macro_rules! make {
    ($name:ident, $ty:ty) => {
        #[step]
        async fn $name(value: $ty, values: &[$ty]) -> $ty {
            let _ = values;
            value
        }
    };
}

make!(made_u8, u8);
make!(made_order, Order);

fn main() {
    #[step]
    async fn local(n: i64) -> i64 {
        n
    }

    let _: Workflow<()> = nothing();
    let _: Workflow<()> = nothing_blocking();
    let _: Workflow<i64> = add(100, one());
    let _: Workflow<i64> = local(blocking(add(&one(), 3)));
    let _: Workflow<i64> = two_args("7");
    let _: Workflow<()> = boxed_error();
    let _: Workflow<Vec<u8>> = anyhow_result();
    let _: Workflow<String> = io_result("path");
    let _: Workflow<i64> = alias();
    let order: Workflow<Order> = generic_alias();
    let _: Workflow<String> = dynamic_alias();
    let _: Workflow<u64> = fib(10);
    let _: Workflow<u64> = dynamic_result(fib(3));
    let text: Workflow<String> = concat("a", concat(String::from("b"), "c"));
    let names = HashMap::from([(String::new(), anyhow_result())]);
    let _: Workflow<usize> = borrowed(&order, vec![order.clone(), order.clone()], names, 7);
    let _: Workflow<i64> = patterns(1, (one(), one()), &order, [1, 2], 5, 6);
    let _: Workflow<String> = raw("x");
    let _: Workflow<u8> = r#match(1);
    let _: Workflow<i64> = with_resources(one(), 1);
    let _: Workflow<usize> = with_resources_blocking(text);
    let _: Workflow<u64> = all_options(order);
    let _: Workflow<()> = other_options();
    let _: Workflow<()> = outer::from_super();
    let _: Workflow<u8> = made_u8(1, [made_u8(2, [0; 3].as_slice())]);
    let _: Workflow<Order> = made_order(Order { id: 1 }, Vec::<Order>::new());
}
