//! What the command line says.

use std::time::Duration;

use anyhow::Context as _;

pub(crate) struct Options {
    pub(crate) folder: Option<String>,
    pub(crate) data: String,
    pub(crate) megabytes: u64,
    pub(crate) slow: Duration,
    pub(crate) fresh: bool,
}

impl Options {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let mut options = Self {
            folder: None,
            data: ".keepstep-pipeline".to_owned(),
            megabytes: 300,
            slow: Duration::ZERO,
            fresh: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || -> anyhow::Result<u64> {
                let number = args
                    .next()
                    .with_context(|| format!("{arg} needs a number"))?;
                number.parse().with_context(|| format!("{arg} {number}"))
            };
            match &*arg {
                "--mb" => options.megabytes = number()?,
                "--slow" => options.slow = Duration::from_millis(number()?),
                "--data" => options.data = args.next().context("--data needs a directory")?,
                "--fresh" => options.fresh = true,
                "--help" | "-h" => {
                    println!("pipeline [FOLDER] [--data DIR] [--mb N] [--slow MS] [--fresh]");
                    std::process::exit(0);
                }
                option if option.starts_with('-') => anyhow::bail!("there is no option {option}"),
                _ => options.folder = Some(arg),
            }
        }
        Ok(options)
    }
}
