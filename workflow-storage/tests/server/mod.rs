//! A PostgreSQL server for tests: the one that `KEEPSTEP_TEST_POSTGRES` names (a URL), or one of our own, started from
//! installed binaries in a temporary folder, which ends with the process that started it.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "it is for tests")]

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs the server until standard input ends, which it does however the test process does, and tidies up.
const KEEPER: &str = r#"
    "$1/postgres" -D "$2/data" -k "$2" -p "$3" -c listen_addresses=127.0.0.1 -c max_connections=200 $4 >> "$2/log" 2>&1 &
    server=$!
    read -r end
    if [ "$end" = stay ]; then wait $server; exit; fi
    kill -QUIT $server
    wait $server
    rm -rf "$2"
"#;

/// What its log says then.
const READY: &str = "ready to accept connections";

/// What the log of a standby says.
const READS: &str = "ready to accept read";

/// A server of our own.
#[derive(Debug)]
pub(crate) struct Server {
    keeper: Child,
    folder: PathBuf,
    port: u16,
}

/// The URL of an empty schema of the server that the tests of this process share. Without any server the process ends here,
/// and says that its tests were skipped.
pub(crate) fn url() -> String {
    static SHARED: OnceLock<Option<(String, Option<Server>)>> = OnceLock::new();
    static SCHEMAS: AtomicU64 = AtomicU64::new(0);
    let shared = SHARED.get_or_init(|| match std::env::var("KEEPSTEP_TEST_POSTGRES") {
        Ok(url) => Some((url, None)),
        // Nothing is cut off from power in these tests.
        Err(_) => Server::start("-c fsync=off -c full_page_writes=off")
            .map(|server| (server.url(), Some(server))),
    });
    let Some((url, _)) = shared else {
        // Past what the test harness captures.
        drop(std::io::stderr().write_all(
            b"\nSKIPPED: no PostgreSQL server: install one, or name one with KEEPSTEP_TEST_POSTGRES\n",
        ));
        std::process::exit(0);
    };
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    let mark = if url.contains('?') { '&' } else { '?' };
    // Another process may use the same server, at another time or now.
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    format!(
        "{url}{mark}schema=test_{}_{since}_{number}",
        std::process::id()
    )
}

/// A connection to the database of a store, past the store, and the name of its schema.
pub(crate) async fn client(url: &str) -> (tokio_postgres::Client, String) {
    let (server, schema) = url.split_once("schema=").unwrap();
    let server = server.trim_end_matches(['?', '&']);
    let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    (client, schema.to_owned())
}

impl Server {
    /// Starts a server; `None` if there are no binaries.
    pub(crate) fn start(options: &str) -> Option<Self> {
        let binaries = binaries()?;
        let folder = tempfile::Builder::new()
            .prefix("keepstep-postgres-")
            .tempdir()
            .unwrap()
            .keep();
        let owner = owner(&folder);
        let mut initdb = Command::new(binaries.join("initdb"));
        initdb
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "-D"])
            .arg(folder.join("data"))
            .current_dir(&folder)
            .stdout(Stdio::null());
        become_owner(&mut initdb, owner);
        assert!(initdb.status().unwrap().success(), "initdb failed");
        let port = free_port();
        let keeper = keeper(&binaries, &folder, port, options, owner);
        let server = Self {
            keeper,
            folder,
            port,
        };
        server.wait_until(READY);
        Some(server)
    }

    /// Starts a server that follows this one, which is started again with `options`, and only reads until it is
    /// promoted.
    pub(crate) fn standby(&mut self, options: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("keepstep-standby-")
            .tempdir()
            .unwrap()
            .keep();
        self.kill();
        // Not by pg_basebackup, which is not installed with every server.
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(self.folder.join("data")).arg(&folder);
        assert!(copy.status().unwrap().success(), "cp failed");
        let owner = owner(&folder);
        let data = folder.join("data");
        drop(std::fs::remove_file(data.join("postmaster.pid")));
        let signal = data.join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&signal, Some(uid), Some(gid)).unwrap();
        }
        self.restart(options);
        let port = free_port();
        // No space: the shell that starts it splits options there.
        let primary = format!("-c primary_conninfo=postgres://postgres@{}", self.address());
        let keeper = keeper(
            &binaries().unwrap(),
            &folder,
            port,
            &format!("{options} {primary}"),
            owner,
        );
        let server = Self {
            keeper,
            folder,
            port,
        };
        server.wait_until(READS);
        server
    }

    /// The URL of its database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The URL of its database by its socket.
    pub(crate) fn local(&self) -> String {
        let folder = self.folder.display();
        format!(
            "host={folder} port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills every process of the server, as a crash of its machine would.
    pub(crate) fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap();
        self.leave_folder();
        // Stopped, it makes no more processes, of which one that outlived it would hold what the next server needs.
        let stopped = Command::new("kill").args(["-STOP", pid]).status();
        assert!(stopped.unwrap().success());
        let children = Command::new("pkill").args(["-KILL", "-P", pid]).status();
        let killed = Command::new("kill").args(["-KILL", pid]).status();
        assert!(killed.unwrap().success());
        drop(children);
        self.keeper.wait().unwrap();
    }

    /// Its keeper, when it ends, does not tidy up.
    fn leave_folder(&mut self) {
        drop(self.keeper.stdin.as_mut().unwrap().write_all(b"stay\n"));
    }

    /// Starts it again where it was.
    pub(crate) fn restart(&mut self, options: &str) {
        let binaries = binaries().unwrap();
        // What the dead server held is free once its children have noticed.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            drop(std::fs::remove_file(
                self.folder.join("data/postmaster.pid"),
            ));
            let before = self.log();
            self.keeper = keeper(
                &binaries,
                &self.folder,
                self.port,
                options,
                owner(&self.folder),
            );
            if self.becomes_ready(&before) {
                return;
            }
            self.leave_folder();
            self.keeper.wait().unwrap();
            assert!(
                Instant::now() < deadline,
                "the server does not come back: {}",
                self.log()
            );
        }
    }

    fn wait_until(&self, ready: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !(self.log().contains(ready) && self.answers()) {
            let has_failed = self.log().contains("FATAL") || Instant::now() > deadline;
            assert!(!has_failed, "the server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether a start succeeds; `before` is what the log said before it.
    fn becomes_ready(&self, before: &str) -> bool {
        loop {
            let log = self.log();
            let since = log.get(before.len()..).unwrap_or_default();
            // What is left of one that was killed may answer, too.
            if since.contains(READY) && self.answers() {
                return true;
            }
            // Of an orderly end: one that could not start, and not what is left of one that was killed.
            if since.contains("database system is shut down") {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn answers(&self) -> bool {
        // Not by its port: connecting to one that nobody has can end in a connection to oneself.
        let socket = format!(".s.PGSQL.{}", self.port);
        UnixStream::connect(self.folder.join(socket)).is_ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// One that is free now; whoever takes it in between makes the start fail, which says so.
fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

fn keeper(
    binaries: &Path,
    folder: &Path,
    port: u16,
    options: &str,
    owner: Option<(u32, u32)>,
) -> Child {
    let mut keeper = Command::new("sh");
    keeper
        .args(["-c", KEEPER, "keeper"])
        .args([binaries, folder])
        .arg(port.to_string())
        .arg(options)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    become_owner(&mut keeper, owner);
    keeper.spawn().unwrap()
}

/// Where `initdb` and `postgres` are: Debian keeps them off the path.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut versions: Vec<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    folders.extend(
        versions
            .into_iter()
            .rev()
            .map(|version| version.join("bin")),
    );
    folders
        .into_iter()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// The server refuses to run as root: then it is another user's, who gets the folder.
pub(crate) fn owner(folder: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::{MetadataExt, chown};

    let uid = std::fs::metadata("/proc/self").ok()?.uid();
    if uid != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let id = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map_while(|id| id.parse().ok());
        Some((ids.next()?, ids.next()?))
    };
    let (uid, gid) = id("postgres").or_else(|| id("nobody"))?;
    chown(folder, Some(uid), Some(gid)).unwrap();
    Some((uid, gid))
}

fn become_owner(command: &mut Command, owner: Option<(u32, u32)>) {
    use std::os::unix::process::CommandExt;

    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
}
