//! An inbox has every message once, in order of arrival, until the run consumes it.

use super::kit::*;
use crate::{MessageId, Send, SendOutcome, StoredStatus, Timestamp, WriteOutcome};

/// Within a batch the order is the batch's, between batches that of the commits.
pub async fn messages_come_in_order_of_arrival(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let other = Owned::new("ab").create(&*store).await;
    let batch = ["3", "1", "2"].map(|body| message(&run, None, body));
    let mut batch = batch.to_vec();
    batch.insert(1, message(&other, None, "other"));
    let outcomes = send(&*store, batch).await;
    sent(&*store, message(&run, Some("key"), "0")).await;

    assert_eq!(bodies(&*store, &run.run).await, ["3", "1", "2", "0"]);
    assert_eq!(bodies(&*store, &other.run).await, ["other"]);
    let messages = inbox(&*store, &run.run).await;
    assert!(messages.is_sorted_by(|a, b| a.id < b.id), "{messages:?}");
    assert_eq!(outcomes[0], SendOutcome::Accepted(messages[0].id));
    assert_eq!(outcomes[3], SendOutcome::Accepted(messages[2].id));
}

/// A message keeps the time at which it was sent, and has its place in the inbox by its arrival.
pub async fn messages_keep_their_times(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let times = [1 << 40, 7, 0].map(Timestamp);
    for sent_at in times {
        let message = Send {
            sent_at,
            ..message(&run, None, "a message")
        };
        sent(&*store, message).await;
    }
    let messages = inbox(&*store, &run.run).await;
    assert_eq!(
        messages
            .iter()
            .map(|message| message.sent_at)
            .collect::<Vec<_>>(),
        times
    );
    assert_eq!(bodies(&*store, &run.run).await, ["a message"; 3]);
}

/// A message is one message, however the store has to cut it, and goes as a whole.
pub async fn messages_of_all_sizes_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let mut ids = Vec::new();
    for (n, size) in SIZES.into_iter().enumerate() {
        ids.push(sent(&*store, message(&run, None, noise(size, n as u64))).await);
    }
    let read = inbox(&*store, &run.run).await;
    assert_eq!(read.len(), SIZES.len());
    for (n, message) in read.iter().enumerate() {
        assert_eq!(message.id, ids[n]);
        assert!(
            message.body == noise(SIZES[n], n as u64),
            "{} bytes",
            SIZES[n]
        );
    }
    write(&*store, run.consume(&ids[1..])).await;
    assert_eq!(bodies(&*store, &run.run).await, [""]);
}

/// `after` and `limit` page through an inbox; a consumed number is still a place to go on from.
pub async fn pages_go_on_after_a_number(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(sent(&*store, message(&run, None, n.to_string())).await);
    }
    let page = async |after: Option<MessageId>, limit| {
        let page = store.inbox(&run.run, after, limit).await.unwrap();
        page.iter().map(|message| message.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, ids[..2]);
    assert_eq!(page(Some(ids[1]), 2).await, ids[2..4]);
    assert_eq!(page(Some(ids[3]), 2).await, ids[4..]);
    assert_eq!(page(Some(ids[4]), 2).await, []);
    write(&*store, run.consume(&ids[1..3])).await;
    assert_eq!(page(Some(ids[1]), 9).await, ids[3..]);
    assert_eq!(page(None, 2).await, [ids[0], ids[3]]);
}

/// A second message of a key is dropped, in a later batch and in the same; without a key none is.
pub async fn a_key_arrives_once(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let first = sent(&*store, message(&run, Some("key"), "first")).await;
    let outcomes = send(
        &*store,
        vec![
            message(&run, Some("key"), "again"),
            message(&run, Some("ke"), "shorter"),
            message(&run, Some("key\0"), "longer"),
            message(&run, Some(""), "empty"),
            message(&run, Some("two"), "2"),
            message(&run, Some("two"), "2 again"),
            message(&run, None, "none"),
            message(&run, None, "none"),
        ],
    )
    .await;
    let taken: Vec<_> = outcomes
        .iter()
        .map(|outcome| matches!(outcome, SendOutcome::Accepted(id) if *id > first))
        .collect();
    assert_eq!(taken, [false, true, true, true, true, false, true, true]);
    assert_eq!(outcomes[0], SendOutcome::Duplicate);
    assert_eq!(outcomes[5], SendOutcome::Duplicate);
    assert_eq!(
        bodies(&*store, &run.run).await,
        ["first", "shorter", "longer", "empty", "2", "none", "none"]
    );
}

/// A key is remembered longer than its message.
pub async fn a_key_arrives_once_also_after_consumption(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let first = sent(&*store, message(&run, Some("key"), "first")).await;
    write(&*store, run.consume(&[first])).await;
    let again = send(&*store, vec![message(&run, Some("key"), "again")]).await;
    assert_eq!(again, [SendOutcome::Duplicate]);
    assert_eq!(inbox(&*store, &run.run).await, []);
}

/// Keys that are longer than a store may want in one of its own, and differ only at their end, are told apart.
pub async fn long_keys_are_told_apart(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let keys = ["", "a", "b"].map(|end| "long ".repeat(1_000) + end);
    for key in &keys {
        sent(&*store, message(&run, Some(key), "x")).await;
    }
    for key in &keys {
        let again = send(&*store, vec![message(&run, Some(key), "x")]).await;
        assert_eq!(again, [SendOutcome::Duplicate]);
    }
}

/// The same key to two runs is two messages, also where one id begins with the other.
pub async fn keys_belong_to_a_run(stores: Stores<'_>) {
    let store = stores.open().await;
    let short = Owned::new("a").create(&*store).await;
    let long = Owned::new("ab").create(&*store).await;
    let outcomes = send(
        &*store,
        vec![
            message(&short, Some("bc"), "1"),
            message(&long, Some("c"), "2"),
            message(&long, Some("bc"), "3"),
        ],
    )
    .await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, SendOutcome::Accepted(_))),
        "{outcomes:?}"
    );
    assert_eq!(bodies(&*store, &short.run).await, ["1"]);
    assert_eq!(bodies(&*store, &long.run).await, ["2", "3"]);
}

/// Nobody is there to read a message to a run that there is not or that has ended; other messages arrive.
pub async fn unknown_and_ended_runs_take_no_messages(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut messages = vec![message(&Owned::new("unknown"), Some("k"), "x")];
    for status in StoredStatus::ALL {
        let run = Owned::new(&format!("{status:?}")).status(status);
        messages.push(message(&run.create(&*store).await, Some("k"), "x"));
    }
    let outcomes = send(&*store, messages).await;
    assert_eq!(outcomes[0], SendOutcome::NotFound);
    for (status, outcome) in StoredStatus::ALL.into_iter().zip(&outcomes[1..]) {
        let read = bodies(&*store, &id(&format!("{status:?}"))).await;
        if status.is_final() {
            assert_eq!(*outcome, SendOutcome::Ended, "{status:?}");
            assert_eq!(read.len(), 0, "{status:?}");
        } else {
            assert!(matches!(outcome, SendOutcome::Accepted(_)), "{status:?}");
            assert_eq!(read, ["x"], "{status:?}");
        }
    }
    // What was not taken is not remembered either.
    let run = Owned::new("unknown").create(&*store).await;
    sent(&*store, message(&run, Some("k"), "x")).await;
}

/// Messages of a batch meet the runs as its writes leave them: a run may come with its first message, and a run that
/// ends takes no more.
pub async fn messages_meet_the_runs_as_written(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut ending = Owned::new("ending").create(&*store).await;
    ending.record.status = StoredStatus::Successful;
    let new = Owned::new("new");
    let (writes, messages) = commit(
        &*store,
        vec![ending.write(), new.creation()],
        vec![message(&ending, None, "late"), message(&new, None, "first")],
    )
    .await;
    assert_eq!(writes, [WriteOutcome::Written, WriteOutcome::Written]);
    assert_eq!(messages[0], SendOutcome::Ended);
    assert!(matches!(messages[1], SendOutcome::Accepted(_)));
    assert_eq!(bodies(&*store, &ending.run).await.len(), 0);
    assert_eq!(bodies(&*store, &new.run).await, ["first"]);
}

/// A message goes in the same commit in which the run says what it made of it, or not at all.
pub async fn consumption_is_part_of_the_write(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut run = Owned::new("a").create(&*store).await;
    let one = sent(&*store, message(&run, None, "1")).await;
    let two = sent(&*store, message(&run, None, "2")).await;

    let mut refused = run.clone().append("got 1");
    refused.expect = crate::Expect::Epoch(crate::Epoch(9));
    refused.consumed = vec![one];
    let outcome = try_write(&*store, refused).await;
    assert!(matches!(outcome, WriteOutcome::Fenced { .. }));
    assert_eq!(bodies(&*store, &run.run).await, ["1", "2"]);

    let mut taken = run.append("got 2");
    // One that is not there any more may be named again.
    taken.consumed = vec![two, two];
    write(&*store, taken).await;
    assert_eq!(bodies(&*store, &run.run).await, ["1"]);
    assert_eq!(journal(&*store, &run.run).await, [entry(0, "got 2")]);
    write(&*store, run.consume(&[two])).await;
    assert_eq!(bodies(&*store, &run.run).await, ["1"]);
}

/// A reader that goes on after the last number it saw misses nothing, also when the inbox was emptied meanwhile.
pub async fn numbers_are_never_used_again(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    let mut last = None;
    for n in 0..5 {
        let id = sent(&*store, message(&run, None, n.to_string())).await;
        assert!(last < Some(id), "{id:?} came after {last:?}");
        let new = store.inbox(&run.run, last, ALL).await.unwrap();
        assert_eq!(new.len(), 1);
        write(&*store, run.consume(&[id])).await;
        last = Some(id);
    }
}

/// Order holds past the numbers that fit in one byte.
pub async fn many_messages_stay_in_order(stores: Stores<'_>) {
    let store = stores.open().await;
    let run = Owned::new("a").create(&*store).await;
    for batch in 0..3 {
        let messages = (0..100).map(|n| message(&run, None, (batch * 100 + n).to_string()));
        send(&*store, messages.collect()).await;
    }
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&*store, &run.run).await, expected);
}
