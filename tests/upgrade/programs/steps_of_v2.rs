//! What the second version has, forgetful or not.

use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

/// A field came, with a default, and another one went.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    #[serde(default)]
    discount: u64,
    to: String,
    cents: u64,
}

#[step(name = "shop/load")]
async fn load(cents: u64) -> Order {
    println!("load runs");
    let (to, discount) = ("Ann".into(), 0);
    Order {
        discount,
        to,
        cents,
    }
}

#[step(name = "shop/gate")]
async fn gate() {}

#[step(name = "shop/price")]
async fn price(order: Order) -> u64 {
    assert_eq!(order.to, "Ann");
    order.cents - order.discount
}

#[derive(Debug, Serialize, Deserialize)]
struct Money {
    cents: u64,
    currency: String,
}

/// Other parameters, in another order.
#[step(name = "shop/charge", version = 2, accepts = 1, migrate = from_v1)]
async fn charge(to: String, money: Money) -> String {
    format!("{to} paid {} {}", money.cents, money.currency)
}

fn from_v1(cents: u64, to: String) -> (String, Money) {
    let currency = "EUR".into();
    (to, Money { cents, currency })
}

/// The function of the first version has another name now, and stays as long as there are calls of it.
#[step(name = "shop/notify", version = 1)]
async fn notify_v1(what: String) -> String {
    format!("told as before that {what}")
}

#[step(name = "shop/notify", version = 2)]
async fn notify(what: String, _by: String) -> String {
    format!("told that {what}")
}
