//! What `#[event_listener]` refuses, and what the compiler says where it is missing.

use keepstep::{BoxError, EventListener, event_listener, wait_for};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Queue;

#[event_listener]
fn not_an_impl() {}

#[event_listener]
impl Queue {}

#[event_listener]
impl Clone for Queue {
    fn clone(&self) -> Self {
        Self
    }
}

#[derive(Serialize, Deserialize)]
struct Generic<T>(T);

#[event_listener]
impl<T: Serialize> EventListener for Generic<T> {
    type Event = String;

    async fn poll(&mut self) -> Result<String, BoxError> {
        Ok(String::new())
    }
}

#[derive(Serialize, Deserialize)]
struct Limited;

#[event_listener(timeout = "1s", checkpoint = false)]
impl EventListener for Limited {
    type Event = String;

    async fn poll(&mut self) -> Result<String, BoxError> {
        Ok(String::new())
    }
}

#[derive(Serialize, Deserialize)]
struct Unregistered;

impl EventListener for Unregistered {
    type Event = String;

    async fn poll(&mut self) -> Result<String, BoxError> {
        Ok(String::new())
    }
}

fn main() {
    let _ = wait_for(3);
}
