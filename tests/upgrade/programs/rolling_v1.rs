//! The version that is being replaced.

mod rolling;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

#[step(name = "shop/price")]
async fn price(order: String) -> u64 {
    rolling::work("price", &order).await;
    500
}

#[step(name = "shop/charge")]
async fn charge(order: String, cents: u64) -> String {
    rolling::work("charge", &order).await;
    format!("{order} paid {cents}")
}

#[step(name = "shop/ship")]
async fn ship(order: String, paid: String) -> String {
    rolling::work("ship", &order).await;
    format!("{paid}, shipped")
}

fn order(id: String) -> Workflow<String> {
    let cents = price(id.clone());
    ship(id.clone(), charge(id, cents))
}

/// Neither version reads what the other one writes.
#[derive(Serialize, Deserialize)]
struct Parcel {
    weight: u32,
}

#[step(name = "shop/deliver")]
async fn deliver(id: String, parcel: Parcel, how: String) -> String {
    format!("{id} weight {} {how}", parcel.weight)
}

fn parcel(id: String) -> Workflow<String> {
    let parcel = Parcel { weight: 7 };
    deliver(id, parcel, event::<String>("go"))
}

fn main() {
    rolling::drive("v1", order, parcel);
}
