//! The first version of a program, which is killed while a run waits.

mod driver;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    cents: u64,
    to: String,
    coupon: String,
}

#[step(name = "shop/load")]
async fn load(cents: u64) -> Order {
    println!("load runs");
    let (to, coupon) = ("Ann".into(), "none".into());
    Order { cents, to, coupon }
}

/// This version never gets past it.
#[step(name = "shop/gate")]
async fn gate() {
    println!("held");
    std::future::pending().await
}

#[step(name = "shop/price")]
async fn price(order: Order) -> u64 {
    order.cents
}

#[step(name = "shop/charge")]
async fn charge(cents: u64, to: String) -> String {
    format!("{to} paid {cents}")
}

#[step(name = "shop/notify")]
async fn notify(what: String) -> String {
    format!("told that {what}")
}

#[step(name = "shop/ship")]
async fn ship(what: String) -> String {
    format!("shipped, {what}")
}

fn order() -> Workflow<String> {
    // Once the gate begins, the order is durable.
    let loaded = load(500);
    let cents = price(&loaded).after(&gate().after(&loaded));
    ship(notify(charge(cents, "Ann")))
}

fn main() {
    driver::drive("v1", order());
}
