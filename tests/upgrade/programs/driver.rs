//! What each version of the program does when it is told to.

use keepstep::prelude::*;

#[tokio::main]
pub(crate) async fn drive(version: &str, order: Workflow<String>) {
    if let Err(error) = run(version, order).await {
        println!("error: {error}");
    }
}

async fn run(version: &str, order: Workflow<String>) -> keepstep::Result<()> {
    let mut args = std::env::args().skip(1);
    let (command, store) = (args.next(), args.next().unwrap_or_default());
    if command.as_deref() == Some("version") {
        println!("{version}");
        return Ok(());
    }
    let engine = Engine::builder()
        .build_id(version)
        .keep_executable(true)
        .open(store)
        .await?;
    match command.as_deref() {
        Some("start") => println!("{}", engine.run("order", order).await?),
        Some("check") => {
            let report = engine.check().await?;
            println!("is ok: {}\n{report}", report.is_ok());
        }
        Some("resume") => match engine.resume::<String>("order").await?.await {
            Ok(output) => println!("{output}"),
            Err(error) => println!("error: {error}"),
        },
        Some("build") => println!("{}", engine.metadata("order").await?.build.id),
        Some("executable") => {
            let path = args.next().unwrap_or_default();
            engine.executable_of("order", path).await?;
        }
        other => println!("error: no command {other:?}"),
    }
    engine.shutdown().await
}
