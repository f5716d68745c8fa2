//! What could not be read again is refused before it is stored, and the error names the field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use keepstep::prelude::*;
use keepstep::{StepErrorKind, virtual_actor};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by")]
enum Payment {
    Wire { cents: u128 },
    Cash,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u8,
    payment: Payment,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Lines {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<String>,
}

fn wire() -> Order {
    let payment = Payment::Wire { cents: 1 << 100 };
    Order { id: 7, payment }
}

fn nothing() -> Lines {
    Lines {
        name: "n".to_owned(),
        lines: vec![],
    }
}

/// What a step's result is refused for.
async fn refusal<T: serde::de::DeserializeOwned + std::fmt::Debug + 'static>(
    engine: &Engine,
    id: &str,
    workflow: Workflow<T>,
) -> String {
    match engine.run(id, workflow).await {
        Err(Error::Failed { error, .. }) => {
            assert_eq!(error.kind, StepErrorKind::Unencodable, "{error}");
            // It was not executed again: the same value has the same error.
            assert_eq!(error.attempts, 1);
            error.message.clone()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_result_that_could_not_be_read_fails_its_step() {
    #[step]
    async fn pay(cash: bool) -> Order {
        match cash {
            true => Order {
                id: 1,
                payment: Payment::Cash,
            },
            false => wire(),
        }
    }
    #[step]
    async fn lines(n: usize) -> Vec<Lines> {
        let lines = vec!["a".to_owned(); n];
        vec![Lines {
            name: "n".to_owned(),
            lines,
        }]
    }
    #[step(codec = "bincode")]
    async fn compact_lines(n: usize) -> Lines {
        Lines {
            name: "n".to_owned(),
            lines: vec!["a".to_owned(); n],
        }
    }
    #[step(codec = "bincode")]
    async fn compact_order(id: u8) -> (u8, Order) {
        (
            id,
            Order {
                id,
                payment: Payment::Cash,
            },
        )
    }
    #[step]
    async fn deep(levels: usize) -> serde_json::Value {
        (0..levels).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]))
    }
    #[step(codec = "bincode")]
    async fn compact_ips(ip: IpAddr) -> BTreeMap<u128, (IpAddr, Option<Option<()>>)> {
        BTreeMap::from([(u128::MAX, (ip, Some(None)))])
    }
    let engine = Engine::open("memory:").await.unwrap();
    engine.run("cash", pay(true)).await.unwrap();
    let message = refusal(&engine, "wire", pay(false)).await;
    assert!(
        message.contains("payment: ") && message.contains("128"),
        "{message}"
    );

    engine.run("one line", lines(1)).await.unwrap();
    let message = refusal(&engine, "no line", lines(0)).await;
    assert!(
        message.contains("[0]") && message.contains("missing field `lines`"),
        "{message}"
    );

    engine.run("compact", compact_lines(1)).await.unwrap();
    let message = refusal(&engine, "compact, none", compact_lines(0)).await;
    assert!(
        message.starts_with("lines: bincode has no names"),
        "{message}"
    );
    let message = refusal(&engine, "compact, tagged", compact_order(1)).await;
    assert!(message.contains("[1].payment: "), "{message}");

    engine.run("deep", deep(256)).await.unwrap();
    let message = refusal(&engine, "deeper", deep(257)).await;
    assert!(message.contains("deeper than 256"), "{message}");

    let ip = "10.0.0.1".parse().unwrap();
    let ips = engine.run("ips", compact_ips(ip)).await.unwrap();
    assert_eq!(ips, BTreeMap::from([(u128::MAX, (ip, Some(None)))]));
    engine.shutdown().await.unwrap();
}

/// What an argument is refused for.
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, of: &str) -> String {
    match result {
        Err(Error::Unencodable {
            step,
            param,
            message,
        }) => {
            assert_eq!(format!("{step} {param}"), of);
            message
        }
        other => panic!("{other:?}"),
    }
}

#[step(name = "take")]
async fn take(n: u8, order: Order) -> u8 {
    n + order.id
}

#[step(name = "take_lines")]
async fn take_lines(lines: Lines) -> usize {
    lines.lines.len()
}

#[step]
async fn grows(n: u8) -> Workflow<u8> {
    take(n, wire())
}

#[step]
async fn gives() -> Workflow<Order> {
    Workflow::value(wire())
}

#[derive(Serialize, Deserialize)]
struct Till {
    orders: Vec<Order>,
}

#[virtual_actor]
impl Till {
    pub fn new() -> Self {
        Self { orders: vec![] }
    }

    pub async fn add(&mut self, order: Order) -> usize {
        self.orders.push(order);
        self.orders.len()
    }

    pub async fn add_wire(&mut self) -> usize {
        self.orders.push(wire());
        self.orders.len()
    }
}

#[tokio::test]
async fn an_argument_that_could_not_be_read_is_refused_before_the_run_is_stored() {
    let engine = Engine::open("memory:").await.unwrap();
    let message = refused(engine.run("r", take(1, wire())).await, "take order");
    assert!(
        message.contains("payment: ") && message.contains("128"),
        "{message}"
    );
    refused(
        engine.run("r", take(1, Workflow::value(wire()))).await,
        "value value",
    );
    refused(
        engine.run("r", Workflow::value(wire())).await,
        "value value",
    );
    refused(
        engine.run("r", child("c", take(1, wire()))).await,
        "take order",
    );
    let message = refused(
        engine.run("r", take_lines(nothing())).await,
        "take_lines lines",
    );
    assert!(message.contains("missing field `lines`"), "{message}");
    assert!(matches!(
        engine.status("r").await,
        Err(Error::NotFound { .. })
    ));

    // Of a step that makes it.
    let message = refusal(&engine, "grown", grows(1)).await;
    assert!(message.contains("payment: "), "{message}");
    let message = refusal(&engine, "given", gives()).await;
    assert!(message.contains("payment: "), "{message}");

    let object = engine.put(&wire()).await.map(|_| ());
    let message = refused(object, "put value");
    assert!(message.contains("payment: "), "{message}");

    let till = Till::on(&engine).get_or_create("t").await.unwrap();
    let message = refused(till.add(wire()).await, "values::refused::Till::add order");
    assert!(message.contains("payment: "), "{message}");
    refused(
        till.add(wire()).send().await,
        "values::refused::Till::add order",
    );
    match till.add_wire().await {
        Err(Error::CallFailed { error, .. }) => {
            assert_eq!(error.kind, StepErrorKind::Unencodable);
            assert!(
                error.message.contains("orders[0].payment: "),
                "{}",
                error.message
            );
        }
        other => panic!("{other:?}"),
    }
    // Its state is what it was.
    let cash = Order {
        id: 1,
        payment: Payment::Cash,
    };
    assert_eq!(till.add(cash).await.unwrap(), 1);
    engine.shutdown().await.unwrap();
}

/// Writes a field that it does not read, which is what somebody wants.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Priced {
    net: u32,
    #[serde(skip_deserializing)]
    gross: u32,
}

#[tokio::test]
async fn a_plain_type_may_write_more_than_it_reads() {
    #[step]
    async fn priced() -> Priced {
        Priced {
            net: 100,
            gross: 123,
        }
    }
    let engine = Engine::open("memory:").await.unwrap();
    for id in ["a", "b"] {
        let priced = engine.run(id, priced()).await.unwrap();
        assert_eq!(priced, Priced { net: 100, gross: 0 });
    }
    engine.shutdown().await.unwrap();
}

/// Writes something else than it reads, always.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Renamed {
    #[serde(rename(serialize = "written", deserialize = "read"))]
    field: u8,
}

#[tokio::test]
async fn a_type_that_does_not_read_what_it_writes_is_found_with_the_first_result() {
    #[step]
    async fn renamed() -> Renamed {
        Renamed { field: 1 }
    }
    let engine = Engine::open("memory:").await.unwrap();
    let message = refusal(&engine, "r", renamed()).await;
    assert!(message.contains("missing field `read`"), "{message}");
    engine.shutdown().await.unwrap();
}
