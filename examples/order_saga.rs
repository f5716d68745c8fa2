//! An order that reserves, charges and ships. What fails is tried again; what cannot be mended is undone, last step first.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    item: String,
    cents: u64,
    country: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Outcome {
    Shipped { parcel: String },
    Undone { why: String },
}

#[step]
async fn reserve(order: &Order, #[resource] world: &Arc<World>) -> String {
    world.effect("reserve", &order.item)
}

/// The payment service takes the money, and its first answer gets lost. The step runs again, and the key, the same on every
/// attempt, keeps the customer from paying twice.
#[step(retries = 4, backoff = "10ms..100ms")]
async fn charge(
    order: &Order,
    _reservation: String,
    #[resource] world: &Arc<World>,
) -> Result<String> {
    let payment = world.pay_once(&context().idempotency_key(), order.cents);
    ensure!(context().attempt() > 1, "the connection was closed");
    Ok(payment)
}

#[step(retries = 1, backoff = "10ms")]
async fn ship(order: &Order, _payment: String, #[resource] world: &Arc<World>) -> Result<String> {
    ensure!(order.country != "Atlantis", "no carrier goes to Atlantis");
    Ok(world.effect("ship", &order.item))
}

#[step]
async fn release(reservation: String, #[resource] world: &Arc<World>) {
    world.effect("undo", &reservation);
}

#[step]
async fn refund(payment: String, #[resource] world: &Arc<World>) {
    world.effect("undo", &payment);
}

/// Sees how each step ended, and returns what is to be done about it.
#[step]
async fn settle(
    reserved: Result<String, StepError>,
    charged: Result<String, StepError>,
    shipped: Result<String, StepError>,
) -> Workflow<Outcome> {
    let why = match shipped {
        Ok(parcel) => return Workflow::value(Outcome::Shipped { parcel }),
        Err(error) => error.to_string(),
    };
    let mut undone = Workflow::value(());
    if let Ok(payment) = charged {
        undone = refund(payment).after(&undone);
    }
    if let Ok(reservation) = reserved {
        undone = release(reservation).after(&undone);
    }
    Workflow::value(Outcome::Undone { why }).after(&undone)
}

fn place(order: Order) -> Workflow<Outcome> {
    let reserved = reserve(order.clone());
    let charged = charge(order.clone(), &reserved);
    let shipped = ship(order, &charged);
    settle(reserved.catch(), charged.catch(), shipped.catch())
}

#[tokio::main]
async fn main() -> keepstep::Result<()> {
    let world = Arc::new(World::default());
    let engine = Engine::builder()
        .resource(Arc::clone(&world))
        .open("memory:")
        .await?;
    let order = |country: &str| Order {
        item: "lamp".into(),
        cents: 4_900,
        country: country.into(),
    };

    let outcome = engine.run("order/1", place(order("Iceland"))).await?;
    println!("{outcome:?}");
    assert_eq!(
        outcome,
        Outcome::Shipped {
            parcel: "ship lamp".into()
        }
    );
    assert_eq!(world.take(), ["reserve lamp", "pay 4900", "ship lamp"]);

    let outcome = engine.run("order/2", place(order("Atlantis"))).await?;
    println!("{outcome:?}");
    assert!(
        matches!(outcome, Outcome::Undone { why } if why.contains("no carrier goes to Atlantis"))
    );
    let effects = [
        "reserve lamp",
        "pay 4900",
        "undo pay 4900",
        "undo reserve lamp",
    ];
    assert_eq!(world.take(), effects);
    engine.shutdown().await
}

/// The services outside: what really happened, in order.
#[derive(Debug, Default)]
struct World {
    effects: Mutex<Vec<String>>,
    paid: Mutex<Vec<String>>,
}

impl World {
    fn effect(&self, what: &str, of: &str) -> String {
        let effect = format!("{what} {of}");
        lock(&self.effects).push(effect.clone());
        effect
    }

    fn pay_once(&self, key: &str, cents: u64) -> String {
        let mut paid = lock(&self.paid);
        if paid.iter().any(|earlier| earlier == key) {
            return format!("pay {cents}");
        }
        paid.push(key.to_owned());
        self.effect("pay", &cents.to_string())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.effects))
    }
}

fn lock(list: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
