//! Two steps of one name and version are an error when an engine opens, which names both. A program of its own, since
//! all engines of a program have the same steps.

use keepstep::prelude::*;

#[step(name = "order/charge")]
async fn charge() -> i64 {
    1
}

mod other {
    use keepstep::step;

    #[step(name = "order/charge")]
    pub(super) async fn charge() -> i64 {
        2
    }

    /// Another version is another step.
    #[step(name = "order/charge", version = 2)]
    pub(super) async fn charge_again() -> i64 {
        3
    }
}

#[tokio::test]
async fn two_steps_of_one_name_are_an_error_that_names_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let errors = [
        Engine::open(path.to_str().unwrap()).await.err(),
        Engine::builder().build().await.err(),
        charge().eval().await.err(),
        other::charge().eval().await.err(),
        other::charge_again().eval().await.err(),
    ];
    for error in errors {
        let message = error.as_ref().unwrap().to_string();
        match error {
            Some(Error::DuplicateStep {
                name,
                version,
                first,
                second,
            }) => {
                assert_eq!((&*name, version), ("order/charge", 1));
                assert_ne!(first, second);
                for place in [first, second] {
                    assert!(place.contains("duplicate_steps/main.rs:"), "{place}");
                    assert!(message.contains(&place), "{message}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!path.exists(), "the store was touched");
}
