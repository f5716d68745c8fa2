//! Calls in order, queries beside them, ids, deletion.

use std::sync::Arc;

use keepstep::{ActorFilter, Engine, Error};

use crate::common::{Do, Lab};
use crate::troupe::Counter;

#[tokio::test]
async fn the_counter_of_the_announcement_counts() {
    let engine = Lab::new().engine().await;
    let c1 = Counter::on(&engine)
        .get_or_create("counter_1")
        .await
        .unwrap();
    assert_eq!(c1.incr().await.unwrap(), 1);
    assert_eq!(c1.incr().await.unwrap(), 2);
    assert_eq!(c1.get().await.unwrap(), 2);
    assert_eq!((c1.id(), c1.type_name()), ("counter_1", "counter"));
    let c2 = Counter::on(&engine)
        .get_or_create("counter_2")
        .await
        .unwrap();
    assert_eq!(c2.incr().await.unwrap(), 1);
    let same = Counter::on(&engine)
        .get_or_create("counter_1")
        .await
        .unwrap();
    assert_eq!(same, c1);
    assert_eq!(same.incr().await.unwrap(), 3);
}

#[tokio::test]
async fn methods_are_methods_of_the_plain_value_too() {
    let mut counter = Counter::new();
    assert_eq!(counter.incr().await, 1);
    assert_eq!(counter.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_are_made_one_at_a_time_and_none_is_lost() {
    let engine = Lab::new().engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    let calls = (0..500).map(|_| tokio::spawn(counter.incr().into_future()));
    let mut counts = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        counts.push(call.await.unwrap().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=500).collect::<Vec<u64>>());
    assert_eq!(counter.get().await.unwrap(), 500);
}

#[tokio::test]
async fn calls_of_one_caller_keep_their_order_whether_sent_or_awaited() {
    let engine = Lab::new().engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    for n in 1..50u64 {
        counter.add(1000).send().await.unwrap();
        assert_eq!(counter.incr().await.unwrap(), n * 1001);
    }
}

#[tokio::test]
async fn queries_see_what_is_committed_and_wait_for_no_call() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    assert_eq!(counter.incr().await.unwrap(), 1);
    lab.world.tell("slow", Do::Hold);
    lab.world.tell("watcher", Do::Hold);
    let call = tokio::spawn(counter.act("slow").into_future());
    lab.world.until("slow").await;
    // The call has changed the state, but that is not committed; and both queries are made at once.
    assert_eq!(counter.get().await.unwrap(), 1);
    let watchers = [0, 1].map(|_| tokio::spawn(counter.watch("watcher").into_future()));
    lab.world.until_times("watcher", 2).await;
    lab.world.tell("slow", Do::Succeed);
    assert_eq!(call.await.unwrap().unwrap(), 2);
    assert_eq!(counter.get().await.unwrap(), 2);
    lab.world.tell("watcher", Do::Succeed);
    for watcher in watchers {
        assert_eq!(
            watcher.await.unwrap().unwrap(),
            1,
            "the state is that of the query's beginning"
        );
    }
}

#[tokio::test]
async fn a_call_of_an_id_happens_once() {
    let engine = Lab::new().engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    assert_eq!(counter.incr().id("request-7").await.unwrap(), 1);
    assert_eq!(counter.incr().await.unwrap(), 2);
    assert_eq!(counter.incr().id("request-7").await.unwrap(), 1);
    // Also if both are on their way, or one was sent.
    let (a, b) = tokio::join!(
        counter.incr().id("request-8").into_future(),
        counter.incr().id("request-8").into_future()
    );
    assert_eq!((a.unwrap(), b.unwrap()), (3, 3));
    counter.incr().id("request-9").send().await.unwrap();
    counter.incr().id("request-9").send().await.unwrap();
    assert_eq!(counter.incr().id("request-9").await.unwrap(), 4);
    counter.incr().id("request-8").send().await.unwrap();
    assert_eq!(counter.get().await.unwrap(), 4);
    // The ids of another actor are its own.
    let other = Counter::on(&engine).get_or_create("d").await.unwrap();
    assert_eq!(other.incr().id("request-7").await.unwrap(), 1);
    let error = counter.add(1).id("request-7").await.unwrap_err();
    assert!(matches!(error, Error::CallConflict { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        r#"call "request-7" of actor/counter/c was one of `incr`; choose another id"#
    );
}

#[tokio::test]
async fn creation_is_atomic_and_absence_an_error() {
    let engine = Lab::new().engine().await;
    let counters = Counter::on(&engine);
    let error = counters.get_actor("c").await.unwrap_err();
    assert!(matches!(error, Error::ActorNotFound { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "there is no actor/counter/c; `get_or_create` makes one"
    );
    let all = (0..50).map(|_| {
        let counters = counters.clone();
        tokio::spawn(async move { counters.get_or_create("c").await.unwrap().incr().await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    assert_eq!(
        counters.get_actor("c").await.unwrap().get().await.unwrap(),
        50
    );
    for bad in ["", "a\nb", &"x".repeat(256)] {
        let error = counters.get_or_create(bad).await.unwrap_err();
        assert!(matches!(error, Error::InvalidRunId(_)), "{error}");
    }
}

#[tokio::test]
async fn a_deleted_actor_is_gone_and_its_id_free() {
    let engine = Lab::new().engine().await;
    let counters = Counter::on(&engine);
    let counter = counters.get_or_create("c").await.unwrap();
    counter.incr().id("once").await.unwrap();
    counter.delete().await.unwrap();
    for error in [
        counter.incr().await.unwrap_err(),
        counter.get().await.unwrap_err(),
        counter.incr().send().await.unwrap_err(),
        counter.delete().await.unwrap_err(),
        counters.delete_actor("c").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::ActorNotFound { .. }), "{error}");
    }
    assert!(
        counters
            .list_actors(ActorFilter::all())
            .await
            .unwrap()
            .actors
            .is_empty()
    );
    let again = counters.get_or_create("c").await.unwrap();
    assert_eq!(again.incr().id("once").await.unwrap(), 1);
}

#[tokio::test]
async fn calls_behind_a_deletion_are_told() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("slow", Do::Hold);
    let before = tokio::spawn(counter.act("slow").into_future());
    lab.world.until("slow").await;
    let mut deletion = Box::pin(counter.delete());
    assert!(futures_poll(&mut deletion).await.is_none());
    let behind = tokio::spawn(counter.incr().into_future());
    lab.world.tell("slow", Do::Succeed);
    deletion.await.unwrap();
    assert_eq!(before.await.unwrap().unwrap(), 1);
    let error = behind.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ActorNotFound { .. }), "{error}");
}

/// Polls a future once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_made_all_the_same() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("slow", Do::Hold);
    let call = tokio::spawn(counter.act("slow").into_future());
    lab.world.until("slow").await;
    call.abort();
    lab.world.tell("slow", Do::Succeed);
    assert_eq!(counter.incr().await.unwrap(), 2);
}

#[tokio::test]
async fn an_engine_that_was_shut_down_says_so() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    lab.world.tell("slow", Do::Hold);
    let call = tokio::spawn(counter.act("slow").into_future());
    lab.world.until("slow").await;
    engine.shutdown().await.unwrap();
    for error in [
        call.await.unwrap().unwrap_err(),
        counter.incr().await.unwrap_err(),
        counter.get().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::ShutDown), "{error}");
    }
}

#[tokio::test]
async fn a_missing_resource_is_said_before_anything_is_done() {
    let engine = Engine::builder().build().await.unwrap();
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    for error in [
        counter.act("x").await.unwrap_err(),
        counter.act("x").send().await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::MissingResource { param, .. } if param == "world"),
            "{error}"
        );
    }
    assert_eq!(counter.incr().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_actor_leaves_memory() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let references = Arc::strong_count(&lab.store);
    let counter = Counter::on(&engine).get_or_create("c").await.unwrap();
    assert_eq!(counter.incr().await.unwrap(), 1);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(Arc::strong_count(&lab.store), references);
    assert_eq!(counter.incr().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_is_free_as_soon_as_the_deletion_returns() {
    let engine = Lab::new().engine().await;
    let counters = Counter::on(&engine);
    for _ in 0..200 {
        let counter = counters.get_or_create("c").await.unwrap();
        assert_eq!(counter.incr().await.unwrap(), 1);
        counter.delete().await.unwrap();
    }
}
