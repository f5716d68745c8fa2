//! From a URL to the settings of a connection. No password leaves this file but in the client's configuration, which does not
//! show it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{Config, config};

use super::error::BACKEND;
use super::hosts::BESIDE_AFTER;
use super::tls::TlsMode;
use crate::{Result, StorageError};

const DEFAULT_SCHEMA: &str = "keepstep";
const DEFAULT_CONNECTIONS: usize = 8;
/// Less than a lease: who cannot write for that long finds out by itself.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(20);
/// For how long a host is tried to be reached, if the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a host may take to let somebody in, once it is reached.
const GREET_WITHIN: Duration = Duration::from_secs(5);
/// PostgreSQL cuts longer names off.
const MAX_SCHEMA_BYTES: usize = 63;

/// What a URL says.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) tls: TlsMode,
    pub(super) root_certificates: Option<PathBuf>,
    pub(super) schema: String,
    pub(super) connections: usize,
    /// For how long a call is tried again whose connection was lost.
    pub(super) patience: Duration,
    /// Where the server is, without secrets.
    pub(super) location: String,
}

impl Settings {
    /// For how long a connection that was there before may be silent until another one is made. A quarter of the
    /// patience: then there is time to ask again.
    pub(super) fn silence(&self) -> Duration {
        (self.patience / 4).clamp(Duration::from_secs(1), Duration::from_secs(10))
    }

    /// For how long a connection may be in the making: the last host is tried beside the others.
    pub(super) fn connect_within(&self) -> Duration {
        let hosts = u32::try_from(self.config.get_hosts().len()).unwrap_or(1);
        self.connect_to_each_within() + BESIDE_AFTER * hosts.saturating_sub(1)
    }

    /// For how long one host may keep it waiting: until it is reached, and until it has let somebody in.
    pub(super) fn connect_to_each_within(&self) -> Duration {
        let reached_within = self.config.get_connect_timeout().copied();
        let reached_within = reached_within.unwrap_or(CONNECT_TIMEOUT);
        reached_within + reached_within.min(GREET_WITHIN)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.location)
    }
}

pub(super) fn wrong(what: impl Into<String>) -> StorageError {
    StorageError::Setting {
        backend: BACKEND,
        what: what.into(),
    }
}

/// Where a password may come from that is not in the URL.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) password: Option<String>,
    pub(super) passfile: Option<PathBuf>,
}

impl Surroundings {
    pub(super) fn of_process() -> Self {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass"));
        let passfile = std::env::var_os("PGPASSFILE").map(PathBuf::from);
        Self {
            password: std::env::var("PGPASSWORD").ok(),
            passfile: passfile.or_else(home),
        }
    }
}

/// Takes keepstep's own parameters out of a URL, and gives the rest to the client.
pub(super) fn parse(url: &str, surroundings: &Surroundings) -> Result<Settings> {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut schema = DEFAULT_SCHEMA.to_owned();
    let mut connections = DEFAULT_CONNECTIONS;
    let mut patience = DEFAULT_PATIENCE;
    let (mut tls, mut root_certificates) = (TlsMode::Prefer, None);
    let mut others: Vec<&str> = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = decode(value)?;
        match name {
            "schema" => schema = check_schema(value)?,
            "connections" => {
                connections = value
                    .parse()
                    .ok()
                    .filter(|n| *n >= 1)
                    .ok_or_else(|| wrong("connections must be a number of 1 or more"))?;
            }
            "patience" => {
                let seconds = value
                    .parse()
                    .map_err(|_| wrong("patience must be a number of seconds"))?;
                patience = Duration::from_secs(seconds);
            }
            "sslmode" => tls = value.parse()?,
            "sslrootcert" => {
                root_certificates = (value != "system").then(|| PathBuf::from(value));
            }
            _ => others.push(parameter),
        }
    }
    if root_certificates.is_some() && tls == TlsMode::Require {
        // As every client of PostgreSQL does it.
        tls = TlsMode::VerifyCa;
    }
    let plain = match &others[..] {
        [] => address.to_owned(),
        others => format!("{address}?{}", others.join("&")),
    };
    let mut config = Config::from_str(&plain).map_err(|error| {
        // Its cause names a parameter, not a value.
        let cause = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        wrong(format!("the URL is not one of PostgreSQL: {cause}"))
    })?;
    if config.get_hosts().is_empty() {
        return Err(wrong(
            "the URL names no host, as in postgres://user@host/database",
        ));
    }
    config.ssl_mode(tls.for_client());
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.keepalives_idle(Duration::from_secs(10));
    config.keepalives_interval(Duration::from_secs(5));
    config.keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(20));
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_application_name().is_none() {
        config.application_name("keepstep");
    }
    if config.get_password().is_none() {
        let found = match &surroundings.password {
            Some(password) => Some(password.clone()),
            None => surroundings
                .passfile
                .as_deref()
                .and_then(|path| super::passfile::password(path, &config)),
        };
        if let Some(password) = found {
            config.password(password);
        }
    }
    let location = location(&config, &schema);
    Ok(Settings {
        config,
        tls,
        root_certificates,
        schema,
        connections,
        patience,
        location,
    })
}

fn check_schema(schema: String) -> Result<String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_good = schema.starts_with(|c: char| c.is_ascii_lowercase())
        && schema.chars().all(is_word)
        && schema.len() <= MAX_SCHEMA_BYTES
        && !schema.starts_with("pg_");
    if is_good {
        Ok(schema)
    } else {
        Err(wrong(format!(
            "{schema:?} cannot be the name of a schema: take a lower-case letter, then letters, digits and underscores, \
             {MAX_SCHEMA_BYTES} at most, not beginning with pg_"
        )))
    }
}

/// Undoes percent encoding.
fn decode(value: &str) -> Result<String> {
    let bad = || wrong("a parameter of the URL has a % that two hexadecimal digits do not follow");
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [*rest.next().ok_or_else(bad)?, *rest.next().ok_or_else(bad)?];
        let digits = std::str::from_utf8(&digits).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong("a parameter of the URL is not UTF-8"))
}

fn location(config: &Config, schema: &str) -> String {
    let ports = config.get_ports();
    let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate();
    let hosts: Vec<String> = hosts
        .map(|(n, host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(n)),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{}", path.display(), port(n)),
        })
        .collect();
    let database = config
        .get_dbname()
        .or(config.get_user())
        .unwrap_or("postgres");
    format!("{}/{database} schema {schema}", hosts.join(","))
}

impl FromStr for TlsMode {
    type Err = StorageError;

    fn from_str(mode: &str) -> Result<Self> {
        Ok(match mode {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(wrong(
                    "sslmode must be disable, prefer, require, verify-ca or verify-full",
                ));
            }
        })
    }
}

impl TlsMode {
    fn for_client(self) -> config::SslMode {
        match self {
            Self::Disable => config::SslMode::Disable,
            Self::Prefer => config::SslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => config::SslMode::Require,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Settings {
        parse(url, &Surroundings::default()).unwrap()
    }

    fn refusal(url: &str) -> String {
        parse(url, &Surroundings::default())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_url_says_where_the_server_is_and_what_is_keepsteps() {
        let settings = parsed(
            "postgresql://ann:se%40cret@db.example:6000/jobs?schema=flows&connections=3&sslmode=verify-full&patience=5",
        );
        assert_eq!(settings.location, "db.example:6000/jobs schema flows");
        assert_eq!(settings.schema, "flows");
        assert_eq!(settings.connections, 3);
        assert_eq!(settings.patience, Duration::from_secs(5));
        assert_eq!(settings.tls, TlsMode::VerifyFull);
        assert_eq!(settings.config.get_password(), Some(&b"se@cret"[..]));
        assert!(!format!("{settings:?}").contains("cret"));

        let plain = parsed("postgres://h1,h2/?host=/run/x");
        assert_eq!(plain.schema, "keepstep");
        assert_eq!(plain.tls, TlsMode::Prefer);
        assert_eq!(
            parsed("postgres://h/d?sslmode=require&sslrootcert=%2Fca.pem").tls,
            TlsMode::VerifyCa
        );
    }

    #[test]
    fn wrong_urls_say_what_is_wrong_and_show_no_secret() {
        for (url, what) in [
            ("postgres://me:secret@", "names no host"),
            (
                "postgres://me:secret@h/d?schema=Robert'",
                "name of a schema",
            ),
            ("postgres://me:secret@h/d?schema=pg_x", "name of a schema"),
            ("postgres://me:secret@h/d?connections=0", "connections must"),
            ("postgres://me:secret@h/d?patience=long", "patience must"),
            ("postgres://me:secret@h/d?sslmode=secret", "sslmode must"),
            ("postgres://me:secret@h/d?schema=%zz", "hexadecimal"),
            ("postgres://me:secret@h:port/d", "not one of PostgreSQL"),
            (
                "postgres://me:secret@h/d?password_secret=1",
                "not one of PostgreSQL",
            ),
        ] {
            let error = refusal(url);
            assert!(error.contains(what), "{url}: {error}");
            assert!(!error.contains("me:secret"), "{error}");
        }
    }

    #[test]
    fn a_password_comes_from_the_url_or_the_environment() {
        let surroundings = Surroundings {
            password: Some("from the environment".to_owned()),
            passfile: None,
        };
        let password = |url: &str| {
            let settings = parse(url, &surroundings).unwrap();
            String::from_utf8(settings.config.get_password().unwrap().to_vec()).unwrap()
        };
        assert_eq!(password("postgres://me@h/d"), "from the environment");
        assert_eq!(password("postgres://me:mine@h/d"), "mine");
    }
}
