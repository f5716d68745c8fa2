//! The example `cluster`, as somebody runs it who kills one of the workers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::server;

#[path = "../common/examples.rs"]
mod examples;

/// Killed when the test ends.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Worker {
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let stdout: ChildStdout = self.0.stdout.take().unwrap();
        BufReader::new(stdout).lines().map(Result::unwrap)
    }
}

#[test]
fn a_count_loses_nothing_with_a_worker() {
    let url = server::url();
    let program =
        examples::build(&["cluster"]).join(format!("cluster{}", std::env::consts::EXE_SUFFIX));
    let command = |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(args)
            .env("KEEPSTEP_URL", &url)
            .stdout(Stdio::piped());
        command
    };
    let mut doomed = Worker(command(&["work"]).spawn().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut expected: HashMap<String, u64> = HashMap::new();
    for n in 0..400 {
        let text = format!("word{} every file has these, word{}", n % 7, n % 11);
        std::fs::write(folder.path().join(format!("{n}.txt")), &text).unwrap();
        for word in text.replace(',', "").split(' ') {
            *expected.entry(word.to_owned()).or_default() += 1;
        }
    }
    let counted = submit(&command, folder.path(), || {
        // It is in the middle of it.
        let counts = |line: &String| line.contains("counted");
        assert_eq!(doomed.lines().filter(counts).take(5).count(), 5);
        let other = Worker(command(&["work"]).spawn().unwrap());
        doomed.0.kill().unwrap();
        other
    });
    let mut expected: Vec<(String, u64)> = expected.into_iter().collect();
    expected.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    expected.truncate(10);
    let lines: Vec<String> = expected
        .iter()
        .map(|(word, n)| format!("{n:>8} {word}"))
        .collect();
    assert_eq!(counted, lines);
}

/// What `submit` prints, if something happens meanwhile.
fn submit<T>(
    command: &impl Fn(&[&str]) -> Command,
    folder: &Path,
    meanwhile: impl FnOnce() -> T,
) -> Vec<String> {
    let submitting = command(&["submit", folder.to_str().unwrap()])
        .spawn()
        .unwrap();
    let _what_happened = meanwhile();
    let output = submitting.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}
