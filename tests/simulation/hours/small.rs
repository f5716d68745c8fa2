//! What hours of trouble are not needed for: single things that must go on within a bounded time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstep::Clock;
use tokio::time::{Instant, timeout};

use super::{HOUR, MINUTE};
use crate::programs::{Prog, Spec};
use crate::world::{Limits, World, block_on};

fn spec(label: u32) -> Spec {
    Spec {
        label,
        ..Spec::default()
    }
}

/// Its parent stays in memory, since its timer is near, and executes nothing meanwhile.
#[test]
fn a_child_beside_a_near_timer_begins_with_one_slot() {
    let child = || {
        let leaf = Box::new(Prog::Leaf(spec(1)));
        Box::new(Prog::Child(spec(2), "c".to_owned(), leaf, None))
    };
    let within = Prog::Child(
        spec(3),
        "c".to_owned(),
        Box::new(Prog::Leaf(spec(1))),
        Some(5000),
    );
    let raced = Prog::Race(spec(3), [spec(4), spec(5)], child(), 5000);
    for prog in [within, raced] {
        block_on(async {
            let mut world = World::new(1);
            let limits = Limits {
                runs: Some(1),
                ..Limits::default()
            };
            let opened = world.open(limits).await;
            let began = Instant::now();
            let ended = timeout(HOUR, opened.engine.run("r", prog.build(""))).await;
            let out = ended.expect("it hangs").expect("the child is in time");
            // What the clock yields is less.
            assert!(out.value >= 4000, "{}", out.value);
            assert!(began.elapsed() < Duration::from_secs(1));
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        });
    }
}

/// An engine measures its leases by no clock that somebody sets: it renews them in time, and relies on them for as long as they last.
#[test]
fn a_clock_that_is_set_takes_no_run_from_its_engine() {
    for (is_ahead, is_owners) in [(false, true), (true, true), (false, false), (true, false)] {
        block_on(async {
            let mut world = World::shared(1);
            let mut engines = Vec::new();
            for _ in 0..2 {
                let clock = Clock::tokio();
                let opening = world.open_with(Limits::default(), clock, |builder, _, _| builder);
                engines.push(opening.await.expect("it opens"));
            }
            let long = Prog::Leaf(Spec {
                sleeps_ms: 600_000,
                ..spec(1)
            });
            let began = Instant::now();
            let run = engines[0].engine.start("long", long.build("")).await;
            tokio::time::sleep(MINUTE).await;
            let clock = &engines[usize::from(!is_owners)].clock;
            clock.set(match is_ahead {
                true => clock.now() + HOUR,
                false => clock.now() - HOUR,
            });
            let ended = timeout(HOUR, run.expect("it starts")).await;
            drop(ended.expect("it hangs").expect("it is executed"));
            assert!(began.elapsed() < 11 * MINUTE, "{:?}", began.elapsed());
            // Nobody executed it beside its owner, or again.
            assert_eq!(world.ledger.counts().0, 1);
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        });
    }
}

/// Whoever executes it hears of it, and wakes it in time, also where somebody who begins to wait for it has it locked just then.
#[test]
fn what_a_submitter_starts_is_not_late() {
    for (ms, slowest) in [20, 200, 1500, 4000, 20_000]
        .into_iter()
        .flat_map(|ms| [(ms, 0), (ms, 5), (ms, 60)])
    {
        block_on(async {
            let mut world = World::shared(1);
            world.pace.slowest.store(slowest, Ordering::Relaxed);
            let worker = world.open(Limits::default()).await;
            let limits = Limits {
                only_submits: true,
                ..Limits::default()
            };
            let submitter = world.open(limits).await;
            tokio::time::sleep(MINUTE).await;
            for n in 0..5 {
                let prog = Prog::Nap(spec(1), ms);
                let began = Instant::now();
                let run = submitter.engine.run(format!("r{n}"), prog.build(""));
                let ended = timeout(HOUR, run).await;
                assert_eq!(ended.expect("it hangs").expect("it sleeps").value, 1000);
                let late = began.elapsed().saturating_sub(Duration::from_millis(ms));
                assert!(late < Duration::from_secs(1), "{ms} ms are {late:?} late");
                tokio::time::sleep(Duration::from_millis(ms + n * 700)).await;
            }
            drop((worker, submitter));
            assert_eq!(world.ledger.violations(), Vec::<String>::new());
        });
    }
}

/// A run that waits for a timer holds no slot, also after a restart.
#[test]
fn who_sleeps_is_woken_in_time_behind_long_work_after_a_restart() {
    block_on(async {
        let mut world = World::new(1);
        let of = |runs| Limits {
            runs: Some(runs),
            resumes: true,
            ..Limits::default()
        };
        let opened = world.open(of(2)).await;
        let long = Spec {
            sleeps_ms: 36_000_000,
            ..spec(1)
        };
        let long = Prog::Leaf(long).build("");
        let started = opened.engine.start("long", &long).await;
        drop(started.expect("it starts"));
        tokio::time::sleep(MINUTE).await;
        let sleeper = Prog::Nap(spec(1), 300_000).build("");
        drop(
            opened
                .engine
                .start("sleeper", &sleeper)
                .await
                .expect("it starts"),
        );
        tokio::time::sleep(MINUTE).await;
        opened.crash();
        let engine = world.open(of(1)).await.engine;
        let began = Instant::now();
        let ended = timeout(20 * HOUR, engine.run("sleeper", &sleeper)).await;
        assert_eq!(ended.expect("it hangs").expect("it sleeps").value, 1000);
        let took = began.elapsed();
        assert!(took < 5 * MINUTE, "it slept for {took:?} more");
        assert_eq!(world.ledger.violations(), Vec::<String>::new());
    });
}
