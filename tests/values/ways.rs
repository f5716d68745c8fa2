//! Values that are nil in MessagePack, in every way that a value goes: none of them comes back as another.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{Either, ObjectRef, virtual_actor};
use serde::{Deserialize, Serialize};
use serde_json::json;

type Nested = Option<Option<Option<()>>>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Newtype(Option<Nested>);

/// Has a value of each kind that has been nil, or was read in another way than it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Odd {
    nested: Nested,
    unit: Option<Unit>,
    text: Option<Option<String>>,
    json: Option<serde_json::Value>,
    newtype: Newtype,
    kind: Kind,
    loose: Loose,
    list: Vec<Nested>,
    map: BTreeMap<String, Option<Result<(), Option<()>>>>,
    inner: Option<Box<Odd>>,
    #[serde(flatten)]
    flat: Flat,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Kind {
    Empty,
    Full { of: Nested, ip: Option<IpAddr> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Loose {
    Pair(Nested, Unit),
    Address(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    level: Nested,
}

fn nested(rng: &mut fastrand::Rng) -> Nested {
    match rng.u8(..4) {
        0 => None,
        1 => Some(None),
        2 => Some(Some(None)),
        _ => Some(Some(Some(()))),
    }
}

fn odd(rng: &mut fastrand::Rng, depth: u32) -> Odd {
    let ip = IpAddr::V4(Ipv4Addr::from(rng.u32(..)));
    let json = [json!(null), json!([null]), json!({"a": null}), json!(1)];
    let outcomes = [None, Some(Ok(())), Some(Err(None)), Some(Err(Some(())))];
    Odd {
        nested: nested(rng),
        unit: rng.bool().then_some(Unit),
        text: rng
            .choice([None, Some(None), Some(Some("x".to_owned()))])
            .unwrap(),
        json: rng.bool().then(|| rng.choice(json).unwrap()),
        newtype: Newtype(rng.bool().then(|| nested(rng))),
        kind: match rng.bool() {
            true => Kind::Empty,
            false => Kind::Full {
                of: nested(rng),
                ip: rng.bool().then_some(ip),
            },
        },
        loose: match rng.bool() {
            true => Loose::Pair(nested(rng), Unit),
            false => Loose::Address(ip),
        },
        list: (0..rng.usize(..4)).map(|_| nested(rng)).collect(),
        map: (0..rng.u8(..4))
            .map(|n| (n.to_string(), rng.choice(outcomes).unwrap()))
            .collect(),
        inner: (depth > 0 && rng.bool()).then(|| Box::new(odd(rng, depth - 1))),
        flat: Flat { level: nested(rng) },
    }
}

#[step]
async fn echo(value: Odd) -> Odd {
    value
}

#[step]
async fn maybe(value: Option<Odd>) -> Option<Option<Odd>> {
    Some(value)
}

#[step]
async fn all_of(
    values: Vec<Odd>,
    by_name: BTreeMap<String, Odd>,
    first: Option<Odd>,
) -> Vec<Option<Odd>> {
    values
        .into_iter()
        .chain(by_name.into_values())
        .map(Some)
        .chain([first, None])
        .collect()
}

#[step]
async fn caught(value: Result<Odd, StepError>) -> Odd {
    value.unwrap()
}

#[step]
async fn grows(value: Odd) -> Workflow<Odd> {
    echo(echo(value))
}

#[step]
async fn through_object(value: Odd) -> keepstep::Result<ObjectRef<Odd>> {
    keepstep::put(&value).await
}

#[derive(Serialize, Deserialize)]
struct Keeper {
    kept: Vec<Odd>,
    last: Option<Option<Odd>>,
}

#[virtual_actor]
impl Keeper {
    pub fn new() -> Self {
        Self {
            kept: vec![],
            last: Some(None),
        }
    }

    pub async fn keep(&mut self, value: Odd) -> Option<Option<Odd>> {
        self.kept.push(value.clone());
        self.last.replace(Some(value))
    }

    pub fn kept(&self) -> Vec<Odd> {
        self.kept.clone()
    }
}

/// Has a value go every way that there is.
async fn send_around(engine: &Engine, name: &str, value: &Odd) {
    let run = |suffix: &str| format!("{name}/{suffix}");
    let echoed = || echo(value.clone());
    assert_eq!(
        &engine
            .run(run("value"), Workflow::value(value.clone()))
            .await
            .unwrap(),
        value
    );
    assert_eq!(
        &engine
            .run(run("step"), echoed().name("echo"))
            .await
            .unwrap(),
        value
    );
    assert_eq!(&engine.output::<Odd>(run("step")).await.unwrap(), value);
    assert_eq!(
        &engine
            .step_output::<Odd>(run("step"), "echo")
            .await
            .unwrap(),
        value
    );
    assert_eq!(
        &engine
            .run(run("grown"), grows(value.clone()))
            .await
            .unwrap(),
        value
    );
    assert_eq!(
        &engine
            .run(run("caught"), caught(echoed().catch()))
            .await
            .unwrap(),
        value
    );

    let some = Some(Some(value.clone()));
    assert_eq!(
        engine
            .run(run("some"), maybe(Some(value.clone())))
            .await
            .unwrap(),
        some
    );
    assert_eq!(
        engine
            .run(run("some_of"), maybe(Some(echoed())))
            .await
            .unwrap(),
        some
    );
    assert_eq!(
        engine.run(run("none"), maybe(None::<Odd>)).await.unwrap(),
        Some(None)
    );

    let by_name = BTreeMap::from([("a".to_owned(), echoed())]);
    let parts = all_of(
        vec![echoed(), Workflow::value(value.clone())],
        by_name,
        Some(echoed()),
    );
    let mut expected = vec![Some(value.clone()); 4];
    expected.push(None);
    assert_eq!(engine.run(run("parts"), parts).await.unwrap(), expected);
    let list = engine
        .run(run("all"), keepstep::all([echoed(), echoed()]))
        .await
        .unwrap();
    assert_eq!(list, [value.clone(), value.clone()]);
    let raced = keepstep::race(echoed(), keepstep::sleep(Duration::from_secs(3600)));
    let raced = engine.run(run("race"), raced).await.unwrap();
    assert_eq!(raced, Either::Left(value.clone()));
    let child = keepstep::child(run("child"), echoed());
    assert_eq!(
        &engine.run(run("parent"), echo(child)).await.unwrap(),
        value
    );

    let waiting = engine
        .start(run("event"), echo(keepstep::event::<Odd>("e")))
        .await
        .unwrap();
    engine.send_event(run("event"), "e", value).await.unwrap();
    assert_eq!(&waiting.await.unwrap(), value);

    let object = engine.put(value).await.unwrap();
    assert_eq!(&*object.get().await.unwrap(), value);

    let keeper = Keeper::on(engine).get_or_create(name).await.unwrap();
    assert_eq!(keeper.keep(value.clone()).await.unwrap(), Some(None));
    let again = keeper.keep(value.clone()).await.unwrap();
    assert_eq!(again, Some(Some(value.clone())));
    let kept = engine
        .run(run("actor"), keeper.keep(value.clone()).step())
        .await
        .unwrap();
    assert_eq!(kept, Some(Some(value.clone())));
    assert_eq!(keeper.kept().await.unwrap(), vec![value.clone(); 3]);
}

#[tokio::test]
async fn whatever_is_stored_comes_back_as_it_was() {
    let engine = Engine::open("memory:").await.unwrap();
    for seed in 0..48 {
        let value = odd(&mut fastrand::Rng::with_seed(seed), 2);
        send_around(&engine, &format!("seed-{seed}"), &value).await;
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn results_and_states_are_read_from_disk_as_they_were() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let engine = Engine::open(path.to_str().unwrap()).await?;
    let values: Vec<Odd> = (0..8)
        .map(|seed| odd(&mut fastrand::Rng::with_seed(seed), 2))
        .collect();
    let keeper = Keeper::on(&engine).get_or_create("k").await?;
    for (n, value) in values.iter().enumerate() {
        engine
            .run(format!("r{n}"), maybe(Some(echo(value.clone()))))
            .await?;
        keeper.keep(value.clone()).await?;
    }
    drop(keeper);
    engine.shutdown().await?;
    let engine = Engine::open(path.to_str().unwrap()).await?;
    for (n, value) in values.iter().enumerate() {
        let output = engine
            .output::<Option<Option<Odd>>>(format!("r{n}"))
            .await?;
        assert_eq!(output, Some(Some(value.clone())));
    }
    let keeper = Keeper::on(&engine).get_or_create("k").await?;
    assert_eq!(keeper.kept().await?, values);
    engine.shutdown().await
}
