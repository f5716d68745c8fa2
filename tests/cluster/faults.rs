//! Answers of the store that are late, and writes that fail at one engine only.

use std::sync::Arc;
use std::time::Duration;

use keepstep::EngineBuilder;
use keepstep::prelude::*;
use keepstep::storage::fault::{Call, Effect, Fault, Faulty};
use keepstep::storage::{RunId, Storage, StorageError};

use crate::common::{Do, act, join, leaf};
use crate::{Cluster, soon};

impl Cluster {
    /// A worker whose store can be told to fail, once it has looked for runs and found none.
    async fn faulty_worker(&self) -> (Engine, Arc<Faulty>) {
        self.faulty(self.builder()).await
    }

    async fn faulty(&self, builder: EngineBuilder) -> (Engine, Arc<Faulty>) {
        let inner = keepstep::storage::open(&self.url).await.unwrap();
        let store = Arc::new(Faulty::new(inner));
        let builder = builder.storage(Arc::clone(&store) as Arc<dyn Storage>);
        let engine = builder.build().await.unwrap();
        soon(async {
            while store.calls(Call::Claim) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        (engine, store)
    }
}

#[tokio::test]
async fn a_run_that_has_mail_before_its_claim_is_answered_is_driven_once() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (_worker, store) = cluster.faulty_worker().await;
    let submitter = cluster.submitter().await;
    let mut n = 0;
    let (id, first) = loop {
        n += 1;
        let id = format!("run{n}");
        store.inject(Fault::next(Call::Claim, Effect::DelayAfter));
        let go = keepstep::event::<()>("go").after(&leaf(&format!("a{n}")).build());
        let workflow = act("b", Vec::<i64>::new()).name("b").after(&go);
        let first = submitter.start(&id, workflow).await?;
        soon(store.until_held(n)).await;
        let run = RunId::new(&id).unwrap();
        let record = store.inner().record(&run).await?.unwrap();
        if record.owner.is_some() {
            break (id, first);
        }
        // It was a look at what was there before.
        store.release_held();
    };
    // The store says that the worker has it, so its mail is the worker's.
    submitter.send_event(&id, "go", &()).await?;
    assert_eq!(soon(first).await?, 1);

    store.release_held();
    // Runs that are claimed later are taken up later.
    let second = submitter
        .start("second", join("d", [leaf("c")]).build())
        .await?;
    assert_eq!(soon(second).await?, 2);
    let mut log = cluster.world.sorted_log();
    log.retain(|who| !who.starts_with('a') || who[1..] == id[3..]);
    assert_eq!(log, [&*format!("a{n}"), "b", "c", "d"]);
    assert_eq!(submitter.status(&id).await?, Status::Successful);
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_claimed_while_the_last_slot_is_taken_goes_to_another_worker()
-> keepstep::Result<()> {
    let cluster = Cluster::new();
    cluster.world.tell("long", Do::Hold);
    let (full, store) = cluster.faulty(cluster.builder().max_running_runs(1)).await;
    let submitter = cluster.submitter().await;
    let mut n = 0;
    let claimed = loop {
        n += 1;
        let id = format!("run{n}");
        store.inject(Fault::next(Call::Claim, Effect::DelayAfter));
        let run = submitter.start(&id, leaf(&id).build()).await?;
        soon(store.until_held(n)).await;
        let record = store.inner().record(&RunId::new(&id).unwrap()).await?;
        if record.unwrap().owner.is_some() {
            break run;
        }
        // It was a look at what was there before.
        store.release_held();
        soon(run).await?;
    };
    // The worker does not know yet what it has claimed, and its only slot is free.
    let long = full.start("long", leaf("long").build()).await?;
    soon(cluster.world.until("long")).await;
    store.release_held();
    let _idle = cluster.worker().await;
    assert_eq!(soon(claimed).await?, 1);
    assert_eq!(full.status("long").await?, Status::Running);
    cluster.world.tell("long", Do::Succeed);
    assert_eq!(soon(long).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_run_whose_write_fails_for_good_goes_on_at_another_worker() -> keepstep::Result<()> {
    let cluster = Cluster::new();
    let (worker, store) = cluster.faulty_worker().await;
    let error = StorageError::Corrupt {
        location: "here".to_owned(),
        what: "for the test".to_owned(),
    };
    assert!(!error.is_retryable());
    store.inject(Fault::at(Call::Commit, 2, Effect::Fail).with_error(error));
    let first = worker.start("run", leaf("a").build()).await?;
    let error = soon(first).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    let submitter = cluster.submitter().await;
    soon(async {
        while submitter.status("run").await.unwrap() != Status::Resumable {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(worker.status("run").await?, Status::Resumable);

    let waiting = submitter.start("run", leaf("a").build()).await?;
    let _other = cluster.worker().await;
    assert_eq!(soon(waiting).await?, 1);
    assert_eq!(cluster.world.log(), ["a", "a"]);
    Ok(())
}

/// The server refuses to make its files longer, as on a full disk.
const NO_ROOM: &str = "
    CREATE FUNCTION SCHEMA.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
    END $$;
    CREATE TRIGGER no_room BEFORE INSERT ON SCHEMA.entry EXECUTE FUNCTION SCHEMA.no_room();
";

#[tokio::test]
async fn on_a_full_disk_runs_stop_and_say_so_and_go_on_once_there_is_room() -> keepstep::Result<()>
{
    let cluster = Cluster::new();
    cluster.world.tell("b", Do::Hold);
    let (worker, submitter) = (cluster.worker().await, cluster.submitter().await);
    let (client, schema) = crate::server::client(&cluster.url).await;
    let run = worker.start("run", join("b", [leaf("a")]).build()).await?;
    soon(cluster.world.until("b")).await;
    client
        .batch_execute(&NO_ROOM.replace("SCHEMA", &schema))
        .await
        .unwrap();
    cluster.world.tell("b", Do::Succeed);
    let error = soon(run).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    let mut said = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        said += &format!(": {cause}");
        source = cause.source();
    }
    assert!(said.contains("No space left on device"), "{said}");
    let refused = submitter
        .start("other", leaf("c").build())
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Storage(_)), "{refused:?}");

    client
        .batch_execute(&format!("DROP FUNCTION {schema}.no_room CASCADE"))
        .await
        .unwrap();
    let again = submitter
        .start("run", join("b", [leaf("a")]).build())
        .await?;
    assert_eq!(soon(again).await?, 2);
    let mut log = cluster.world.log();
    log.dedup();
    assert_eq!(log, ["a", "b"], "a step whose result was durable ran again");
    Ok(())
}
