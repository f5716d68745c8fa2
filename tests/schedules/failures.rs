//! A schedule can't start its run.

use std::sync::{Arc, Mutex};

use keepstep::prelude::*;

use crate::common::{Do, Lab};
use crate::{HOUR, MINUTE, after, full_hour, runs, tick};

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_full_is_tried_ever_more_rarely_and_the_run_comes_when_there_is_room() {
    let lab = Lab::new();
    let builder = lab.builder().max_running_runs(1).max_pending_runs(1);
    let engine = builder.build().await.unwrap();
    let attempts = Attempts::default();
    let _guard = tracing::subscriber::set_default(attempts.clone());
    full_hour(&lab).await;
    lab.world.tell("tick", Do::Hold);
    let _first = engine.start("first", tick(0)).await.unwrap();
    let _second = engine.start("second", tick(0)).await.unwrap();
    let daily = engine.schedule("s", "0 * * * *", tick(1));
    daily.await.unwrap();
    for _ in 0..4 {
        *attempts.0.lock().unwrap() = 0;
        after(HOUR).await;
        let n = *attempts.0.lock().unwrap();
        assert!(n <= 60, "{n} attempts in an hour");
    }
    assert!(*attempts.0.lock().unwrap() > 0);
    assert_eq!(runs(&engine).await.len(), 2);
    lab.world.tell("tick", Do::Succeed);
    after(3 * MINUTE).await;
    assert_eq!(runs(&engine).await.len(), 3);
    // From here on it is punctual.
    after(HOUR - 3 * MINUTE + MINUTE / 6).await;
    assert_eq!(runs(&engine).await.len(), 4);
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn times_that_never_come_are_refused() {
    let lab = Lab::new();
    let engine = lab.engine().await;
    for cron in ["0 0 30 2 *", "0 0 31 11 * Europe/Warsaw", "@reboot"] {
        let error = engine.schedule("s", cron, tick(1)).await.unwrap_err();
        assert!(matches!(error, Error::InvalidSchedule { .. }), "{error}");
    }
    for cron in ["@daily", "@weekly Europe/Warsaw", "0 0 29 2 *"] {
        engine.schedule("s", cron, tick(1)).await.unwrap();
        assert_eq!(engine.schedules().await.unwrap()[0].cron, cron);
    }
}

/// Counts how often it was logged that a schedule could not start its runs.
#[derive(Clone, Default)]
struct Attempts(Arc<Mutex<usize>>);

impl tracing::Subscriber for Attempts {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Says(bool);
        impl tracing::field::Visit for Says {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let text = format!("{value:?}");
                self.0 |= field.name() == "message" && text.contains("could not start its runs");
            }
        }
        let mut says = Says(false);
        event.record(&mut says);
        *self.0.lock().unwrap() += usize::from(says.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
