//! What is logged when nothing is wrong.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepstep::prelude::*;
use tracing_subscriber::fmt::MakeWriter;

use crate::{Cluster, soon};

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

#[step(name = "quiet::after")]
async fn after() -> u64 {
    7
}

/// Something is due later, something waits, and something was done.
async fn use_it(engine: &Engine, id: &str) {
    assert_eq!(
        soon(engine.run(format!("{id}/now"), after()))
            .await
            .unwrap(),
        7
    );
    let later = after().after(&sleep(Duration::from_secs(3600)));
    let _ = soon(engine.start(format!("{id}/later"), later))
        .await
        .unwrap();
    let waits = event::<u64>("never");
    let _ = soon(engine.start(format!("{id}/waits"), waits))
        .await
        .unwrap();
}

/// On one thread, so that the subscriber of this test sees it all.
#[tokio::test(flavor = "current_thread")]
async fn a_shutdown_without_trouble_warns_of_nothing() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(captured.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    tracing::warn!("this is heard");
    let cluster = Cluster::new();
    for n in 0..5 {
        let (one, two) = (cluster.worker().await, cluster.worker().await);
        use_it(&one, &format!("one/{n}")).await;
        use_it(&two, &format!("two/{n}")).await;
        soon(one.shutdown()).await.unwrap();
        soon(two.shutdown()).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let embedded = [
        ("memory", true),
        ("sled", cfg!(feature = "sled")),
        ("redb", cfg!(feature = "redb")),
        ("fjall", cfg!(feature = "fjall")),
    ];
    for (backend, _) in embedded.into_iter().filter(|(_, is_there)| *is_there) {
        let path = directory.path().join(backend);
        let url = match backend {
            "memory" => "memory:".to_owned(),
            backend => format!("{backend}:{}", path.display()),
        };
        let engine = Engine::builder().open(url).await.unwrap();
        use_it(&engine, "run").await;
        soon(engine.shutdown()).await.unwrap();
    }
    let said = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    // What it says of the server is true, and not of the shutdown.
    assert!(said.contains("this is heard"), "{said}");
    let of_shutdown: Vec<_> = said
        .lines()
        .filter(|line| !line.contains("fsync") && !line.contains("this is heard"))
        .collect();
    assert!(of_shutdown.is_empty(), "{said}");
}
