//! Connecting to the host that writes, of those that a URL names. One that is silent keeps nobody from the next.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::Settings;

/// After so long, the next host is tried beside one that is silent.
pub(super) const BESIDE_AFTER: Duration = Duration::from_millis(1500);

/// What TLS makes of a socket.
type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The hosts, and how they are reached.
#[derive(Clone)]
pub(super) struct Hosts {
    each: Arc<[Config]>,
    /// The one to begin with: that was connected to last, or comes after one that was tried in vain.
    last: Arc<AtomicUsize>,
    each_within: Duration,
    tls: MakeRustlsConnect,
}

impl Hosts {
    pub(super) fn new(settings: &Settings, tls: MakeRustlsConnect) -> Self {
        Self {
            each: one_by_one(&settings.config).into(),
            last: Arc::default(),
            each_within: settings.connect_to_each_within(),
            tls,
        }
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }

    /// Connects to the first that takes writes, beginning with the one that did last. One that is silent is left to itself
    /// while the next is tried beside it. If nothing comes of it, also because the caller waits no longer, the next attempt
    /// begins with the next host.
    pub(super) async fn connect(&self) -> Result<(Client, Connection<Socket, Stream>), Error> {
        let (first, n) = (self.last.load(Ordering::Relaxed), self.each.len());
        if n == 1 {
            return self.each[0].connect(self.tls.clone()).await;
        }
        let next = BeginWithNext { hosts: self, first };
        let mut waiting: VecDeque<usize> = (0..n).map(|more| (first + more) % n).collect();
        let mut untried = n;
        let mut trying = JoinSet::new();
        let mut begins_at = Instant::now();
        let mut refusal = None;
        loop {
            tokio::select! {
                () = sleep_until(begins_at), if !waiting.is_empty() => {
                    let Some(at) = waiting.pop_front() else { continue };
                    untried = untried.saturating_sub(1);
                    let (hosts, is_last) = (self.clone(), untried == 0);
                    trying.spawn(async move {
                        let connecting = hosts.each[at].connect(hosts.tls.clone());
                        let connected = match is_last {
                            // The caller has a limit, too.
                            true => Ok(connecting.await),
                            false => timeout(hosts.each_within, connecting).await,
                        };
                        (at, connected)
                    });
                    begins_at = Instant::now() + BESIDE_AFTER;
                }
                Some(tried) = trying.join_next(), if !trying.is_empty() => match tried {
                    Ok((at, Ok(Ok(connected)))) => {
                        std::mem::forget(next);
                        self.last.store(at, Ordering::Relaxed);
                        return Ok(connected);
                    }
                    Ok((at, Ok(Err(error)))) => {
                        tracing::debug!(%error, "a host cannot be used");
                        if untried == 0 && trying.is_empty() {
                            return Err(error);
                        }
                        refusal = Some(error);
                        if untried > 0 {
                            begins_at = Instant::now();
                        } else {
                            // It may be promoted while others are silent.
                            waiting.push_back(at);
                        }
                    }
                    Ok((_, Err(_))) | Err(_) => {
                        tracing::debug!("a host is silent");
                        if untried == 0 && trying.is_empty() && let Some(refusal) = refusal.take() {
                            return Err(refusal);
                        }
                    }
                },
                // All were silent; the caller's limit says so.
                else => std::future::pending().await,
            }
        }
    }
}

/// Has the next attempt begin with another host, unless this one ends with a connection.
struct BeginWithNext<'a> {
    hosts: &'a Hosts,
    first: usize,
}

impl Drop for BeginWithNext<'_> {
    fn drop(&mut self) {
        let next = (self.first + 1) % self.hosts.each.len();
        let last = &self.hosts.last;
        // Whoever connected meanwhile knows better.
        let _ = last.compare_exchange(self.first, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl deadpool_postgres::Connect for Hosts {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async {
            let (client, connection) = Self::connect(self).await?;
            let driving = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection was lost");
                }
            });
            Ok((client, driving))
        })
    }
}

/// A configuration for each host; never none.
fn one_by_one(config: &Config) -> Vec<Config> {
    let n = config.get_hosts().len().max(config.get_hostaddrs().len());
    if n < 2 || config.get_load_balance_hosts() != LoadBalanceHosts::Disable {
        return vec![config.clone()];
    }
    (0..n).map(|at| only(config, at)).collect()
}

/// The configuration with one of its hosts only.
fn only(config: &Config, at: usize) -> Config {
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(name) = config.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(limit) = config.get_connect_timeout() {
        one.connect_timeout(*limit);
    }
    if let Some(limit) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*limit);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding());
    match config.get_hosts().get(at) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        #[cfg(unix)]
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(at) {
        one.hostaddr(*address);
    }
    let ports = config.get_ports();
    if let Some(port) = ports.get(at).or(ports.first()) {
        one.port(*port);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::url::{Surroundings, parse};

    #[test]
    fn each_host_has_all_settings_and_its_own_address() {
        let url = "postgres://ann:secret@a:1,b:2,c:3/jobs?connect_timeout=7&options=-c%20x%3D1&application_name=me&\
                   hostaddr=10.0.0.1,10.0.0.2,10.0.0.3&channel_binding=require&keepalives_retries=9";
        let all = parse(url, &Surroundings::default()).unwrap().config;
        let each = one_by_one(&all);
        assert_eq!(each.len(), 3);
        for (at, (one, name)) in each.iter().zip(["a", "b", "c"]).enumerate() {
            assert_eq!(one.get_hosts(), [Host::Tcp(name.to_owned())]);
            assert_eq!(one.get_hostaddrs(), &all.get_hostaddrs()[at..=at]);
            assert_eq!(one.get_ports(), &all.get_ports()[at..=at]);
            // All else is as if the URL had named this one only.
            let lone = url.replace("a:1,b:2,c:3", &format!("{name}:{}", at + 1));
            let lone = lone.replace("10.0.0.1,10.0.0.2,10.0.0.3", &format!("10.0.0.{}", at + 1));
            let lone = parse(&lone, &Surroundings::default()).unwrap().config;
            assert_eq!(*one, lone);
        }
        let single = parse("postgres://ann@a:1/jobs", &Surroundings::default()).unwrap();
        assert_eq!(one_by_one(&single.config), [single.config]);
    }
}
