//! A server whose orders wait for a human, for as long as it takes, and over restarts.
//!
//! ```sh
//! cargo run --example approval -- --data approvals &
//! curl -X POST localhost:3000/orders/17 -H 'content-type: application/json' -d '{"item": "piano", "cents": 420000}'
//! curl localhost:3000/orders/17                   # {"status":"Running", …}
//! kill -9 %1; cargo run --example approval -- --data approvals &
//! curl -X POST localhost:3000/orders/17/decision -H 'content-type: application/json' -d '{"by": "Ann", "approved": true}'
//! curl localhost:3000/orders/17                   # {"status":"Successful","outcome":{"Shipped":{"approved_by":"Ann"}}}
//! ```

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use keepstep::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    item: String,
    cents: u64,
}

/// What a human says.
#[derive(Debug, Serialize, Deserialize)]
struct Decision {
    by: String,
    approved: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Shipped {
        approved_by: String,
    },
    Refused {
        by: String,
    },
    /// Nobody decided in time.
    Expired,
}

/// Small orders are shipped at once; others wait for a decision, a week at most.
#[step]
async fn order(order: Order) -> Workflow<Outcome> {
    if order.cents < 10_000 {
        return ship(order, "nobody, it is small");
    }
    let decision = event::<Decision>("decision");
    let week = sleep(Duration::from_secs(7 * 24 * 3600));
    decided(order, race(decision, week))
}

#[step]
async fn decided(order: Order, decision: Either<Decision, ()>) -> Workflow<Outcome> {
    match decision {
        Either::Left(Decision { by, approved: true }) => ship(order, by),
        Either::Left(Decision { by, .. }) => Workflow::value(Outcome::Refused { by }),
        Either::Right(()) => Workflow::value(Outcome::Expired),
    }
}

#[step]
async fn ship(order: Order, approved_by: String) -> Outcome {
    println!("shipping {} for {} cents", order.item, order.cents);
    Outcome::Shipped { approved_by }
}

/// Starts the run of an order. The same request again finds the same run.
async fn submit(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Json(body): Json<Order>,
) -> Result<Response, Failure> {
    drop(engine.start(run_id(&id), order(body)).await?);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Tells the run what was decided. It is durable when the answer comes; the same request again changes nothing.
async fn decide(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Json(decision): Json<Decision>,
) -> Result<Response, Failure> {
    let by = decision.by.clone();
    let sent = engine.send_event(run_id(&id), "decision", &decision);
    sent.id(by).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn look(State(engine): State<Engine>, Path(id): Path<String>) -> Result<Response, Failure> {
    let status = engine.status(run_id(&id)).await?;
    let outcome = match status {
        Status::Successful => Some(engine.output::<Outcome>(run_id(&id)).await?),
        _ => None,
    };
    Ok(Json(json!({ "status": status, "outcome": outcome })).into_response())
}

fn run_id(order: &str) -> String {
    format!("order/{order}")
}

/// What the client is told when something goes wrong.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::IdConflict { .. } | Error::AlreadyEnded { .. } => StatusCode::CONFLICT,
            Error::InvalidRunId(_) => StatusCode::BAD_REQUEST,
            Error::QueueFull { .. } | Error::ShutDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.0.to_string() }))).into_response()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (data, address) = arguments()?;
    // Orders that an earlier process left behind go on waiting.
    let engine = Engine::builder().resume_on_open(true).open(&data).await?;
    let routes = Router::new()
        .route("/orders/{id}", post(submit))
        .route("/orders/{id}", get(look))
        .route("/orders/{id}/decision", post(decide))
        .with_state(engine.clone());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!(
        "listening on http://{}, orders are kept in {data}",
        listener.local_addr()?
    );
    axum::serve(listener, routes)
        .with_graceful_shutdown(async {
            // Without it, Ctrl-C stops the process as a crash does, which does no harm either.
            drop(tokio::signal::ctrl_c().await);
        })
        .await?;
    engine.shutdown().await?;
    Ok(())
}

/// `--data <directory>` and `--listen <address>`.
fn arguments() -> anyhow::Result<(String, String)> {
    let (mut data, mut address) = ("approvals".to_owned(), "127.0.0.1:3000".to_owned());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        match (&*argument, value) {
            ("--data", Some(value)) => data = value,
            ("--listen", Some(value)) => address = value,
            _ => anyhow::bail!("usage: approval [--data <directory>] [--listen <address>]"),
        }
    }
    Ok((data, address))
}
