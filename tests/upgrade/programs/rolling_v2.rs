//! The version that takes over: a step takes other arguments, and a new one follows.

mod rolling;

use keepstep::prelude::*;

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

fn main() {
    rolling::drive("v2", order);
}
