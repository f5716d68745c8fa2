//! A resource is not an argument of the call.

use keepstep::step;

struct Db;

#[step]
async fn save(order: u64, #[resource] db: &Db) {
    let _ = (order, db);
}

fn main() {
    let _ = save(1, &Db);
}
