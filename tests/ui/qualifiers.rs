//! What may not stand before or in the parentheses of a step.

use keepstep::{Workflow, step};

#[step]
const fn constant() -> u8 {
    1
}

#[step]
unsafe fn not_safe() {}

#[step]
extern "C" fn foreign() {}

#[step]
unsafe extern "C" fn variadic(a: u8, _: ...) {}

#[step]
#[step(retries = 1)]
async fn twice() {}

struct Account(u64);

impl Account {
    #[step]
    async fn charge(&self, amount: u64) -> u64 {
        self.0 - amount
    }

    #[step]
    async fn close(self) {}

    #[step]
    async fn open(id: u64) -> Self {
        Account(id)
    }
}

/// Calls are checked against what was probably meant.
fn main() {
    let _: Workflow<u8> = constant();
    let _: Workflow<()> = not_safe();
    let _: Workflow<u64> = Account(1).charge(1);
}
