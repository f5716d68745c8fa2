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

/// Any worker is offered it.
#[step(remote, name = "shop/stow")]
async fn stow(id: String, parcel: Parcel) -> String {
    format!("{id} weight {}", parcel.weight)
}

fn stowed(id: String) -> Workflow<String> {
    stow(id, Parcel { weight: 7 })
}

/// What neither version reads of the other one, either.
#[derive(Serialize, Deserialize)]
struct Shelf {
    weight: u32,
    parcels: u32,
}

#[virtual_actor(name = "shop/shelf")]
impl Shelf {
    pub fn new() -> Self {
        Self {
            weight: 7,
            parcels: 0,
        }
    }

    pub async fn put(&mut self) {
        self.parcels += 1;
    }

    pub async fn show(&self) -> String {
        format!("{} {}", self.weight, self.parcels)
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
    rolling::drive("v1", order, parcel, stowed, shelf);
}
