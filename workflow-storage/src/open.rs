//! From a URL to a store.

use std::path::PathBuf;
#[cfg(feature = "postgres")]
use std::pin::Pin;
use std::sync::Arc;

use crate::directory::Directory;
use crate::{Adapter, Blobs, OrderedMap, Result, Storage, StorageError, memory};

/// The backend of a new store whose URL names none.
const DEFAULT: &str = "sled";

/// Opens a store, and creates it if there is none.
///
/// | URL | store |
/// | --- | --- |
/// | `data` | a directory, with the backend it was made with; a new one is sled's |
/// | `sled:data`, `redb:data`, `fjall:data` | a directory of that backend |
/// | `memory:` | a new store in memory |
/// | `postgres://user@host/database`, `postgresql://…` | a schema of a PostgreSQL database |
///
/// Parameters of a PostgreSQL URL, beside those of its client (`host`, `port`, `connect_timeout`, `options`, …):
/// `schema=keepstep`; `connections=8`, at most so many besides the one that listens; `patience=20`, for how many seconds a call
/// is tried again whose connection was lost; `sslmode` and `sslrootcert` as PostgreSQL's own programs take them. A password that
/// the URL does not have comes from `PGPASSWORD`, or from the file `PGPASSFILE` or `~/.pgpass`.
///
/// A directory is locked until the store is closed or dropped. Its path is resolved once, at opening: a relative path and
/// links on the way name the same directory until the store is closed, also when the process changes its working directory
/// or a link is pointed elsewhere.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("data").display().to_string();
/// let store = keepstep_storage::open(&path).await?;
/// println!("{} at {}", store.describe().backend, store.describe().location);
/// store.close().await?;
/// # Ok::<(), keepstep_storage::StorageError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// - [`StorageError::Unsupported`]: no backend of this name in this build.
/// - [`StorageError::InUse`]: the directory is open already, here or in another process.
/// - [`StorageError::NotAStore`], [`StorageError::OtherBackend`], [`StorageError::UnknownFormat`]: the path holds
///   something else. It is left as it is.
/// - [`StorageError::Corrupt`]: the store is damaged. It is left as it is.
/// - [`StorageError::Setting`]: the URL, or a file that it names, is not as it must be.
/// - [`StorageError::Unavailable`]: the server does not answer.
pub async fn open(url: &str) -> Result<Arc<dyn Storage>> {
    open_any(url, None).await
}

/// As [`open`], with blobs in a place of their own: another directory, or a bucket. The same place must be given at every opening:
/// runs name the blobs in it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("data").display().to_string();
/// # let other = dir.path().join("large");
/// use keepstep_storage::{Blobs, open_with_blobs};
///
/// let store = open_with_blobs(&path, Blobs::in_directory(other)?).await?;
/// store.close().await?;
/// # Ok::<(), keepstep_storage::StorageError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// As [`open`].
pub async fn open_with_blobs(url: &str, blobs: Blobs) -> Result<Arc<dyn Storage>> {
    open_any(url, Some(blobs)).await
}

async fn open_any(url: &str, blobs: Option<Blobs>) -> Result<Arc<dyn Storage>> {
    match parse(url)? {
        Target::Memory => match blobs {
            None => Ok(memory()),
            Some(blobs) => Ok(Arc::new(crate::memory::with_blobs(blobs)?)),
        },
        #[cfg(feature = "postgres")]
        Target::Postgres => {
            // In a box of no known type: the futures of a connection are nested so deeply that whatever awaits them in
            // place meets the compiler's limit.
            let opening: Pin<
                Box<dyn Future<Output = Result<crate::postgres::Postgres>> + Send + '_>,
            > = Box::pin(crate::postgres::open(url, blobs));
            Ok(Arc::new(opening.await?))
        }
        #[cfg(not(feature = "postgres"))]
        Target::Postgres => Err(no_feature(url, "postgres")),
        Target::Directory(asked, path) => {
            // Before another thread goes on: the working directory may be another one by then.
            let path = std::path::absolute(&path)
                .map_err(|error| StorageError::io("resolve", &path, error))?;
            let url = url.to_owned();
            let open = move || open_directory(&url, asked, path, blobs);
            let opened = tokio::task::spawn_blocking(open).await;
            opened.unwrap_or_else(|error| {
                Err(StorageError::Backend {
                    backend: asked.unwrap_or(DEFAULT),
                    operation: "finish opening",
                    source: Arc::new(error),
                })
            })
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Memory,
    Postgres,
    Directory(Option<&'static str>, PathBuf),
}

fn parse(url: &str) -> Result<Target> {
    let unsupported = |hint: &str| {
        Err(StorageError::Unsupported {
            url: without_secrets(url),
            hint: hint.to_owned(),
        })
    };
    let Some((scheme, rest)) = split_scheme(url) else {
        return match url {
            "" => unsupported("an empty path; name a directory, or \"memory:\""),
            path => Ok(Target::Directory(None, path.into())),
        };
    };
    let backend = match scheme {
        "memory" if rest.is_empty() => return Ok(Target::Memory),
        "memory" => return unsupported("a store in memory has no name: \"memory:\""),
        "sled" => "sled",
        "redb" => "redb",
        "fjall" => "fjall",
        "postgres" | "postgresql" if cfg!(feature = "postgres") => {
            return Ok(Target::Postgres);
        }
        "postgres" | "postgresql" => {
            return Err(no_feature(url, "postgres"));
        }
        other => {
            return unsupported(&format!(
                "{other:?} is not a backend; known are memory, sled, redb, fjall and postgres. For a directory of this name, \
                 put \"./\" before it"
            ));
        }
    };
    match rest.strip_prefix("//").unwrap_or(rest) {
        "" => unsupported("a directory must follow"),
        path => Ok(Target::Directory(Some(backend), path.into())),
    }
}

/// The scheme of a URL, if it has one. A single letter is a drive.
fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some((scheme, rest))
}

/// A URL that may be shown: no user, no password, no parameters.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // A password may hold any character, so everything up to the last @ goes.
    let shown = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{shown}")
}

fn open_directory(
    url: &str,
    asked: Option<&'static str>,
    path: PathBuf,
    blobs: Option<Blobs>,
) -> Result<Arc<dyn Storage>> {
    if let Some(asked) = asked {
        check_feature(url, asked)?;
    }
    // A new store needs its backend before anything is made.
    if asked.is_none() && !path.join("STORE").exists() {
        check_feature(url, DEFAULT)?;
    }
    let directory = Arc::new(Directory::open(&path, asked, DEFAULT)?);
    check_feature(url, directory.backend())?;
    let blobs = match blobs {
        Some(blobs) => blobs,
        None => Blobs::in_directory(directory.blobs_path())?,
    };
    let map = open_map(url, &directory)?;
    Ok(Arc::new(Adapter::open_in(directory, map, blobs)?))
}

fn open_map(url: &str, directory: &Arc<Directory>) -> Result<Box<dyn OrderedMap>> {
    match directory.backend() {
        #[cfg(feature = "sled")]
        "sled" => Ok(Box::new(crate::sled::open(Arc::clone(directory))?)),
        #[cfg(feature = "redb")]
        "redb" => Ok(Box::new(patiently(|| {
            crate::redb::open(&directory.map_path())
        })?)),
        #[cfg(feature = "fjall")]
        "fjall" => Ok(Box::new(patiently(|| {
            crate::fjall::open(&directory.map_path())
        })?)),
        other => Err(no_feature(url, other)),
    }
}

fn check_feature(url: &str, backend: &str) -> Result<()> {
    let built = [
        ("sled", cfg!(feature = "sled")),
        ("redb", cfg!(feature = "redb")),
        ("fjall", cfg!(feature = "fjall")),
    ];
    if built.contains(&(backend, true)) {
        Ok(())
    } else {
        Err(no_feature(url, backend))
    }
}

fn no_feature(url: &str, backend: &str) -> StorageError {
    StorageError::Unsupported {
        url: without_secrets(url),
        hint: format!(
            "this build has no {backend}; turn on the cargo feature {backend:?} of keepstep"
        ),
    }
}

/// Opens a map whose own lock may be held for a moment by what is left of an earlier opening: a thread that is ending, or a
/// process that is being started. Nobody else can, since the directory is locked.
#[cfg(any(feature = "redb", feature = "fjall"))]
fn patiently<M>(open: impl Fn() -> Result<M>) -> Result<M> {
    const ATTEMPTS: u32 = 1_000;
    for _ in 1..ATTEMPTS {
        match open() {
            Err(StorageError::InUse { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(backend: Option<&'static str>, path: &str) -> Target {
        Target::Directory(backend, path.into())
    }

    #[test]
    fn urls_name_a_backend_and_a_path() {
        for (url, target) in [
            ("memory:", Target::Memory),
            ("data", directory(None, "data")),
            ("/var/lib/a b", directory(None, "/var/lib/a b")),
            ("./run:2", directory(None, "./run:2")),
            ("a/run:2", directory(None, "a/run:2")),
            (r"C:\data", directory(None, r"C:\data")),
            ("sled:data", directory(Some("sled"), "data")),
            ("redb:/data", directory(Some("redb"), "/data")),
            ("fjall:///data", directory(Some("fjall"), "/data")),
        ] {
            assert_eq!(parse(url).unwrap(), target, "{url}");
        }
    }

    #[test]
    fn urls_without_a_backend_say_what_to_do_and_show_no_secrets() {
        for (url, shown, hint) in [
            ("", "\"\"", "name a directory"),
            ("sled:", "\"sled:\"", "a directory must follow"),
            ("slde:data", "\"slde:data\"", "\"./\" before it"),
            ("memory:a", "\"memory:a\"", "has no name"),
            #[cfg(not(feature = "postgres"))]
            (
                "postgres://me:se@cret@db.example/runs?password=secret",
                "\"postgres://db.example/runs\"",
                "the cargo feature",
            ),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(shown), "{error}");
            assert!(error.contains(hint), "{error}");
            assert!(!error.contains("cret"), "{error}");
        }
    }
}
