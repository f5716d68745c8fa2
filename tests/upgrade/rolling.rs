//! Workers of two versions share a PostgreSQL store while one replaces the other.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{programs, server};

const ORDERS: usize = 40;

fn command(program: &Path, book: &Path, args: [&str; 3]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("ROLLING_BOOK", book)
        .stdin(Stdio::piped());
    command
}

/// A worker that has begun to work.
fn worker(program: &Path, book: &Path, url: &str) -> Child {
    let mut command = command(program, book, ["work", url, "0"]);
    let mut worker = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let stdout = worker.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "works\n");
    worker
}

#[test]
fn a_rolling_deploy_of_two_versions_loses_nothing() {
    let url = server::url();
    let folder = programs();
    let program =
        |name: &str| folder.join(format!("rolling_{name}{}", std::env::consts::EXE_SUFFIX));
    let (v1, v2) = (program("v1"), program("v2"));
    let dir = tempfile::tempdir().unwrap();
    let book = dir.path().join("book");
    let orders = ORDERS.to_string();
    let submit = |program: &Path| {
        let submitted = command(program, &book, ["submit", &url, &orders]).output();
        let submitted = submitted.unwrap();
        assert!(submitted.status.success(), "{submitted:?}");
        assert_eq!(String::from_utf8_lossy(&submitted.stdout), "");
    };
    let outputs = |program: &Path| {
        let ended = command(program, &book, ["await", &url, &orders]).output();
        let ended = String::from_utf8(ended.unwrap().stdout).unwrap();
        ended.lines().map(str::to_owned).collect::<Vec<_>>()
    };

    let (mut old, mut killed) = (worker(&v1, &book, &url), worker(&v1, &book, &url));
    submit(&v1);
    let mut new = worker(&v2, &book, &url);
    submit(&v2);
    submit(&v1);
    // One of the old is stopped as it should be, the other is not.
    drop(old.stdin.take());
    assert!(old.wait().unwrap().success());
    killed.kill().unwrap();
    killed.wait().unwrap();

    let mut shown = BTreeSet::new();
    for output in outputs(&v1) {
        // Charged by the one or the other.
        shown.insert(output.replace("500 EUR", "500"));
    }
    let expected = |n| format!("v1-{n} paid 500, shipped");
    assert_eq!(shown, (0..ORDERS).map(expected).collect());
    let expected = |n| format!("v2-{n} paid 500 USD, shipped, thanked");
    assert_eq!(outputs(&v2), (0..ORDERS).map(expected).collect::<Vec<_>>());
    drop(new.stdin.take());
    assert!(new.wait().unwrap().success());
    let book = std::fs::read_to_string(&book).unwrap();
    let done: BTreeSet<&str> = book.lines().collect();
    assert_eq!(done.len(), 2 * 3 * ORDERS);
}

/// Each version reads what the other one does not: what a worker cannot decode goes to one that can, in both directions.
#[test]
fn a_worker_declines_what_it_cannot_decode_while_another_one_can() {
    const PARCELS: usize = 12;
    let url = server::url();
    let folder = programs();
    let program =
        |name: &str| folder.join(format!("rolling_{name}{}", std::env::consts::EXE_SUFFIX));
    let (v1, v2) = (program("v1"), program("v2"));
    let dir = tempfile::tempdir().unwrap();
    let book = dir.path().join("book");
    let tell = |program: &Path, what: &str| {
        let n = PARCELS.to_string();
        let told = command(program, &book, [what, &url, &n]).output().unwrap();
        assert!(told.status.success(), "{told:?}");
        let told = String::from_utf8(told.stdout).unwrap();
        told.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = |version: &str, what: &str| -> Vec<String> {
        let delivered = |n| format!("parcel-{version}-{n} {what} by road");
        (0..PARCELS).map(delivered).collect()
    };

    // Whichever of the two workers has a run in hand, about half are the other one's.
    let (mut old, mut new) = (worker(&v1, &book, &url), worker(&v2, &book, &url));
    for program in [&v1, &v2] {
        assert_eq!(tell(program, "begin parcels"), [""; 0]);
    }
    assert_eq!(tell(&v2, "send v1"), [""; 0]);
    assert_eq!(tell(&v1, "send v2"), [""; 0]);
    assert_eq!(tell(&v1, "await parcels"), expected("v1", "weight 7"));
    assert_eq!(tell(&v2, "await parcels"), expected("v2", "zone north"));

    // Nor can the one make calls of actors whose states are the other one's.
    assert_eq!(tell(&v1, "make shelf v1"), [""; 0]);
    assert_eq!(tell(&v2, "make shelf v2"), [""; 0]);
    assert_eq!(tell(&v2, "put shelf v1"), [""; 0]);
    assert_eq!(tell(&v1, "put shelf v2"), [""; 0]);
    assert_eq!(tell(&v1, "show shelf v1"), ["7 1"; PARCELS]);
    assert_eq!(tell(&v2, "show shelf v2"), ["north 1"; PARCELS]);

    // Nor can the one execute what runs of the other one offer to all.
    let stowed = |version: &str, what: &str| -> Vec<String> {
        let stowed = |n| format!("stow-{version}-{n} {what}");
        (0..PARCELS).map(stowed).collect()
    };
    assert_eq!(tell(&v1, "begin stows"), [""; 0]);
    assert_eq!(tell(&v2, "begin stows"), [""; 0]);
    assert_eq!(tell(&v1, "await stows"), stowed("v1", "weight 7"));
    assert_eq!(tell(&v2, "await stows"), stowed("v2", "zone north"));

    // Where no worker that lives can, the run is suspended and says why.
    drop(new.stdin.take());
    assert!(new.wait().unwrap().success());
    let url = server::url();
    let mut alone = worker(&v1, &book, &url);
    drop(old.stdin.take());
    assert!(old.wait().unwrap().success());
    let tell = |program: &Path, what: &str| {
        let told = command(program, &book, [what, &url, "2"]).output().unwrap();
        String::from_utf8(told.stdout).unwrap()
    };
    assert_eq!(tell(&v2, "begin parcels"), "");
    assert_eq!(tell(&v1, "send v2"), "");
    let told = tell(&v2, "await parcels");
    assert_eq!(told.lines().count(), 2, "{told}");
    for line in told.lines() {
        assert!(line.contains("is suspended"), "{told}");
        assert!(line.contains("weight"), "{told}");
    }
    let told = tell(&v2, "await stows");
    assert_eq!(told.lines().count(), 2, "{told}");
    for line in told.lines() {
        assert!(line.contains("is suspended"), "{told}");
        assert!(line.contains("weight"), "{told}");
    }
    drop(alone.stdin.take());
    assert!(alone.wait().unwrap().success());
}
