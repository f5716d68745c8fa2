//! Recovery from the middle of what has grown: exactly what was not done runs.

use crate::common::{Do, Lab, Tree, caught, grow, join, leaf};

/// Stops a tree where a step begins, crashes, and goes on; returns the output, and what ran before and after.
async fn stopped_at(tree: &Tree, who: &str) -> (i64, Vec<String>, Vec<String>) {
    let lab = Lab::new();
    lab.world.tell("bad", Do::Fail);
    lab.world.tell(who, Do::Hold);
    let engine = lab.engine().await;
    drop(engine.start("run", tree.build()).await.unwrap());
    lab.world.until(who).await;
    // Whatever does not wait for it is done, and durable.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    lab.crash(engine).await;
    let mut before = lab.world.log();
    before.retain(|noted| !noted.ends_with(" dropped") && noted != who);
    lab.world.tell(who, Do::Succeed);
    let engine = lab.engine().await;
    let output = engine.resume::<i64>("run").await.unwrap().await.unwrap();
    engine.shutdown().await.unwrap();
    (output, before, lab.world.log())
}

/// g1 > x(g2 > y(g3 > z(a, b))), each in the one before.
fn deep() -> Tree {
    let z = grow("g3", join("z", [leaf("a"), leaf("b")]));
    let y = grow("g2", join("y", [z]));
    grow("g1", join("x", [y]))
}

#[tokio::test(start_paused = true)]
async fn a_deep_expansion_goes_on_where_it_was() {
    let order = ["g1", "g2", "g3", "a", "b", "z", "y", "x"];
    for (at, who) in order.iter().enumerate() {
        let (output, before, after) = stopped_at(&deep(), who).await;
        assert_eq!(output, 5);
        // The two leaves are independent of each other.
        let (mut done, mut left) = (order[..at].to_vec(), order[at..].to_vec());
        if *who == "a" {
            done.push("b");
            left.remove(1);
        }
        assert_eq!((before, after), (owned(&done), owned(&left)), "at {who}");
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_tail_calls_goes_on_where_it_was() {
    let names: Vec<String> = (0..30).map(|n| format!("t{n:02}")).collect();
    let chain = names[..29].iter().rev();
    let tree = chain.fold(leaf(&names[29]), |inner, name| grow(name, inner));
    for at in [0, 1, 15, 28, 29] {
        let (output, before, after) = stopped_at(&tree, &names[at]).await;
        assert_eq!(output, 1);
        assert_eq!((&before[..], &after[..]), (&names[..at], &names[at..]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_caught_stays_caught() {
    let inner = caught("c", grow("g", join("x", [leaf("bad"), leaf("a")])));
    let tree = join("root", [grow("outer", join("y", [inner])), leaf("z")]);
    let (output, before, after) = stopped_at(&tree, "c").await;
    assert_eq!(output, 2);
    assert!(before.contains(&"bad".to_owned()), "{before:?}");
    assert_eq!(after, ["c", "y", "root"]);
    let (_, before, after) = stopped_at(&tree, "y").await;
    assert!(before.contains(&"c".to_owned()), "{before:?}");
    assert_eq!(after, ["y", "root"]);
}

#[tokio::test(start_paused = true)]
async fn branches_go_on_each_where_it_was() {
    let branch = |n: usize| {
        let name = |what: &str| format!("{what}{n}");
        let inner = join(&name("y"), [grow(&name("h"), leaf(&name("l")))]);
        grow(&name("g"), inner)
    };
    let tree = join("root", (0..8).map(branch).collect::<Vec<_>>());
    let lab = Lab::new();
    // The first branches are held at their grow, the next at their leaf, the last at their end.
    let held = |n: usize| match n {
        0..=2 => format!("g{n}"),
        3..=5 => format!("l{n}"),
        _ => format!("y{n}"),
    };
    (0..8).for_each(|n| lab.world.tell(&held(n), Do::Hold));
    let engine = lab.engine().await;
    drop(engine.start("run", tree.build()).await.unwrap());
    for n in 0..8 {
        lab.world.until(&held(n)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    lab.crash(engine).await;
    lab.world.log();
    (0..8).for_each(|n| lab.world.tell(&held(n), Do::Succeed));
    let engine = lab.engine().await;
    assert_eq!(engine.run("run", tree.build()).await.unwrap(), 8 * 2 + 1);
    let mut expected = vec!["root".to_owned()];
    for n in 0..8 {
        let left = match n {
            0..=2 => &["g", "h", "l", "y"][..],
            3..=5 => &["l", "y"],
            _ => &["y"],
        };
        expected.extend(left.iter().map(|what| format!("{what}{n}")));
    }
    expected.sort();
    assert_eq!(lab.world.sorted_log(), expected);
    engine.shutdown().await.unwrap();
}
