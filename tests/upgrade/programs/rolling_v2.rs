//! The version that takes over: a step takes other arguments, and a new one follows.

mod rolling;

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

#[step(name = "shop/price")]
async fn price(order: String) -> u64 {
    rolling::work("price", &order).await;
    500
}

#[step(name = "shop/charge", version = 2, accepts = 1, migrate = in_euros)]
async fn charge(order: String, cents: u64, currency: String) -> String {
    rolling::work("charge", &order).await;
    format!("{order} paid {cents} {currency}")
}

fn in_euros(order: String, cents: u64) -> (String, u64, String) {
    (order, cents, "EUR".to_owned())
}

#[step(name = "shop/ship")]
async fn ship(order: String, paid: String) -> String {
    rolling::work("ship", &order).await;
    format!("{paid}, shipped")
}

#[step(name = "shop/thank")]
async fn thank(shipped: String) -> String {
    format!("{shipped}, thanked")
}

fn order(id: String) -> Workflow<String> {
    let cents = price(id.clone());
    let paid = charge(id.clone(), cents, "USD".to_owned());
    thank(ship(id, paid))
}

/// Neither version reads what the other one writes.
#[derive(Serialize, Deserialize)]
struct Parcel {
    zone: String,
}

#[step(name = "shop/deliver")]
async fn deliver(id: String, parcel: Parcel, how: String) -> String {
    format!("{id} zone {} {how}", parcel.zone)
}

fn parcel(id: String) -> Workflow<String> {
    let parcel = Parcel {
        zone: "north".to_owned(),
    };
    deliver(id, parcel, event::<String>("go"))
}

fn main() {
    rolling::drive("v2", order, parcel);
}
