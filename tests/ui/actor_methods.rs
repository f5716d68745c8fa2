//! What cannot be a method of an actor.

use keepstep::{Workflow, virtual_actor};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[virtual_actor]
impl Counter {
    #[exclusive]
    pub fn new() -> Self {
        Counter { count: 0 }
    }

    pub async fn looks_and_goes_on(&self) -> Workflow<u64> {
        Workflow::value(self.count)
    }

    pub async fn looks_and_may_go_on(&self) -> Result<Workflow<u64>, String> {
        Ok(Workflow::value(self.count))
    }

    pub async fn consumes(self) -> u64 {
        self.count
    }

    pub async fn boxed(self: Box<Self>) -> u64 {
        self.count
    }

    pub async fn generic<T>(&mut self, _value: T) {}

    pub async fn borrows(&mut self, to: &mut u64) {
        *to = self.count;
    }

    pub async fn lends(&self) -> &u64 {
        &self.count
    }

    pub unsafe fn unsafely(&mut self) {}

    #[cfg(unix)]
    pub async fn sometimes(&mut self) {}

    #[exclusive]
    pub async fn exclusive_for_nothing(&mut self) -> u64 {
        self.count
    }

    #[exclusive(yes)]
    pub async fn exclusive_how(&mut self) -> Workflow<u64> {
        Workflow::value(self.count)
    }

    #[step(retries = 3)]
    pub async fn stepped(&mut self) {}

    #[method(retry = 3, checkpoint = false, timeout = "soon")]
    pub async fn optional(&mut self) {}

    #[method = "retries"]
    pub async fn assigned(&mut self) {}

    pub async fn get_or_create(&mut self) {}

    #[method(retries = 3)]
    fn helper(&mut self) {}

    #[method(name = "fine")]
    pub async fn also_fine(&mut self) {}

    #[method(name = "")]
    pub async fn nameless(&mut self) {}

    pub async fn fine(&mut self) -> u64 {
        self.count
    }
}

fn main() {
    let _ = Counter::new().fine();
}
