//! C libraries that are preloaded into a process, to put something between it and the operating system.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a library. `None` if there is no compiler, which is said.
pub(crate) fn compile(source: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let name = source.file_stem()?.to_str()?;
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let ours = directory.join(format!("{name}-{}.so", std::process::id()));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]);
    match command
        .arg(&ours)
        .arg(&source)
        .args(["-ldl", "-pthread"])
        .status()
    {
        Ok(status) => assert!(status.success(), "{} does not compile", source.display()),
        Err(error) => {
            say(&format!(
                "SKIPPED: this test needs a C compiler; {compiler:?}: {error}"
            ));
            return None;
        }
    }
    Some(ours)
}

/// Says something although the test passes.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
