//! What a subscriber of `tracing` sees of a run and its steps. In a process of its own: which spans anybody wants to see is
//! remembered for all threads, and tests beside this one want none.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use keepstep::prelude::*;
use tracing_subscriber::fmt::MakeWriter;

#[step(retries = 1, backoff = "1ms")]
async fn flaky() -> Result<u64, String> {
    tracing::info!("the body speaks");
    match context().attempt() {
        1 => Err("not yet".to_owned()),
        attempt => Ok(attempt.into()),
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// On one thread, so that the subscriber of this test sees it all and no other test's.
#[tokio::test(flavor = "current_thread")]
async fn a_body_speaks_within_the_spans_of_its_run_and_step() -> keepstep::Result<()> {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(captured.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let engine = Engine::open("memory:").await?;
    assert_eq!(engine.run("order/1", flaky().name("pay")).await?, 2);
    engine.shutdown().await?;

    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    let said: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("the body speaks"))
        .collect();
    assert_eq!(said.len(), 2, "{log}");
    for (line, attempt) in said.iter().zip(1..) {
        assert!(line.contains("run{run=order/1"), "{line}");
        let step = format!(r#"step{{run=order/1 step=0 name="pay" attempt={attempt}}}"#);
        assert!(line.contains(&step), "{line}");
    }
    Ok(())
}
