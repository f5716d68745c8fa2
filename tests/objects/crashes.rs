//! A crash after each write of runs and actors that have objects: nothing that is named is missing, whatever is swept, and what
//! nobody came to name is swept.

use std::sync::Arc;

use keepstep::prelude::*;
use keepstep::storage::fault::{Recorded, replay};
use keepstep::storage::{Storage, memory};
use keepstep::{Bytes, Clock};
use serde::{Deserialize, Serialize};

#[step]
async fn make(n: u32) -> keepstep::Result<Vec<ObjectRef<Vec<u32>>>> {
    let at_once = put(&vec![n; 100]).await?;
    // One that is never named.
    put(&vec![n + 100; 100]).await?;
    let later = ObjectRef::spawn(async move { vec![n + 1; 100] });
    Ok(vec![at_once, later])
}

type Numbers = Vec<ObjectRef<Vec<u32>>>;
/// An object with references in it, beside so much that the value is kept in a blob.
type Nest = (ObjectRef<Vec<Numbers>>, Vec<u8>);

#[step]
async fn nest(of: Vec<Numbers>) -> keepstep::Result<Nest> {
    Ok((put(&of).await?, vec![1; 70_000]))
}

#[derive(Serialize, Deserialize)]
struct Shelf(Vec<ObjectRef<Vec<u32>>>);

#[virtual_actor]
impl Shelf {
    pub fn new() -> Self {
        Shelf(Vec::new())
    }
    pub async fn place(&mut self, object: ObjectRef<Vec<u32>>) -> usize {
        self.0.push(object);
        self.0.len()
    }
    pub async fn all(&self) -> Vec<ObjectRef<Vec<u32>>> {
        self.0.clone()
    }
}

#[step]
async fn shelve(of: Nest, event: ObjectRef<Bytes>) -> keepstep::Result<Workflow<u64>> {
    let nest = of.0.get().await?;
    let shelf = Shelf::get_or_create("shelf").await?;
    Ok(total(
        nest[1].clone(),
        shelf.place(nest[0][1].clone()).step(),
        event,
    ))
}

#[step]
async fn total(
    objects: Vec<ObjectRef<Vec<u32>>>,
    n: usize,
    event: ObjectRef<Bytes>,
) -> keepstep::Result<u64> {
    let mut total = n as u64 + event.get().await?.len() as u64;
    for object in &objects {
        total += object
            .get()
            .await?
            .iter()
            .map(|n| u64::from(*n))
            .sum::<u64>();
    }
    Ok(total)
}

fn workflow() -> Workflow<u64> {
    shelve(nest(vec![make(1), make(5)]), event("bytes"))
}

const OUTPUT: u64 = 5 * 100 + 6 * 100 + 1 + 50_000;

async fn engine_on(store: &Arc<dyn Storage>) -> Engine {
    let builder = Engine::builder().storage(Arc::clone(store)).seed(7);
    builder.clock(Clock::tokio()).build().await.unwrap()
}

async fn go_on(engine: &Engine) -> keepstep::Result<u64> {
    let run = engine.start("run", workflow()).await?;
    let bytes = engine.put(&Bytes::from(vec![7; 50_000])).await?;
    match engine.send_event("run", "bytes", &bytes).id("1").await {
        Ok(()) | Err(Error::AlreadyEnded { .. }) => {}
        Err(error) => return Err(error),
    }
    drop(bytes);
    run.await
}

#[tokio::test(start_paused = true)]
async fn every_prefix_of_the_writes_is_recovered_from_with_its_objects() -> keepstep::Result<()> {
    let recorded = Arc::new(Recorded::new(memory()));
    let engine = engine_on(&(recorded.clone() as Arc<dyn Storage>)).await;
    assert_eq!(go_on(&engine).await?, OUTPUT);
    drop(engine);
    let log = recorded.log();
    assert!(log.len() >= 15, "{} writes", log.len());
    for writes in 0..=log.len() {
        let store = memory();
        replay(&log[..writes], &*store).await.unwrap();
        let engine = engine_on(&store).await;
        // A sweep right after the crash, before anything goes on.
        engine.maintain().await?;
        assert_eq!(go_on(&engine).await?, OUTPUT, "after {writes} writes");
        engine.maintain().await?;
        // All that is named can be read.
        let nest: Nest = engine.step_output("run", "nest").await?;
        for (n, object) in [1, 2, 5, 6].into_iter().zip(nest.0.get().await?.concat()) {
            assert_eq!(*object.get().await?, [n; 100]);
        }
        let shelf = Shelf::on(&engine).get_or_create("shelf").await?;
        let all = shelf.all().await?;
        assert_eq!(all.len(), 1, "after {writes} writes");
        assert_eq!(*all[0].get().await?, [2; 100]);
        drop((nest, all));
        // And what nothing names goes, all of it.
        engine.delete("run").await?;
        engine.maintain().await?;
        let mut left = 0;
        for n in [1, 2, 5, 6, 101, 105] {
            let object = engine.put(&vec![n; 100]).await?;
            drop(object);
            left += u64::from(n == 2);
        }
        // They were put again, but for the one that the shelf has.
        assert_eq!(engine.maintain().await?.blobs_removed, 6 - left);
        shelf.delete().await?;
        engine.maintain().await?;
        for n in [1, 2, 5, 6] {
            let object = engine.put(&vec![n; 100]).await?;
            drop(object);
        }
        assert_eq!(engine.maintain().await?.blobs_removed, 4);
        engine.shutdown().await?;
    }
    Ok(())
}
