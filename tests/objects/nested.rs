//! References in whatever a value can be, on every way that a value can take: each is held by the run that has it, when nothing in
//! memory does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::{Storage, memory};
use keepstep::{BlobId, Bytes, Either};
use serde::{Deserialize, Serialize};

type Numbers = ObjectRef<Vec<u32>>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(Numbers),
    Tuple(u8, Option<Numbers>),
    Struct { inner: Vec<Shape> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Object { numbers: Numbers },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    numbers: Numbers,
}

/// A reference wherever one can stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    list: Vec<Numbers>,
    map: BTreeMap<String, Numbers>,
    keys: HashMap<Numbers, u32>,
    option: Option<Numbers>,
    result: Result<Numbers, String>,
    shape: Shape,
    untagged: Untagged,
    #[serde(flatten)]
    flat: Flat,
    bytes: ObjectRef<Bytes>,
    /// An object with references in it.
    nest: ObjectRef<Vec<Numbers>>,
}

/// An engine on a store that can be looked into.
struct Lab {
    store: Arc<dyn Storage>,
    engine: Engine,
}

impl Lab {
    async fn new() -> Self {
        let store = memory();
        let engine = Engine::builder().storage(Arc::clone(&store));
        let engine = engine.build().await.unwrap();
        Self { store, engine }
    }

    async fn numbers(&self, n: u32) -> Numbers {
        self.engine.put(&vec![n; 10]).await.unwrap()
    }

    /// Which of these are there after a sweep.
    async fn swept(&self, ids: &[BlobId]) -> usize {
        self.engine.maintain().await.unwrap();
        let mut n = 0;
        for id in ids {
            n += usize::from(self.store.blob_len(id).await.unwrap().is_some());
        }
        n
    }

    async fn everything(&self) -> (Everything, Vec<BlobId>) {
        let mut numbers = Vec::new();
        for n in 0..12 {
            numbers.push(self.numbers(n).await);
        }
        let bytes = self
            .engine
            .put(&Bytes::from_static(b"bytes"))
            .await
            .unwrap();
        let nested = vec![numbers[10].clone(), numbers[11].clone()];
        let nest = self.engine.put(&nested).await.unwrap();
        let mut ids: Vec<_> = numbers.iter().map(|one| one.address().unwrap()).collect();
        ids.extend([bytes.address().unwrap(), nest.address().unwrap()]);
        let of = |n: usize| numbers[n].clone();
        let everything = Everything {
            list: vec![of(0), of(1)],
            map: [("two".to_owned(), of(2))].into(),
            keys: [(of(3), 3)].into(),
            option: Some(of(4)),
            result: Ok(of(5)),
            shape: Shape::Struct {
                inner: vec![
                    Shape::Newtype(of(6)),
                    Shape::Tuple(7, Some(of(7))),
                    Shape::Unit,
                ],
            },
            untagged: Untagged::Object { numbers: of(8) },
            flat: Flat { numbers: of(9) },
            bytes,
            nest,
        };
        (everything, ids)
    }
}

async fn read(everything: &Everything) -> keepstep::Result<u32> {
    let Everything { keys, shape, .. } = everything;
    let Shape::Struct { inner } = shape else {
        panic!("{shape:?}");
    };
    let (Shape::Newtype(six), Shape::Tuple(7, Some(seven))) = (&inner[0], &inner[1]) else {
        panic!("{inner:?}");
    };
    let Untagged::Object { numbers: eight } = &everything.untagged else {
        panic!("{:?}", everything.untagged);
    };
    let nest = everything.nest.get().await?;
    let all = [
        &everything.list[0],
        &everything.list[1],
        &everything.map["two"],
        keys.keys().next().unwrap(),
        everything.option.as_ref().unwrap(),
        everything.result.as_ref().unwrap(),
        six,
        seven,
        eight,
        &everything.flat.numbers,
        &nest[0],
        &nest[1],
    ];
    for (n, numbers) in (0..).zip(all) {
        assert_eq!(*numbers.get().await?, [n; 10]);
    }
    assert_eq!(*everything.bytes.get().await?, "bytes");
    Ok(13)
}

#[step]
async fn reads(everything: Everything) -> keepstep::Result<u32> {
    read(&everything).await
}

#[step]
async fn passes(everything: Everything) -> Everything {
    everything
}

/// As the user's codec has it, too, and with so much else that the value is kept in a blob.
#[step(codec = "bincode")]
async fn pads(list: Vec<Numbers>) -> (Vec<u8>, Vec<Numbers>) {
    (vec![7; 100_000], list)
}

#[step]
async fn picks(nest: ObjectRef<Vec<Numbers>>) -> ObjectRef<Vec<Numbers>> {
    nest
}

#[tokio::test]
async fn references_stand_anywhere_in_a_value_and_are_held_by_its_run() -> keepstep::Result<()> {
    let lab = Lab::new().await;
    let (everything, ids) = lab.everything().await;
    let engine = &lab.engine;
    assert_eq!(engine.run("reads", reads(everything.clone())).await?, 13);
    let passed = engine.run("passes", passes(everything.clone())).await?;
    assert_eq!(passed, everything);
    drop((everything, passed));
    engine.delete("reads").await?;
    assert_eq!(lab.swept(&ids).await, 14, "the other run names them");
    read(&engine.output("passes").await?).await?;
    engine.delete("passes").await?;
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

/// What each of these runs yields names an object that nothing else does.
#[tokio::test]
async fn what_a_value_is_made_into_is_held_as_well() -> keepstep::Result<()> {
    #[step]
    async fn makes(n: u32) -> keepstep::Result<Numbers> {
        put(&vec![n; 10]).await
    }
    #[step(checkpoint = false)]
    async fn makes_again(n: u32) -> keepstep::Result<Numbers> {
        put(&vec![n; 10]).await
    }
    #[step]
    async fn same(of: Numbers) -> Numbers {
        of
    }
    #[step]
    async fn or(of: Result<Numbers, StepError>) -> keepstep::Result<Numbers> {
        Ok(of.unwrap())
    }
    let lab = Lab::new().await;
    let engine = &lab.engine;
    let mut ids = Vec::new();
    engine.run("all", all([makes(1), makes(2)])).await?;
    engine
        .run("race", race(makes(3), event::<u32>("never")))
        .await?;
    engine
        .run("select", select([makes(4), event("never")]))
        .await?;
    assert!(engine.run("caught", makes(5).catch()).await?.is_ok());
    engine.run("child", child("inner", makes(6))).await?;
    engine.run("again", same(makes_again(7))).await?;
    engine.run("or", or(makes_again(8).catch())).await?;
    engine
        .run("value", Workflow::value(Some(lab.numbers(9).await)))
        .await?;
    engine.run("named", same(makes(10).name("made"))).await?;
    engine.run("list", pads(vec![makes(11)])).await?;
    let list = engine.output::<Vec<Numbers>>("all").await?;
    ids.extend(list.iter().map(ObjectRef::address));
    let left = engine.output::<Either<Numbers, u32>>("race").await?;
    ids.push(left.left().unwrap().address());
    ids.push(
        engine
            .output::<(usize, Numbers)>("select")
            .await?
            .1
            .address(),
    );
    let caught = engine
        .output::<Result<Numbers, StepError>>("caught")
        .await?;
    ids.push(caught.unwrap().address());
    for run in ["child", "again", "or", "value", "named"] {
        // As an option, what is none is read, too.
        let object = engine.output::<Option<Numbers>>(run).await?;
        ids.push(object.unwrap().address());
    }
    ids.push(engine.output::<(Vec<u8>, Vec<Numbers>)>("list").await?.1[0].address());
    let ids: Vec<_> = ids.into_iter().flatten().collect();
    drop(list);
    assert_eq!((ids.len(), lab.swept(&ids).await), (11, 11));
    assert_eq!(
        *engine
            .step_output::<Numbers>("named", "made")
            .await?
            .get()
            .await?,
        [10; 10]
    );
    // A listing and the outputs as JSON are what they are without objects.
    let runs = engine.list(Status::Successful).await?.runs;
    for run in &runs {
        let json = engine.output::<serde_json::Value>(&run.id).await;
        assert!(json.is_ok() || run.id == "list", "bincode is not JSON");
    }
    for run in runs {
        match engine.delete(&run.id).await {
            // A child goes with its parent.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

#[tokio::test]
async fn an_object_in_an_object_is_held_through_it() -> keepstep::Result<()> {
    let lab = Lab::new().await;
    let engine = &lab.engine;
    let inner = lab.numbers(1).await;
    let nest = engine.put(&vec![inner.clone()]).await?;
    let ids = [inner.address().unwrap(), nest.address().unwrap()];
    drop(inner);
    assert_eq!(
        lab.swept(&ids).await,
        2,
        "a reference to the outer one is in memory"
    );
    // Read back and returned, so that the step's own run must find out what is in it.
    engine.run("picks", picks(nest)).await?;
    let nest: ObjectRef<Vec<Numbers>> = engine.output("picks").await?;
    engine.run("again", picks(nest.clone())).await?;
    engine.delete("picks").await?;
    drop(nest);
    assert_eq!(lab.swept(&ids).await, 2);
    let nest: ObjectRef<Vec<Numbers>> = engine.output("again").await?;
    assert_eq!(*nest.get().await?[0].get().await?, [1; 10]);
    // By its text alone, which pins nothing.
    let text = serde_json::to_string(&nest).unwrap();
    let parsed: ObjectRef<Vec<Numbers>> = serde_json::from_str(&text).unwrap();
    engine.run("text", picks(parsed)).await?;
    drop(nest);
    engine.delete("again").await?;
    assert_eq!(lab.swept(&ids).await, 2);
    engine.delete("text").await?;
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

#[tokio::test]
async fn an_event_holds_what_it_brings() -> keepstep::Result<()> {
    let lab = Lab::new().await;
    let engine = &lab.engine;
    let run = engine
        .start("run", event::<Vec<Numbers>>("numbers"))
        .await?;
    engine.suspend("run").await?;
    drop(run);
    let numbers = lab.numbers(1).await;
    let ids = [numbers.address().unwrap()];
    engine.send_event("run", "numbers", &vec![numbers]).await?;
    assert_eq!(lab.swept(&ids).await, 1, "the message is in the inbox");
    let run = engine.resume::<Vec<Numbers>>("run").await?;
    let output = run.await?;
    assert_eq!(*output[0].get().await?, [1; 10]);
    drop(output);
    assert_eq!(lab.swept(&ids).await, 1);
    engine.delete("run").await?;
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

#[derive(Serialize, Deserialize)]
struct Album {
    pages: Vec<ObjectRef<Vec<u32>>>,
}

#[virtual_actor]
impl Album {
    pub fn new(first: ObjectRef<Vec<u32>>) -> Self {
        Album { pages: vec![first] }
    }
    pub async fn add(&mut self, page: ObjectRef<Vec<u32>>) -> ObjectRef<Vec<u32>> {
        self.pages.push(page.clone());
        page
    }
    pub async fn draw(&mut self, n: u32) -> keepstep::Result<usize> {
        self.pages.push(put(&vec![n; 10]).await?);
        self.pages
            .push(ObjectRef::spawn(async move { vec![n + 1; 10] }));
        Ok(self.pages.len())
    }
    pub async fn pages(&self) -> Vec<ObjectRef<Vec<u32>>> {
        self.pages.clone()
    }
}

#[tokio::test]
async fn an_actor_holds_what_it_has_and_what_it_was_sent() -> keepstep::Result<()> {
    let lab = Lab::new().await;
    let engine = &lab.engine;
    let album = Album::on(engine)
        .get_or_create("album", lab.numbers(0).await)
        .await?;
    album.add(lab.numbers(1).await).await?;
    album.add(lab.numbers(2).await).id("two").await?;
    let in_an_hour = std::time::Duration::from_secs(3600);
    album
        .add(lab.numbers(3).await)
        .delay(in_an_hour)
        .send()
        .await?;
    album
        .add(lab.numbers(4).await)
        .every("again", in_an_hour)
        .await?;
    assert_eq!(album.draw(5).await?, 5);
    let step = album.add(lab.numbers(7).await).step();
    engine.run("step", step).await?;
    let pages = album.pages().await?;
    let mut ids: Vec<_> = pages.iter().flat_map(ObjectRef::address).collect();
    for n in [3, 4] {
        ids.extend(lab.numbers(n).await.address());
    }
    drop(pages);
    assert_eq!((ids.len(), lab.swept(&ids).await), (8, 8));
    // The engine that comes after finds them.
    engine.delete("step").await?;
    assert_eq!(lab.swept(&ids).await, 8);
    for (page, n) in album.pages().await?.into_iter().zip([0, 1, 2, 5, 6, 7]) {
        assert_eq!(*page.get().await?, [n; 10]);
    }
    album.delete().await?;
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

#[tokio::test]
async fn a_run_holds_what_its_children_are_to_be_given() -> keepstep::Result<()> {
    #[step]
    async fn after(_event: u32, list: Vec<Numbers>) -> keepstep::Result<u32> {
        Ok(list[0].get().await?[0])
    }
    let lab = Lab::new().await;
    let engine = &lab.engine;
    let numbers = lab.numbers(1).await;
    let ids = [numbers.address().unwrap()];
    #[step]
    async fn grows(_event: u32, list: Vec<Numbers>) -> Workflow<u32> {
        child("middle", child("inner", after(event("second"), list)))
    }
    let run = engine
        .start("outer", grows(event::<u32>("first"), vec![numbers]))
        .await?;
    assert_eq!(lab.swept(&ids).await, 1);
    engine.send_event("outer", "first", &1).await?;
    // Sent again until the run is there.
    while engine.send_event("inner", "second", &2).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(run.await?, 1);
    // A child may go before its parent, which holds what it was to be given.
    for run in ["inner", "middle"] {
        engine.delete(run).await?;
        assert_eq!(lab.swept(&ids).await, 1, "without {run}");
    }
    engine.delete("outer").await?;
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

#[cfg(feature = "schedules")]
#[tokio::test]
async fn a_schedule_holds_what_its_runs_are_to_be_given() -> keepstep::Result<()> {
    let lab = Lab::new().await;
    let engine = &lab.engine;
    let (everything, ids) = lab.everything().await;
    engine
        .schedule("yearly", "0 0 1 1 *", reads(everything))
        .await?;
    assert_eq!(lab.swept(&ids).await, 14);
    engine.remove_schedule("yearly").await?;
    assert_eq!(lab.swept(&ids).await, 0);
    engine.shutdown().await
}

/// A journal that is compacted over and over, with objects in what is kept.
#[tokio::test]
async fn objects_outlive_the_entries_of_a_journal_that_named_them() -> keepstep::Result<()> {
    #[step]
    async fn count_down(n: u32, of: Numbers) -> keepstep::Result<Workflow<Numbers>> {
        assert_eq!(*of.get().await?, [1; 10]);
        Ok(match n {
            0 => Workflow::value(of),
            n => count_down(n - 1, of),
        })
    }
    let store = memory();
    let builder = Engine::builder()
        .storage(Arc::clone(&store))
        .compact_above(0);
    let engine = builder.build().await?;
    let numbers = engine.put(&vec![1u32; 10]).await?;
    let id = numbers.address().unwrap();
    let output = engine.run("run", count_down(200, numbers)).await?;
    assert!(engine.metadata("run").await?.journal_bytes < 20_000);
    assert_eq!(output.address(), Some(id));
    drop(output);
    engine.maintain().await?;
    let output: Numbers = engine.output("run").await?;
    assert_eq!(*output.get().await?, [1; 10]);
    engine.shutdown().await
}
