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

/// Any worker is offered it.
#[step(remote, name = "shop/stow")]
async fn stow(id: String, parcel: Parcel) -> String {
    format!("{id} zone {}", parcel.zone)
}

fn stowed(id: String) -> Workflow<String> {
    stow(
        id,
        Parcel {
            zone: "north".to_owned(),
        },
    )
}

/// What neither version reads of the other one, either.
#[derive(Serialize, Deserialize)]
struct Shelf {
    zone: String,
    parcels: u32,
}

#[virtual_actor(name = "shop/shelf")]
impl Shelf {
    pub fn new() -> Self {
        Self {
            zone: "north".to_owned(),
            parcels: 0,
        }
    }

    pub async fn put(&mut self) {
        self.parcels += 1;
    }

    pub async fn show(&self) -> String {
        format!("{} {}", self.zone, self.parcels)
    }
}

/// Puts something on a shelf of any version, or waits until something is on one of this.
fn shelf(engine: Engine, id: String, command: String) -> rolling::Done {
    Box::pin(async move {
        let shelves = Shelf::on(&engine);
        match &*command {
            "make" => drop(shelves.get_or_create(id).await?),
            "put" => shelves.get_actor(id).await?.put().send().await?,
            _ => {
                let shelf = shelves.get_actor(id).await?;
                let mut shown = shelf.show().await?;
                while shown.ends_with(" 0") {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    shown = shelf.show().await?;
                }
                println!("{shown}");
            }
        }
        Ok(())
    })
}

fn main() {
    rolling::drive("v2", order, parcel, stowed, shelf);
}
