//! Drawings of workflows and of runs.

use keepstep::prelude::*;
use keepstep::{GraphNode, NodeState};

use crate::common::{Do, Lab, World, caught, grow, join, leaf};

#[step(name = "one")]
async fn one() -> i64 {
    1
}

#[step(name = "add")]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[step(name = "retrying", retries = 1, backoff = "1h")]
async fn retrying(#[resource] world: &World) -> Result<i64, String> {
    world.act("retrying").await.map(|()| 1)
}

#[test]
fn a_workflow_draws_itself_before_it_runs() {
    let one = one();
    let workflow = add(&one, add(&one, Workflow::value(2)).name("the \"sum\"")).catch();
    assert_eq!(
        workflow.to_mermaid(),
        "flowchart TD\n    s0[\"one\"]\n    s1[\"value\"]\n    s2[\"the #quot;sum#quot;\"]\n    \
         s3[\"add\"]\n    s4[\"catch\"]\n    s0 --> s2\n    s1 --> s2\n    s0 --> s3\n    \
         s2 --> s3\n    s3 --> s4\n"
    );
    let dot = workflow.to_dot();
    assert!(dot.starts_with("digraph workflow {"), "{dot}");
    assert!(dot.contains(r#"label="the \"sum\"""#), "{dot}");
    for edge in ["s0 -> s2", "s1 -> s2", "s0 -> s3", "s2 -> s3", "s3 -> s4"] {
        assert_eq!(dot.matches(edge).count(), 1, "{edge} in {dot}");
    }
    let graph = workflow.graph().unwrap();
    assert_eq!(graph.nodes.len(), 5);
    assert!(graph.nodes.iter().all(|node| node.state.is_none()));
}

#[tokio::test(start_paused = true)]
async fn the_graph_of_a_run_shows_each_steps_state() -> keepstep::Result<()> {
    let lab = Lab::new();
    for (who, what) in [
        ("held", Do::Hold),
        ("bad", Do::Fail),
        ("slow", Do::Hold),
        ("retrying", Do::FailTimes(1)),
    ] {
        lab.world.tell(who, what);
    }
    let engine = lab.engine().await;
    let failing = caught("caught", join("never", [leaf("bad"), leaf("slow")]));
    let tree = join(
        "last",
        [grow("grown", join("inner", [leaf("held")])), failing],
    );
    let workflow = add(tree.build(), retrying());
    drop(engine.start("run", &workflow).await?);
    for who in ["held", "caught", "retrying"] {
        lab.world.until(who).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;

    let graph = engine.graph("run").await?;
    let node = |name: &str| -> &GraphNode {
        let found = graph.nodes.iter().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {graph:?}"))
    };
    for (name, state) in [
        ("held", NodeState::Running),
        ("inner", NodeState::Waiting),
        ("grown", NodeState::Expanded),
        ("bad", NodeState::Failed),
        ("never", NodeState::Failed),
        ("slow", NodeState::Skipped),
        ("caught", NodeState::Done),
        ("catch", NodeState::Done),
        ("retrying", NodeState::Retrying),
        ("last", NodeState::Waiting),
        ("add", NodeState::Waiting),
    ] {
        assert_eq!(node(name).state, Some(state), "{name}");
    }
    assert_eq!(node("inner").expanded_from, Some(node("grown").id));
    assert_eq!(node("inner").inputs, [node("held").id]);
    assert_eq!(node("retrying").failed_attempts, 1);
    assert!(!node("catch").is_step && node("caught").is_step);
    let mermaid = graph.to_mermaid();
    assert!(mermaid.contains("subgraph"), "{mermaid}");
    for class in [":::running", ":::retrying", ":::expanded", "classDef done"] {
        assert!(mermaid.contains(class), "{class} in {mermaid}");
    }
    assert!(graph.to_dot().contains("subgraph cluster_"));

    lab.world.tell("held", Do::Fail);
    let error = engine.output::<i64>("run").await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    let graph = engine.graph("run").await?;
    let held = graph.nodes.iter().find(|node| node.name == "held").unwrap();
    assert_eq!(held.state, Some(NodeState::Failed));
    let told = held.error.as_deref().unwrap();
    assert!(told.contains("held failed"), "{told}");
    engine.shutdown().await
}
