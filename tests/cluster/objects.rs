//! Objects on a store that engines share: one puts, another reads, and none sweeps what another still has.

use keepstep::prelude::*;
use keepstep::{Bytes, Engine};

use crate::common::{Do, World};
use crate::{Cluster, soon};

type Numbers = ObjectRef<Vec<u32>>;
/// An object with references in it, beside so much that the value is kept in a blob.
type Nest = (ObjectRef<Vec<Numbers>>, Vec<u8>);

#[step(remote, name = "objects/make")]
async fn make(n: u32) -> keepstep::Result<Vec<Numbers>> {
    let at_once = put(&vec![n; 1_000]).await?;
    // One that nobody comes to name.
    put(&vec![n + 100; 1_000]).await?;
    let later = ObjectRef::spawn(async move { vec![n + 1; 1_000] });
    Ok(vec![at_once, later])
}

#[step(remote, name = "objects/nest")]
async fn nest(of: Vec<Vec<Numbers>>) -> keepstep::Result<Nest> {
    Ok((put(&of.concat()).await?, vec![1; 70_000]))
}

/// It may be the first of its engine that reads any of it.
#[step(remote, name = "objects/total", retries = 0)]
async fn total(
    nest: Nest,
    bytes: ObjectRef<Bytes>,
    #[resource] world: &World,
) -> Result<u64, keepstep::BoxError> {
    world.act("total").await?;
    let mut total = nest.1.len() as u64 + bytes.get().await?.len() as u64;
    for object in &*nest.0.get().await? {
        total += object
            .get()
            .await?
            .iter()
            .map(|n| u64::from(*n))
            .sum::<u64>();
    }
    Ok(total)
}

const TOTAL: u64 = 70_000 + 50_000 + (1 + 2 + 5 + 6) * 1_000;

async fn workflow(engine: &Engine) -> keepstep::Result<Workflow<u64>> {
    let bytes = engine.put(&Bytes::from(vec![7; 50_000])).await?;
    let made: Vec<_> = [1, 5].into_iter().map(make).collect();
    Ok(total(nest(made).name("nest"), bytes))
}

/// Nothing is left that a sweep could take when nothing names an object any more.
async fn nothing_is_left(engine: &Engine) -> keepstep::Result<()> {
    for n in [1, 2, 5, 6] {
        engine.put(&vec![n; 1_000]).await?;
    }
    // They were put again, so they were gone; and each is one.
    assert_eq!(engine.maintain().await?.blobs_removed, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_steps_hand_references_to_one_another() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let owner = cluster.owner().await;
    let workers = [cluster.another("one").await, cluster.another("two").await];
    let run = workflow(&owner).await?;
    assert_eq!(soon(owner.run("run", run)).await?, TOTAL);
    // Whoever sweeps takes what nobody has named, and nothing else.
    for engine in workers.iter().chain([&owner]) {
        engine.maintain().await?;
    }
    for engine in workers.iter().chain([&owner]) {
        let nest: Nest = engine.step_output("run", "nest").await?;
        for (n, object) in [1, 2, 5, 6].into_iter().zip(&*nest.0.get().await?) {
            assert_eq!(*object.get().await?, [n; 1_000]);
        }
    }
    for worker in workers {
        worker.shutdown().await?;
    }
    owner.delete("run").await?;
    owner.maintain().await?;
    nothing_is_left(&owner).await?;
    owner.shutdown().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_another_engine_takes_up_has_its_objects() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("total", Do::Hold);
    let first = cluster.short_lived().await;
    let run = first.start("run", workflow(&first).await?).await?;
    soon(cluster.world.until("total")).await;
    // As a crash does: nothing is given up, and nobody says that it has nothing pinned any more.
    drop((run, first));
    cluster.world.tell("total", Do::Succeed);
    let second = cluster.worker().await;
    second.maintain().await?;
    let run = second.start("run", workflow(&second).await?).await?;
    assert_eq!(soon(run).await?, TOTAL);
    second.shutdown().await
}

#[tokio::test]
async fn no_engine_sweeps_what_another_has_put() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (one, other) = (cluster.worker().await, cluster.worker().await);
    let object = one.put(&vec![3u32; 1_000]).await?;
    assert_eq!(other.maintain().await?.blobs_removed, 0);
    // By its text alone, the other knows it too, and then has it as well.
    let text = serde_json::to_string(&object).unwrap();
    let parsed: Numbers = serde_json::from_str(&text).unwrap();
    other.run("run", Workflow::value(parsed)).await?;
    drop(object);
    one.maintain().await?;
    let output: Numbers = one.output("run").await?;
    assert_eq!(*output.get().await?, [3; 1_000]);
    other.delete("run").await?;
    assert_eq!(other.maintain().await?.blobs_removed, 0);
    assert_eq!(output.get().await?.len(), 1_000);
    drop(output);
    assert_eq!(one.maintain().await?.blobs_removed, 1);
    one.shutdown().await?;
    other.shutdown().await
}
