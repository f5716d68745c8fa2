//! An async step moves between threads.

use std::cell::Cell;
use std::rc::Rc;

use keepstep::step;

async fn wait() {}

#[step]
async fn holds_rc(n: u64) -> u64 {
    let shared = Rc::new(n);
    wait().await;
    *shared
}

/// Not `Sync`, so a reference to it is not `Send`.
#[step]
async fn borrows_cell(cell: &Cell<u64>) -> u64 {
    wait().await;
    cell.get()
}

struct Connection(#[allow(dead_code)] Rc<u64>);

#[step]
async fn not_sync(#[resource] connection: &Connection) {
    let _ = connection;
}

fn main() {}
