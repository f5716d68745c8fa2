//! A server that speaks TLS, asks for a password, and lets in nobody without either.

use std::path::{Path, PathBuf};

use keepstep_storage::Result;
use tokio_postgres::NoTls;

use crate::server::{self, Server};

const HOST_BASED_ACCESS: &str = "
    local   all all              trust
    hostssl all all 127.0.0.1/32 scram-sha-256
";

fn certificate(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres/tls");
    folder.join(name).display().to_string()
}

struct Strict {
    server: Server,
    _folder: tempfile::TempDir,
}

impl Strict {
    /// With a role `ann`, whose password is `s3same`.
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let owner = server::owner(folder.path());
        let place = |name: &str, bytes: &[u8]| -> PathBuf {
            use std::os::unix::fs::{PermissionsExt, chown};

            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            // A key that others may read is refused.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = owner {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
            path
        };
        let copy = |name: &str| place(name, &std::fs::read(certificate(name)).unwrap());
        let options = format!(
            "-c fsync=off -c password_encryption=scram-sha-256 -c ssl=on -c ssl_cert_file={} -c ssl_key_file={} -c hba_file={}",
            copy("server.pem").display(),
            copy("server.key").display(),
            place("hba", HOST_BASED_ACCESS.as_bytes()).display(),
        );
        let server = Server::start(&options)?;
        let (client, connection) = tokio_postgres::connect(&server.local(), NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let role =
            "CREATE ROLE ann LOGIN PASSWORD 's3same'; GRANT CREATE ON DATABASE postgres TO ann";
        client.batch_execute(role).await.unwrap();
        Some(Self {
            server,
            _folder: folder,
        })
    }

    async fn open(&self, host: &str, password: &str, parameters: &str) -> Result<()> {
        let address = self.server.address();
        let (_, port) = address.split_once(':').unwrap();
        let url =
            format!("postgres://ann:{password}@{host}:{port}/postgres?patience=1&{parameters}");
        keepstep_storage::open(&url).await?.close().await
    }

    async fn refusal(&self, host: &str, password: &str, parameters: &str) -> String {
        let error = self.open(host, password, parameters).await.unwrap_err();
        let mut said = format!("{error:?} {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            said += &format!(": {cause:?} {cause}");
            source = cause.source();
        }
        said
    }
}

#[tokio::test]
async fn a_server_is_as_much_trusted_as_the_mode_says() {
    if std::env::var_os("KEEPSTEP_TEST_POSTGRES").is_some() {
        eprintln!("SKIPPED: the server of KEEPSTEP_TEST_POSTGRES has its own certificates");
        return;
    }
    // Says that it was skipped if there is none.
    drop(server::url());
    let strict = Strict::start().await.unwrap();
    let root = |name: &str| format!("sslrootcert={}", certificate(name));
    for mode in ["prefer", "require"] {
        strict
            .open("localhost", "s3same", &format!("sslmode={mode}"))
            .await
            .unwrap();
    }
    let full = format!("sslmode=verify-full&{}", root("ca.pem"));
    strict.open("localhost", "s3same", &full).await.unwrap();
    // Its certificate does not have the name.
    let ca = format!("sslmode=verify-ca&{}", root("ca.pem"));
    strict.open("127.0.0.1", "s3same", &ca).await.unwrap();
    let refused = strict.refusal("127.0.0.1", "s3same", &full).await;
    assert!(refused.contains("certificate"), "{refused}");
    for mode in ["verify-ca", "verify-full"] {
        let other = format!("sslmode={mode}&{}", root("other.pem"));
        let refused = strict.refusal("localhost", "s3same", &other).await;
        assert!(refused.contains("certificate"), "{refused}");
        // Nobody that the system trusts vouches for it.
        let refused = strict
            .refusal("localhost", "s3same", &format!("sslmode={mode}"))
            .await;
        assert!(refused.contains("certificate"), "{refused}");
    }
    let plain = strict
        .refusal("localhost", "s3same", "sslmode=disable")
        .await;
    assert!(plain.contains("no pg_hba.conf entry"), "{plain}");

    let wrong = strict.refusal("localhost", "0pen-s3same", &full).await;
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    for said in [refused, wrong, plain] {
        assert!(!said.contains("s3same"), "{said}");
    }
}
