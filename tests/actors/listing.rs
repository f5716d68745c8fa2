//! Listings of actors.

use keepstep::{ActorFilter, Filter};

use crate::common::Lab;
use crate::troupe::Counter;

#[tokio::test]
async fn actors_are_listed_by_type_in_order_page_by_page() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    let counters = Counter::on(&engine);
    for id in ["b/2", "a", "b/1", "c", "b/3"] {
        counters.get_or_create(id).await.unwrap();
    }
    let ids = |page: &keepstep::ActorPage| {
        page.actors
            .iter()
            .map(|actor| actor.id.clone())
            .collect::<Vec<_>>()
    };
    let all = counters.list_actors(ActorFilter::all()).await.unwrap();
    assert_eq!(ids(&all), ["a", "b/1", "b/2", "b/3", "c"]);
    assert_eq!(all.next, None);
    assert!(all.actors.iter().all(|actor| actor.type_name == "counter"));
    let page = ActorFilter::all().id_prefix("b/").limit(2);
    let first = counters.list_actors(page.clone()).await.unwrap();
    assert_eq!(
        (ids(&first), first.next.as_deref()),
        (vec!["b/1".into(), "b/2".into()], Some("b/2"))
    );
    let second = counters
        .list_actors(page.after(first.next.unwrap()))
        .await
        .unwrap();
    assert_eq!((ids(&second), second.next), (vec!["b/3".into()], None));
    let by_name = engine
        .list_actors(ActorFilter::all().type_name("counter"))
        .await
        .unwrap();
    assert_eq!(ids(&by_name).len(), 5);
    let none = engine
        .list_actors(ActorFilter::all().type_name("count"))
        .await
        .unwrap();
    assert!(none.actors.is_empty());
    // Runs have a listing of their own.
    assert!(engine.list(Filter::all()).await.unwrap().runs.is_empty());
    assert!(engine.status("actor/counter/a").await.is_err());
}
