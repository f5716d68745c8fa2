//! A wire between a store and its server, which loses what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::server;

/// Stands between a store and its server, and cuts connections when it is told.
pub(crate) struct Wire {
    /// The URL of an empty schema, by way of this.
    pub(crate) url: String,
    /// How many answers are kept from the store, and its connection cut instead.
    cuts: Arc<AtomicU32>,
    /// Requests that are kept from the server, of a connection that the store has lost.
    late: Arc<Late>,
}

/// Requests that arrive late.
#[derive(Default)]
struct Late {
    /// Whether the next is one.
    is_next: AtomicBool,
    /// It may arrive now.
    arrives: Notify,
    /// The server has answered it.
    answered: Notify,
}

impl Wire {
    pub(crate) async fn to_the_server() -> Self {
        let url = server::url();
        let (_, rest) = url.split_once('@').unwrap();
        let (server, rest) = rest.split_once('/').unwrap();
        let server: SocketAddr = server.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(AtomicU32::new(0));
        let late = Arc::<Late>::default();
        let told = (Arc::clone(&cuts), Arc::clone(&late));
        tokio::spawn(async move {
            while let Ok((store, _)) = listener.accept().await {
                let (cuts, late) = told.clone();
                tokio::spawn(pass(store, server, cuts, late));
            }
        });
        Self {
            url: format!("postgres://postgres@{address}/{rest}&sslmode=disable"),
            cuts,
            late,
        }
    }

    /// The server does what it is asked for next, so often, and the answer is lost.
    pub(crate) fn cut(&self, times: u32) {
        self.cuts.store(times, Ordering::SeqCst);
    }

    /// How many of the answers that are to be lost have not come.
    pub(crate) fn left(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// The connection is lost with what the server is asked for next, which reaches it when [`arrive`](Self::arrive) is called.
    pub(crate) fn delay(&self) {
        self.late.is_next.store(true, Ordering::SeqCst);
    }

    /// Lets what was delayed reach the server, and waits until that has answered.
    pub(crate) async fn arrive(&self) {
        assert!(
            !self.late.is_next.load(Ordering::SeqCst),
            "nothing was delayed"
        );
        self.late.arrives.notify_one();
        self.late.answered.notified().await;
    }
}

async fn pass(mut store: TcpStream, server: SocketAddr, cuts: Arc<AtomicU32>, late: Arc<Late>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut asked, mut answered) = ([0; 65536], [0; 65536]);
    let mut has_asked = false;
    loop {
        tokio::select! {
            n = store.read(&mut asked) => match n {
                Ok(n) if n > 0 => {
                    if is_execution(&asked[..n]) && late.is_next.swap(false, Ordering::SeqCst) {
                        drop(store);
                        late.arrives.notified().await;
                        server.write_all(&asked[..n]).await.unwrap();
                        assert!(server.read(&mut answered).await.unwrap() > 0);
                        late.answered.notify_one();
                        return;
                    }
                    // Only what is asked from here on: a connection that is being made is left alone.
                    has_asked = cuts.load(Ordering::SeqCst) > 0 && is_execution(&asked[..n]);
                    server.write_all(&asked[..n]).await.unwrap();
                }
                _ => return,
            },
            n = server.read(&mut answered) => match n {
                Ok(n) if n > 0 => {
                    let left = |n: u32| n.checked_sub(1);
                    if has_asked && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
                        return;
                    }
                    store.write_all(&answered[..n]).await.unwrap();
                }
                _ => return,
            },
        }
    }
}

/// Whether it asks for a prepared statement with parameters to be executed, as everything is that a store does.
fn is_execution(asked: &[u8]) -> bool {
    asked.first() == Some(&b'B')
}
