//! `#[step]` goes on functions.

use keepstep::step;

#[step]
struct Order;

#[step]
pub enum Color {
    Red,
}

#[step]
impl Order {
    fn new() -> Self {
        Order
    }
}

#[step]
trait Billing {
    fn charge(order: u64) -> u64;
}

trait Shipping {
    #[step]
    fn ship(order: u64) -> u64;
}

#[step]
mod orders {}

#[step]
const LIMIT: u64 = 1;

#[step]
static NAME: &str = "name";

#[step]
type Orders = Vec<Order>;

#[step]
use std::vec::Vec as List;

fn main() {
    let _: (Color, Orders, List<u8>) = (Color::Red, vec![Order::new()], vec![]);
    let _ = (LIMIT, NAME);
}
