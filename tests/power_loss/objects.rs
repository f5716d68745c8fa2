//! Objects of a process whose power is cut, on every store that has a directory: what a run or an actor names is there and whole,
//! and what nothing names can be swept.
//!
//! Runs put objects in every way there is, nest them, hand them to an actor and get one in an event. Some of their objects are those of
//! other runs too, which are deleted meanwhile, so that files are removed and written again under the same names.

use std::path::Path;

use keepstep::prelude::*;
use keepstep::{Bytes, Filter};
use serde::{Deserialize, Serialize};

use crate::cut::{Work, cut_over_and_over, place};
use crate::disk::Unsynced;
use crate::ledger::Ledger;
use crate::workflow::{begin, end};

/// How many runs the process drives at once, and how many it starts to delete them.
const RUNS: usize = 5;
const BRIEF: usize = 2;

/// Longer than what is kept in a journal, and than what is mapped into memory.
const LONG: usize = 70_000;
const SHORT: usize = 10_000;

const WORK: Work = Work {
    name: "objects",
    process: "objects::process",
    runs: RUNS,
    output: OUTPUT,
    syncs: 120,
    look: Some(look),
};

/// The bytes of what each run comes to read: those it put itself, those of the event, and those that are beside references.
const OUTPUT: u64 = (3 * LONG + 2 * SHORT) as u64 + LONG as u64 + LONG as u64;

#[cfg(feature = "sled")]
#[test]
fn objects_survive_power_cuts_on_sled() {
    cut_over_and_over(&WORK, "sled", Unsynced::Lost);
}

#[cfg(feature = "sled")]
#[test]
fn objects_survive_torn_writes_on_sled() {
    cut_over_and_over(&WORK, "sled", Unsynced::Mixed);
}

#[cfg(feature = "redb")]
#[test]
fn objects_survive_power_cuts_on_redb() {
    cut_over_and_over(&WORK, "redb", Unsynced::Lost);
}

#[cfg(feature = "redb")]
#[test]
fn objects_survive_torn_writes_on_redb() {
    cut_over_and_over(&WORK, "redb", Unsynced::Mixed);
}

#[cfg(feature = "fjall")]
#[test]
fn objects_survive_power_cuts_on_fjall() {
    cut_over_and_over(&WORK, "fjall", Unsynced::Lost);
}

#[cfg(feature = "fjall")]
#[test]
fn objects_survive_torn_writes_on_fjall() {
    cut_over_and_over(&WORK, "fjall", Unsynced::Mixed);
}

type Object = ObjectRef<Bytes>;
/// An object with references in it, beside so much that the value itself is kept in a file.
type Nest = (ObjectRef<Vec<Object>>, Vec<u8>);

/// What an object holds; of no `run`, it is an object of all of them.
fn content(run: Option<&str>, n: u8, len: usize) -> Bytes {
    let mut bytes = vec![n; len];
    let run = run.unwrap_or("all").as_bytes();
    bytes[..run.len()].copy_from_slice(run);
    bytes.into()
}

#[step]
async fn store(run: String, #[resource] ledger: &Ledger) -> keepstep::Result<Vec<Object>> {
    begin(ledger);
    let own = put(&content(Some(&run), 1, LONG)).await?;
    let short = put(&content(Some(&run), 2, SHORT)).await?;
    let shared = put(&content(None, 3, LONG)).await?;
    // Nobody comes to name this one.
    put(&content(Some(&run), 4, LONG)).await?;
    let streamed = keepstep::put_reader(&content(Some(&run), 5, LONG)[..]).await?;
    let later = ObjectRef::spawn(async { content(None, 6, SHORT) });
    end(ledger);
    Ok(vec![own, short, shared, streamed, later])
}

#[step]
async fn nest(objects: Vec<Object>, #[resource] ledger: &Ledger) -> keepstep::Result<Nest> {
    begin(ledger);
    let nest = put(&objects).await?;
    end(ledger);
    Ok((nest, vec![7; LONG]))
}

#[step]
async fn shelve(
    nest: Nest,
    event: Object,
    #[resource] ledger: &Ledger,
) -> keepstep::Result<Workflow<u64>> {
    begin(ledger);
    let objects = nest.0.get().await?;
    let shelf = Shelf::get_or_create("shelf").await?;
    end(ledger);
    Ok(total(nest, event).after(&shelf.place(objects[0].clone()).step()))
}

#[step]
async fn total(nest: Nest, event: Object, #[resource] ledger: &Ledger) -> keepstep::Result<u64> {
    begin(ledger);
    let read = read(&nest.0.get().await?).await?;
    let event = event.get().await?.len() as u64;
    end(ledger);
    Ok(read + event + nest.1.len() as u64)
}

/// Reads objects, which are checked against their addresses; says how many bytes they have.
async fn read(objects: &[Object]) -> keepstep::Result<u64> {
    let mut n = 0;
    for object in objects {
        n += object.get().await?.len() as u64;
    }
    Ok(n)
}

#[derive(Serialize, Deserialize)]
struct Shelf(Vec<Object>);

#[virtual_actor]
impl Shelf {
    pub fn new() -> Self {
        Shelf(Vec::new())
    }

    pub async fn place(&mut self, object: Object) {
        self.0.push(object);
    }

    pub async fn all(&self) -> Vec<Object> {
        self.0.clone()
    }
}

/// What a run does that is deleted: it has objects of the others, and one that every process puts anew.
#[step]
async fn brief(n: usize) -> keepstep::Result<Vec<Object>> {
    let again = put(&content(Some(&format!("brief-{n}")), 8, LONG)).await?;
    let shared = put(&content(None, 3, LONG)).await?;
    let short = put(&content(None, 6, SHORT)).await?;
    Ok(vec![again, shared, short])
}

/// What the process does: goes on with everything there is, and deletes what is to be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process whose power is cut"]
async fn process() {
    let (ledger, engine) = place().await;
    let mut handles = Vec::new();
    for n in 0..RUNS {
        let id = format!("run-{n}");
        let workflow = shelve(nest(store(&id)), event("bytes"));
        let handle = engine.start(&id, workflow).await.unwrap();
        ledger.write(&format!("started {id}"));
        let bytes = engine.put(&content(Some(&id), 9, LONG)).await.unwrap();
        match engine.send_event(&id, "bytes", &bytes).id("1").await {
            Ok(()) | Err(Error::AlreadyEnded { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        handles.push(handle);
    }
    for n in 0..BRIEF {
        let id = format!("brief-{n}");
        let objects = engine.run(&id, brief(n)).await.unwrap();
        read(&objects).await.unwrap();
        drop(objects);
        engine.delete(&id).await.unwrap();
    }
    // Sweeps are cut short too.
    engine.maintain().await.unwrap();
    for handle in handles {
        assert_eq!(handle.clone().await.unwrap(), OUTPUT);
        ledger.write(&format!("successful {}", handle.id()));
    }
    engine.maintain().await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Looks at what a cut has left of objects, in a copy of the store.
#[tokio::main(flavor = "current_thread")]
async fn look(store: &str, path: &Path) {
    let engine = Engine::open(store).await.unwrap();
    // It takes nothing away that is named.
    engine.maintain().await.unwrap();
    let runs = engine.list(Filter::all()).await.unwrap().runs;
    for run in &runs {
        let graph = engine.graph(&run.id).await.unwrap();
        let has_ended = |name: &str| {
            let mut nodes = graph.nodes.iter();
            nodes.any(|node| {
                node.name.ends_with(name) && node.state == Some(keepstep::NodeState::Done)
            })
        };
        if has_ended("store") {
            let objects: Vec<Object> = engine.step_output(&run.id, "store").await.unwrap();
            assert_eq!(read(&objects).await.unwrap(), OUTPUT - 2 * LONG as u64);
        }
        if has_ended("nest") {
            let (nest, beside): Nest = engine.step_output(&run.id, "nest").await.unwrap();
            let objects = nest.get().await.unwrap();
            assert_eq!(read(&objects).await.unwrap(), OUTPUT - 2 * LONG as u64);
            assert_eq!(beside, [7; LONG]);
        }
        if run.id.starts_with("brief") && run.status == Status::Successful {
            let objects: Vec<Object> = engine.output(&run.id).await.unwrap();
            read(&objects).await.unwrap();
        }
    }
    let n_successful = runs.iter().filter(|run| run.id.starts_with("run-"));
    let n_successful = n_successful.filter(|run| run.status == Status::Successful);
    let n_successful = n_successful.count();
    match Shelf::on(&engine).get_actor("shelf").await {
        Ok(shelf) => {
            let all = shelf.all().await.unwrap();
            read(&all).await.unwrap();
            // Once for each run that came so far, however often their steps were executed.
            let distinct: std::collections::HashSet<_> =
                all.iter().map(ObjectRef::address).collect();
            assert_eq!(distinct.len(), all.len());
            assert!((n_successful..=RUNS).contains(&all.len()));
            drop(all);
            shelf.delete().await.unwrap();
        }
        Err(Error::ActorNotFound { .. }) => assert_eq!(n_successful, 0),
        Err(error) => panic!("{error}"),
    }
    // When nothing names an object any more, a sweep leaves none.
    for run in runs {
        engine.delete(&run.id).await.unwrap();
    }
    engine.maintain().await.unwrap();
    engine.shutdown().await.unwrap();
    let blobs = walkdir::WalkDir::new(path.join("store/blobs")).into_iter();
    let files = blobs
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path());
    assert_eq!(files.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}
