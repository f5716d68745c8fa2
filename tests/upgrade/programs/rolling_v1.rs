//! The version that is being replaced.

mod rolling;

use keepstep::prelude::*;

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

fn main() {
    rolling::drive("v1", order);
}
