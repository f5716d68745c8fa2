//! Running a workflow without an engine: for unit tests of steps.

use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::context::try_context;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::workflow::Workflow;

impl<T: DeserializeOwned + 'static> Workflow<T> {
    /// Runs the workflow in memory, without durability, and returns what it yields: retries, time-outs, expansions and
    /// catches work as in an engine; remote steps run here, without regard to pools. Time is tokio's, so in a test with paused time, retries take none.
    ///
    /// References to [objects](crate::ObjectRef) in what it returns can be used afterwards.
    ///
    /// Steps with `#[resource]` parameters need an engine: `Engine::builder().resource(…).open("memory:")`.
    ///
    /// # Errors
    /// As [`Engine::run`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// assert_eq!(keepstep_core::Workflow::value(3).eval().await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn eval(&self) -> Result<T> {
        if let Some(context) = try_context() {
            return Err(Error::InsideStep {
                call: "eval",
                step: context.step_name().to_owned(),
            });
        }
        let builder = Engine::builder().clock(Clock::tokio());
        let builder = builder.without_remote_steps();
        let engine = builder.keep_store_for_references().build().await?;
        let output = engine.run("eval", self).await;
        // Objects that the output refers to are there as long as the references.
        engine.halt().await?;
        output
    }
}
