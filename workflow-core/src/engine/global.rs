//! The process's default engine, and the functions that use it.

use std::borrow::Borrow;

use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::{Engine, Filter, Handle, Metadata, Page};
use crate::check::Report;
use crate::error::{Error, Result};
use crate::status::Status;
use crate::workflow::Workflow;

static DEFAULT: OnceCell<Engine> = OnceCell::const_new();

/// Where the default engine is opened if nothing says otherwise.
const DEFAULT_URL: &str = ".keepstep";

/// Makes an engine the process's default, which `Workflow::run` and the functions of this module use.
///
/// Without it, the first use opens what the environment variable `KEEPSTEP_URL` says, else the directory `.keepstep`.
///
/// # Panics
/// If there is a default engine already. [`try_init`] returns an error instead.
pub fn init(engine: Engine) {
    if let Err(error) = try_init(engine) {
        panic!("{error}");
    }
}

/// As [`init`].
///
/// # Errors
/// [`Error::AlreadyInitialized`] if there is a default engine already.
pub fn try_init(engine: Engine) -> Result<()> {
    DEFAULT.set(engine).map_err(|_| Error::AlreadyInitialized)
}

/// The default engine; opened if it is not yet.
///
/// # Errors
/// As [`Engine::open`].
pub async fn default_engine() -> Result<&'static Engine> {
    DEFAULT
        .get_or_try_init(|| async {
            let url = std::env::var("KEEPSTEP_URL").unwrap_or_else(|_| DEFAULT_URL.to_owned());
            Engine::open(url).await
        })
        .await
}

/// [`Engine::run`] on the default engine.
///
/// # Errors
/// As [`Engine::run`] and [`Engine::open`].
pub async fn run<T: DeserializeOwned + 'static>(
    id: impl AsRef<str>,
    workflow: impl Borrow<Workflow<T>>,
) -> Result<T> {
    default_engine().await?.run(id, workflow).await
}

/// [`Engine::start`] on the default engine.
///
/// # Errors
/// As [`Engine::start`] and [`Engine::open`].
pub async fn start<T>(
    id: impl AsRef<str>,
    workflow: impl Borrow<Workflow<T>>,
) -> Result<Handle<T>> {
    default_engine().await?.start(id, workflow).await
}

/// [`Engine::send_event`] on the default engine, with a message that has no id of its own.
///
/// # Errors
/// As [`Engine::send_event`] and [`Engine::open`].
pub async fn send_event<T: serde::Serialize + ?Sized + Sync>(
    id: impl AsRef<str>,
    name: impl AsRef<str>,
    value: &T,
) -> Result<()> {
    default_engine().await?.send_event(id, name, value).await
}

/// [`Engine::status`] on the default engine.
///
/// # Errors
/// As [`Engine::status`] and [`Engine::open`].
pub async fn status(id: impl AsRef<str>) -> Result<Status> {
    default_engine().await?.status(id).await
}

/// [`Engine::output`] on the default engine.
///
/// # Errors
/// As [`Engine::output`] and [`Engine::open`].
pub async fn output<T: DeserializeOwned>(id: impl AsRef<str>) -> Result<T> {
    default_engine().await?.output(id).await
}

/// [`Engine::step_output`] on the default engine.
///
/// # Errors
/// As [`Engine::step_output`] and [`Engine::open`].
pub async fn step_output<T: DeserializeOwned>(id: impl AsRef<str>, step: &str) -> Result<T> {
    default_engine().await?.step_output(id, step).await
}

/// [`Engine::list`] on the default engine.
///
/// # Errors
/// As [`Engine::list`] and [`Engine::open`].
pub async fn list(filter: impl Into<Filter>) -> Result<Page> {
    default_engine().await?.list(filter).await
}

/// [`Engine::metadata`] on the default engine.
///
/// # Errors
/// As [`Engine::metadata`] and [`Engine::open`].
pub async fn metadata(id: impl AsRef<str>) -> Result<Metadata> {
    default_engine().await?.metadata(id).await
}

/// [`Engine::check`] on the default engine.
///
/// # Errors
/// As [`Engine::check`] and [`Engine::open`].
pub async fn check() -> Result<Report> {
    default_engine().await?.check().await
}

/// [`Engine::resume`] on the default engine.
///
/// # Errors
/// As [`Engine::resume`] and [`Engine::open`].
pub async fn resume<T>(id: impl AsRef<str>) -> Result<Handle<T>> {
    default_engine().await?.resume(id).await
}

/// [`Engine::resume_all`] on the default engine.
///
/// # Errors
/// As [`Engine::resume_all`] and [`Engine::open`].
pub async fn resume_all() -> Result<Vec<(String, Result<Handle<serde_json::Value>>)>> {
    default_engine().await?.resume_all().await
}

/// [`Engine::suspend`] on the default engine.
///
/// # Errors
/// As [`Engine::suspend`] and [`Engine::open`].
pub async fn suspend(id: impl AsRef<str>) -> Result<()> {
    default_engine().await?.suspend(id).await
}

/// [`Engine::cancel`] on the default engine.
///
/// # Errors
/// As [`Engine::cancel`] and [`Engine::open`].
pub async fn cancel(id: impl AsRef<str>) -> Result<()> {
    default_engine().await?.cancel(id).await
}

/// [`Engine::delete`] on the default engine.
///
/// # Errors
/// As [`Engine::delete`] and [`Engine::open`].
pub async fn delete(id: impl AsRef<str>) -> Result<()> {
    default_engine().await?.delete(id).await
}
