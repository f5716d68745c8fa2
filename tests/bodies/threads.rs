//! Plain functions that block, and bodies that do not stop: others go on, the store goes on, and the engine shows who hangs.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use keepstep::prelude::*;
use keepstep::{AbandonReason, Filter, StepErrorKind};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{runtime, soon};

/// Threads wait here until it is opened.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.1 += 1;
        changed.notify_all();
        while !state.0 {
            state = changed.wait(state).unwrap();
        }
        state.1 -= 1;
        changed.notify_all();
    }

    fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().0 = true;
        changed.notify_all();
    }

    fn n_waiting(&self) -> usize {
        self.0.0.lock().unwrap().1
    }

    /// Waits until so many threads wait here.
    fn until_waiting(&self, n: usize) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        drop(changed.wait_while(state, |state| state.1 < n).unwrap());
    }
}

#[step(retries = 0)]
fn held(n: u64, #[resource] gate: &Gate) -> u64 {
    gate.pass();
    n
}

#[step(retries = 0, timeout = "20ms")]
fn hung(n: u64, #[resource] gate: &Gate) -> u64 {
    gate.pass();
    n
}

/// An async body that does not yield.
#[step(retries = 0)]
async fn stuck(n: u64, #[resource] gate: &Gate) -> u64 {
    gate.pass();
    n
}

#[step]
fn plain(n: u64) -> u64 {
    n + 1
}

#[step]
async fn quick(n: u64) -> u64 {
    n + 1
}

fn url(backend: &str, dir: &tempfile::TempDir) -> String {
    format!("{backend}:{}", dir.path().join("data").display())
}

fn few_threads(n: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(2).max_blocking_threads(n);
    builder.enable_all().build().unwrap()
}

#[cfg(feature = "sled")]
#[test]
fn plain_functions_take_no_threads_from_the_store() {
    for n_threads in [1, 20] {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::default();
        few_threads(n_threads).block_on(soon(async {
            let builder = Engine::builder().resource(gate.clone());
            let engine = builder.open(url("sled", &dir)).await.unwrap();
            let mut handles = Vec::new();
            for n in 0..50 {
                handles.push(engine.start(format!("{n}"), held(n)).await.unwrap());
            }
            gate.until_waiting(50);
            assert_eq!(engine.list(Filter::all()).await.unwrap().runs.len(), 50);
            engine.cancel("7").await.unwrap();
            assert_eq!(engine.status("7").await.unwrap(), Status::Canceled);
            assert_eq!(engine.run("others", quick(plain(1))).await.unwrap(), 3);
            gate.open();
            for (n, handle) in (0..).zip(handles) {
                match handle.await {
                    Ok(output) => assert_eq!(output, n),
                    Err(Error::Canceled { .. }) => assert_eq!(n, 7),
                    Err(error) => panic!("{error}"),
                }
            }
            engine.shutdown().await.unwrap();
        }));
    }
}

async fn until_none_is_abandoned(engine: &Engine) {
    while !engine.abandoned_steps().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_plain_function_that_timed_out_has_no_slot() {
    let gate = Gate::default();
    runtime().block_on(soon(async {
        let builder = Engine::builder().resource(gate.clone());
        let engine = builder
            .max_concurrent_steps(1)
            .open("memory:")
            .await
            .unwrap();
        let error = engine
            .run("hung", hung(1).name("the hung one"))
            .await
            .unwrap_err();
        let Error::Failed { error, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind, StepErrorKind::Timeout);
        assert_eq!(engine.run("others", quick(plain(1))).await.unwrap(), 3);
        let abandoned = engine.abandoned_steps();
        let [body] = &abandoned[..] else {
            panic!("{abandoned:?}");
        };
        assert_eq!(
            (&*body.run, &*body.step, body.attempt),
            ("hung", "the hung one", 1)
        );
        assert_eq!(body.reason, AbandonReason::TimedOut);
        gate.open();
        until_none_is_abandoned(&engine).await;
        assert_eq!(engine.run("more", quick(plain(1))).await.unwrap(), 3);
        engine.shutdown().await.unwrap();
    }));
}

#[test]
fn hundreds_of_functions_that_hang_stop_no_other() {
    const N: usize = 450;
    let gate = Gate::default();
    runtime().block_on(soon(async {
        let builder = Engine::builder().resource(gate.clone());
        let engine = builder.open("memory:").await.unwrap();
        // On a busy machine, the time of some is over before they begin: they hang nowhere.
        while gate.n_waiting() < N {
            let n = gate.n_waiting();
            let hangs = (n..N).map(|n| hung(n as u64).catch());
            let ended = engine.run(format!("hung after {n}"), all(hangs));
            assert!(ended.await.unwrap().iter().all(Result::is_err));
        }
        while engine.abandoned_steps().len() < N {
            tokio::task::yield_now().await;
        }
        assert_eq!(engine.run("others", quick(plain(1))).await.unwrap(), 3);
        gate.open();
        until_none_is_abandoned(&engine).await;
        engine.shutdown().await.unwrap();
    }));
}

#[test]
fn a_body_that_does_not_stop_has_no_slot() {
    let gate = Gate::default();
    runtime().block_on(soon(async {
        let builder = Engine::builder().resource(gate.clone());
        let engine = builder
            .max_concurrent_steps(1)
            .open("memory:")
            .await
            .unwrap();
        for (id, workflow) in [("plain", held(1)), ("async", stuck(1))] {
            drop(engine.start(id, workflow).await.unwrap());
            while engine.status(id).await.unwrap() != Status::Running {
                tokio::task::yield_now().await;
            }
            tokio::task::block_in_place(|| gate.until_waiting(1 + usize::from(id == "async")));
            engine.cancel(id).await.unwrap();
            assert_eq!(
                engine.run(format!("beside {id}"), plain(1)).await.unwrap(),
                2
            );
        }
        let reasons = engine
            .abandoned_steps()
            .into_iter()
            .map(|body| (body.run, body.reason));
        let stopped = |run: &str| (run.to_owned(), AbandonReason::Stopped);
        assert_eq!(
            reasons.collect::<Vec<_>>(),
            [stopped("plain"), stopped("async")]
        );
        gate.open();
        until_none_is_abandoned(&engine).await;
        engine.shutdown().await.unwrap();
    }));
}

/// What plain functions may rely on, whatever thread they are on.
#[step(retries = 0)]
fn at_home(n: u64) -> u64 {
    assert_eq!(context().attempt(), 1);
    let spawned = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        n + 1
    });
    let n = Handle::current().block_on(spawned).unwrap();
    tokio::task::block_in_place(|| n + 1)
}

#[test]
fn a_plain_function_is_in_the_engines_runtime() {
    let engine = runtime();
    let (opened, other) = (engine.block_on(Engine::open("memory:")).unwrap(), runtime());
    for n in 0..20 {
        let run = opened.run(format!("{n}"), at_home(n));
        assert_eq!(other.block_on(soon(run)).unwrap(), n + 2);
    }
}
