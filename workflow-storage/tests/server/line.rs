//! A line between a store and its server that can be cut off in silence: nothing comes any more, and nobody closes it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a line swallows, and which connections.
#[derive(Debug, Clone, Copy)]
struct Mute {
    /// Those over which this was asked.
    asked: &'static str,
    /// Not what is asked, which the server does.
    answers_only: bool,
    /// Those that were made before.
    before: u64,
}

/// Stands between a store and its server, and swallows what it is told to.
pub(crate) struct Line {
    pub(crate) url: String,
    mute: watch::Sender<Mute>,
    pub(crate) n_made: watch::Sender<u64>,
    n_muted: watch::Sender<u64>,
}

impl Line {
    /// A line to the server and the store of a URL.
    pub(crate) async fn to(url: &str) -> Self {
        let (_, rest) = url.split_once('@').unwrap();
        let (server, rest) = rest.split_once('/').unwrap();
        let server: SocketAddr = server.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mute = watch::Sender::new(Mute {
            asked: "",
            answers_only: false,
            before: 0,
        });
        let (n_made, n_muted) = (watch::Sender::new(0), watch::Sender::new(0));
        let (told, made, muted) = (mute.subscribe(), n_made.clone(), n_muted.clone());
        tokio::spawn(async move {
            while let Ok((store, _)) = listener.accept().await {
                let number = *made.borrow();
                made.send_modify(|made| *made += 1);
                tokio::spawn(pass(store, server, number, told.clone(), muted.clone()));
            }
        });
        Self {
            // Silence is noticed within a second.
            url: format!("postgres://postgres@{address}/{rest}&sslmode=disable&patience=4"),
            mute,
            n_made,
            n_muted,
        }
    }

    /// Swallows everything on connections that were made before, and over which this was asked.
    pub(crate) fn swallow(&self, asked: &'static str, answers_only: bool) {
        self.mute.send_replace(Mute {
            asked,
            answers_only,
            before: *self.n_made.borrow(),
        });
    }

    /// Swallows everything, also on connections that are made from now on, until it is told otherwise.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn swallow_all(&self) {
        self.mute.send_replace(Mute {
            asked: "",
            answers_only: false,
            before: u64::MAX,
        });
    }

    /// Passes everything on connections that are made from now on. Those that were silent stay so.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn pass_on(&self) {
        self.swallow("", false);
    }

    /// Waits until something was swallowed, and the store has made another connection since it was to be.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) async fn until_made_anew(&self) {
        let before = self.mute.borrow().before;
        let (mut muted, mut made) = (self.n_muted.subscribe(), self.n_made.subscribe());
        drop(muted.wait_for(|muted| *muted > 0).await);
        drop(made.wait_for(|made| *made > before).await);
    }
}

async fn pass(
    mut store: TcpStream,
    server: SocketAddr,
    number: u64,
    told: watch::Receiver<Mute>,
    muted: watch::Sender<u64>,
) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut asked, mut answered) = ([0; 65536], [0; 65536]);
    let mut all_asked = String::new();
    let (mut is_muted, mut has_ended) = (false, false);
    let is_to_mute = |all_asked: &str, is_muted: &mut bool| {
        let mute = *told.borrow();
        if !*is_muted && number < mute.before && all_asked.contains(mute.asked) {
            *is_muted = true;
            muted.send_modify(|muted| *muted += 1);
        }
        mute.answers_only
    };
    loop {
        tokio::select! {
            n = store.read(&mut asked) => {
                let n = n.unwrap_or(0);
                if n == 0 {
                    return;
                }
                let answers_only = is_to_mute(&all_asked, &mut is_muted);
                all_asked.push_str(&String::from_utf8_lossy(&asked[..n]));
                if !is_muted || answers_only {
                    drop(server.write_all(&asked[..n]).await);
                }
            }
            n = server.read(&mut answered), if !has_ended => {
                let n = n.unwrap_or(0);
                is_to_mute(&all_asked, &mut is_muted);
                has_ended = n == 0;
                if is_muted {
                    continue;
                }
                if has_ended || store.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
