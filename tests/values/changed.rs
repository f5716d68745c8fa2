//! A value that would come back as another one, or not at all, is refused, whichever way it goes.

use std::collections::{BTreeMap, HashMap};

use keepstep::prelude::*;
use keepstep::{ObjectRef, Result, StepErrorKind, StoredState, virtual_actor};
use serde::{Deserialize, Serialize};

/// `Wire` is read as `Card`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
enum Payment {
    Card { number: String },
    Wire { number: String, iban: String },
}

/// Says what all of its parts are, and cannot be read once there is a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Login {
    Nobody,
    User(User),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct User {
    name: String,
    #[serde(skip_serializing)]
    token: String,
}

trait Faulty: Sized {
    fn good() -> Self;
    fn bad() -> Self;
    /// What the error names.
    const NAMES: &str;
}

impl Faulty for Payment {
    fn good() -> Self {
        let number = "4111".to_owned();
        Self::Card { number }
    }

    fn bad() -> Self {
        let (number, iban) = ("1".to_owned(), "DE1".to_owned());
        Self::Wire { number, iban }
    }

    const NAMES: &str = "iban";
}

impl Faulty for Login {
    fn good() -> Self {
        Self::Nobody
    }

    fn bad() -> Self {
        let (name, token) = ("n".to_owned(), "t".to_owned());
        Self::User(User { name, token })
    }

    const NAMES: &str = "token";
}

fn refused<T: std::fmt::Debug>(result: Result<T>, names: &str, way: &str) {
    match result {
        Err(Error::Unencodable { message, .. }) => {
            assert!(message.contains(names), "{way}: {message}");
        }
        Err(Error::Failed { error, .. } | Error::CallFailed { error, .. }) => {
            assert_eq!(error.kind, StepErrorKind::Unencodable, "{way}: {error}");
            assert!(error.message.contains(names), "{way}: {error}");
            assert_eq!(error.attempts, 1, "{way}");
        }
        other => panic!("{way}: {other:?}"),
    }
}

/// Steps and an actor for a type.
macro_rules! ways {
    ($module:ident, $of:ident) => {
        mod $module {
            use super::*;

            pub(super) type Of = $of;

            #[derive(Debug, PartialEq, Serialize, Deserialize)]
            pub(super) struct Receipt {
                pub(super) pdf: ObjectRef<String>,
                pub(super) of: Of,
            }

            #[step]
            pub(super) async fn gives(is_good: bool) -> Of {
                if is_good { Of::good() } else { Of::bad() }
            }

            #[step]
            pub(super) async fn receipt(is_good: bool, is_pending: bool) -> Result<Receipt> {
                let of = if is_good { Of::good() } else { Of::bad() };
                let text = format!("{is_good}");
                let pdf = match is_pending {
                    true => ObjectRef::spawn(async { text }),
                    false => keepstep::put(&text).await?,
                };
                Ok(Receipt { pdf, of })
            }

            #[step]
            pub(super) async fn takes(of: Of) -> bool {
                of == Of::good()
            }

            #[step]
            pub(super) async fn takes_list(list: Vec<Of>) -> usize {
                list.len()
            }

            #[step]
            pub(super) async fn takes_map(map: BTreeMap<Of, u8>) -> usize {
                map.len()
            }

            #[step]
            pub(super) async fn takes_hashed(map: HashMap<Of, u8>) -> usize {
                map.len()
            }

            #[step]
            pub(super) async fn takes_option(option: Option<Of>) -> bool {
                option.is_some()
            }

            #[step]
            pub(super) async fn takes_receipt(receipt: Receipt) -> bool {
                receipt.of == Of::good()
            }

            #[derive(Serialize, Deserialize)]
            pub(super) struct Till {
                pub(super) due: Vec<Of>,
                pub(super) receipt: Option<Receipt>,
            }

            #[virtual_actor]
            impl Till {
                pub fn new(due: Vec<Of>) -> Self {
                    Self { due, receipt: None }
                }

                pub async fn add(&mut self, is_good: bool) -> usize {
                    self.due.push(if is_good { Of::good() } else { Of::bad() });
                    self.due.len()
                }

                pub async fn keep(&mut self, is_good: bool) -> Result<bool> {
                    let of = if is_good { Of::good() } else { Of::bad() };
                    let pdf = keepstep::put(&"pdf".to_owned()).await?;
                    self.receipt = Some(Receipt { pdf, of });
                    Ok(true)
                }

                pub async fn first(&self) -> Option<Of> {
                    self.due.first().cloned()
                }

                pub async fn bad(&self) -> Of {
                    Of::bad()
                }

                pub async fn take(&mut self, of: Of) -> bool {
                    of == Of::good()
                }

                pub async fn take_receipt(&mut self, receipt: Receipt) -> bool {
                    receipt.of == Of::good()
                }
            }

            #[tokio::test]
            async fn every_way_refuses_what_would_come_back_as_another() {
                let engine = Engine::open("memory:").await.unwrap();
                let names = Of::NAMES;
                for is_good in [true, false] {
                    let of = || if is_good { Of::good() } else { Of::bad() };
                    macro_rules! way {
                        ($way:literal, $workflow:expr) => {
                            let result = engine.run(format!("{} {is_good}", $way), $workflow).await;
                            match is_good {
                                true => drop(result.unwrap()),
                                // The path of what stands in a key has no name.
                                false if $way == "map" => refused(result, "read back", $way),
                                false => refused(result, names, $way),
                            }
                        };
                    }
                    way!("result", gives(is_good));
                    way!("argument", takes(of()));
                    way!("value", Workflow::value(of()));
                    way!("value as argument", takes(Workflow::value(of())));
                    way!(
                        "value in list",
                        takes_list(vec![gives(true), Workflow::value(of())])
                    );
                    way!("list", takes_list(vec![of()]));
                    way!("slice", takes_list(&[of()][..]));
                    way!(
                        "key",
                        takes_map(BTreeMap::from([(of(), Workflow::value(1))]))
                    );
                    way!(
                        "hashed key",
                        takes_hashed(HashMap::from([(of(), Workflow::value(1))]))
                    );
                    way!("map", takes_map(BTreeMap::from([(of(), 1)])));
                    way!("option", takes_option(Some(Workflow::value(of()))));
                    way!("child", child(format!("c{is_good}"), takes(of())));
                    way!("receipt", receipt(is_good, false));
                    way!("receipt of work", receipt(is_good, true));
                    let put = engine.put(&of()).await;
                    let pdf = engine.put(&"pdf".to_owned()).await.unwrap();
                    let receipt = || Receipt {
                        pdf: pdf.clone(),
                        of: of(),
                    };
                    way!("value with a reference", Workflow::value(receipt()));
                    way!("argument with a reference", takes_receipt(receipt()));
                    let put_receipt = engine.put(&receipt()).await;
                    match is_good {
                        true => {
                            assert_eq!(*put.unwrap().get().await.unwrap(), of());
                            assert_eq!(*put_receipt.unwrap().get().await.unwrap(), receipt());
                        }
                        false => {
                            refused(put.map(drop), names, "put");
                            refused(put_receipt.map(drop), names, "put with a reference");
                        }
                    }
                }

                let tills = Till::on(&engine);
                let receipt = |of| async {
                    let pdf = engine.put(&"pdf".to_owned()).await.unwrap();
                    Receipt { pdf, of }
                };
                let till = tills.get_or_create("t", vec![Of::good()]).await.unwrap();
                assert_eq!(till.add(true).await.unwrap(), 2);
                assert!(till.take(Of::good()).await.unwrap());
                assert!(till.take_receipt(receipt(Of::good()).await).await.unwrap());
                assert!(till.keep(true).await.unwrap());
                let refusals = [
                    tills.get_or_create("u", vec![Of::bad()]).await.map(drop),
                    till.add(false).await.map(drop),
                    till.keep(false).await.map(drop),
                    till.take(Of::bad()).await.map(drop),
                    till.take(Of::bad()).send().await,
                    till.take_receipt(receipt(Of::bad()).await).await.map(drop),
                    till.bad().await.map(drop),
                ];
                for (n, refusal) in refusals.into_iter().enumerate() {
                    refused(refusal, names, &format!("actor, {n}"));
                }
                // Its state is what it was.
                assert_eq!(till.add(true).await.unwrap(), 3);
                assert_eq!(till.first().await.unwrap(), Some(Of::good()));
                engine.shutdown().await.unwrap();
            }
        }
    };
}

ways!(untagged, Payment);
ways!(skipped, Login);

/// Numbers of 128 bits cannot be read behind a tag.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by")]
enum Transfer {
    Wire { cents: u128 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    pdf: ObjectRef<bytes::Bytes>,
    transfer: Transfer,
}

#[tokio::test]
async fn a_receipt_with_a_reference_and_a_wide_number_fails_its_step() {
    #[step]
    async fn charge() -> Result<Receipt> {
        let pdf = keepstep::put(&bytes::Bytes::from_static(b"pdf")).await?;
        let transfer = Transfer::Wire { cents: 1 };
        Ok(Receipt { pdf, transfer })
    }
    let engine = Engine::open("memory:").await.unwrap();
    refused(engine.run("r", charge()).await, "transfer: ", "result");
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn references_to_work_come_back_in_values_that_are_read_again() {
    #[step]
    async fn begin(n: u32) -> (serde_json::Value, Vec<ObjectRef<u32>>) {
        let begun = (0..n).map(|n| ObjectRef::spawn(async move { n }));
        (serde_json::json!({ "n": n }), begun.collect())
    }
    let engine = Engine::open("memory:").await.unwrap();
    let (json, objects) = engine.run("r", begin(3)).await.unwrap();
    assert_eq!(json["n"], 3);
    for (n, object) in objects.iter().enumerate() {
        assert_eq!(*object.get().await.unwrap() as usize, n);
    }
    engine.shutdown().await.unwrap();
}

/// A state of a later version is stored with what its migration made of the older one.
#[derive(Serialize, Deserialize)]
struct Account {
    login: Login,
}

#[virtual_actor(name = "changed_account", version = 2, migrate = from_v1)]
impl Account {
    pub fn new() -> Self {
        let login = Login::Nobody;
        Self { login }
    }

    pub async fn set(&mut self, login: Login) {
        self.login = login;
    }

    pub async fn log_in(&mut self) {
        self.login = Login::bad();
    }
}

fn from_v1(_: StoredState) -> Result<Account> {
    Ok(Account::new())
}

#[tokio::test]
async fn a_state_that_was_readable_once_is_read_again_with_another_variant() {
    let engine = Engine::open("memory:").await.unwrap();
    let account = Account::on(&engine).get_or_create("a").await.unwrap();
    account.set(Login::Nobody).await.unwrap();
    refused(account.log_in().await, "token", "state");
    refused(account.set(Login::bad()).await, "token", "argument");
    account.set(Login::Nobody).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Writes a field that it does not read, which is what somebody wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Priced<T> {
    net: u32,
    #[serde(skip_deserializing)]
    gross: u32,
    beside: T,
}

#[step]
async fn priced() -> Priced<serde_json::Value> {
    let beside = serde_json::json!([1, { "a": 2 }]);
    let gross = 123;
    let net = 100;
    Priced { net, gross, beside }
}

#[step]
async fn price_of(priced: Priced<Vec<u8>>) -> u32 {
    priced.net + priced.gross
}

#[tokio::test]
async fn what_a_type_does_not_read_is_no_part_of_its_value_whatever_stands_beside_it() {
    let engine = Engine::open("memory:").await.unwrap();
    let plain = Priced {
        net: 100,
        gross: 123,
        beside: vec![1u8],
    };
    for id in ["a", "b"] {
        let priced = engine.run(id, priced()).await.unwrap();
        assert_eq!((priced.net, priced.gross), (100, 0));
        let as_argument = format!("{id} as argument");
        let net = engine
            .run(as_argument, price_of(plain.clone()))
            .await
            .unwrap();
        assert_eq!(net, 100);
        let read = engine.put(&plain).await.unwrap().get().await.unwrap();
        assert_eq!(read.gross, 0);
        let value = Workflow::value(plain.clone());
        let read = engine.run(format!("{id} as value"), value).await.unwrap();
        assert_eq!(read.beside, plain.beside);
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_bincode_value_that_is_read_as_another_one_of_its_length_is_refused() {
    /// Writes cents, and reads them as euros.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Price {
        #[serde(deserialize_with = "euros")]
        cents: u64,
        by_name: HashMap<String, u8>,
    }
    fn euros<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
        u64::deserialize(from).map(|euros| euros * 100)
    }
    #[step(codec = "bincode")]
    async fn price(cents: u64) -> Price {
        let by_name = (0..50).map(|n| (format!("{n}"), n)).collect();
        Price { cents, by_name }
    }
    let engine = Engine::open("memory:").await.unwrap();
    refused(engine.run("r", price(1)).await, "another value", "result");
    // Zero is read as what it is, with its map in whatever order.
    assert_eq!(engine.run("s", price(0)).await.unwrap().cents, 0);
    engine.shutdown().await.unwrap();
}
