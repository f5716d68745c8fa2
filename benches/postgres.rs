//! How fast keepstep is on PostgreSQL beside its floors: plain statements that write the same bytes to the same server, over one
//! connection. And how long it takes to claim and to list among many stored runs.
//!
//! `cargo bench --bench postgres --features postgres` starts a server of its own, which syncs, or uses the one that
//! `KEEPSTEP_TEST_POSTGRES` names; with words behind `--` (`chain`, `fan-out`, `many-runs`, `remote`, `look`), only those. `KEEPSTEP_BENCH_RUNS` says among how many runs is looked (`10000,1000000`).

#[path = "../workflow-storage/tests/server/mod.rs"]
mod server;
#[allow(dead_code, reason = "it is shared with another benchmark")]
#[path = "speed/table.rs"]
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstep::prelude::*;
use keepstep::storage::fault::{Mutation, Recorded};
use keepstep::storage::{NodeId, RunKind, RunQuery, StoredStatus};
use table::Row;
use tokio_postgres::NoTls;

const CHAIN: u64 = 500;
const FAN_OUT: u64 = 100_000;
const RUNS: u64 = 2_000;
const REMOTE: u64 = 20_000;
const ROUNDS: usize = 5;
/// How many rows a floor inserts at once.
const BATCH: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filter: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let is_test = args.iter().any(|arg| arg == "--test");
    let wanted =
        |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let shrink = |n: u64| if is_test { n / 100 } else { n };
    let rounds = if is_test { 1 } else { ROUNDS };
    let given = std::env::var("KEEPSTEP_TEST_POSTGRES").ok();
    let own = match &given {
        Some(_) => None,
        None => server::Server::start("-c fsync=on -c shared_buffers=512MB -c max_wal_size=8GB"),
    };
    let Some(url) = given.or_else(|| own.as_ref().map(server::Server::url)) else {
        println!("SKIPPED: no PostgreSQL server");
        return Ok(());
    };
    let mut place = Place { url, n: 0 };
    table::print_ratio_head();
    if wanted("chain") {
        chain_row(&mut place, shrink(CHAIN), rounds).await?;
    }
    if wanted("fan-out") {
        fan_out_row(&mut place, shrink(FAN_OUT), rounds).await?;
    }
    if wanted("many-runs") {
        runs_row(&mut place, shrink(RUNS), rounds).await?;
    }
    if wanted("remote") {
        remote_rows(&mut place, shrink(REMOTE), rounds).await?;
    }
    if !wanted("look") {
        return Ok(());
    }
    println!();
    table::print_figure_head();
    let sizes = std::env::var("KEEPSTEP_BENCH_RUNS").unwrap_or("10000,1000000".to_owned());
    for size in sizes.split(',') {
        look_rows(&mut place, shrink(size.parse()?)).await?;
    }
    Ok(())
}

#[step]
async fn next(n: u64) -> u64 {
    n + 1
}

#[step]
async fn square(n: u64) -> u64 {
    n * n
}

#[step(remote)]
async fn square_elsewhere(n: u64) -> u64 {
    n * n
}

#[step]
async fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

fn chain(length: u64) -> Workflow<u64> {
    (1..length).fold(next(0), |before, _| next(before))
}

fn fan_out(width: u64) -> Workflow<u64> {
    sum((0..width).map(square).collect::<Vec<_>>())
}

fn sum_of_squares(width: u64) -> u64 {
    (0..width).map(|n| n * n).sum()
}

/// Schemas of one server, one after the other.
struct Place {
    url: String,
    n: u32,
}

impl Place {
    fn schema(&mut self) -> String {
        self.n += 1;
        format!("bench_{}_{}", std::process::id(), self.n)
    }

    fn store(&self, schema: &str) -> String {
        let mark = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{mark}schema={schema}", self.url)
    }

    async fn connect(&self) -> anyhow::Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn floor_table(&mut self) -> anyhow::Result<(tokio_postgres::Client, String)> {
        let client = self.connect().await?;
        let schema = self.schema();
        client
            .batch_execute(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.floor (n bigint PRIMARY KEY, bytes bytea NOT NULL)"
            ))
            .await?;
        Ok((client, format!("{schema}.floor")))
    }
}

/// The journal entries that a workload writes, as a store in memory was told them.
async fn entries<F: Future<Output = anyhow::Result<()>>>(
    work: impl FnOnce(Engine) -> F,
) -> anyhow::Result<Vec<bytes::Bytes>> {
    let recorded = Arc::new(Recorded::new(keepstep::storage::memory()));
    work(Engine::builder().storage(recorded.clone()).build().await?).await?;
    let log = recorded.log();
    let commits = log.iter().filter_map(|mutation| match mutation {
        Mutation::Commit(batch, _) => Some(batch),
        _ => None,
    });
    let writes = commits.flat_map(|batch| batch.writes.iter());
    Ok(writes.filter_map(|write| write.entry.clone()).collect())
}

/// A chain of steps beside one-row inserts of the same entries.
async fn chain_row(place: &mut Place, length: u64, rounds: usize) -> anyhow::Result<()> {
    let log = entries(|engine| async move {
        assert_eq!(engine.run("chain", chain(length)).await?, length);
        Ok(())
    })
    .await?;
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let schema = place.schema();
        let engine = Engine::open(place.store(&schema)).await?;
        let start = Instant::now();
        assert_eq!(engine.run("chain", chain(length)).await?, length);
        let ours = start.elapsed();
        engine.shutdown().await?;

        let (client, floor) = place.floor_table().await?;
        let insert = client
            .prepare(&format!("INSERT INTO {floor} VALUES ($1, $2)"))
            .await?;
        let start = Instant::now();
        for (n, entry) in (0_i64..).zip(&log) {
            client.execute(&insert, &[&n, &entry.as_ref()]).await?;
        }
        pairs.push((ours, start.elapsed()));
    }
    Row {
        work: "chain",
        floor: "one-row commits, same bytes",
        at_least: "0.7",
        units: length,
        pairs,
    }
    .print();
    Ok(())
}

/// Inserts rows in batches, each one statement and one commit.
async fn insert_batched(place: &mut Place, rows: &[Vec<u8>]) -> anyhow::Result<Duration> {
    let (client, floor) = place.floor_table().await?;
    let insert = format!("INSERT INTO {floor} SELECT * FROM unnest($1::bigint[], $2::bytea[])");
    let insert = client.prepare(&insert).await?;
    let start = Instant::now();
    for (batch, rows) in (0_i64..).zip(rows.chunks(BATCH)) {
        let first = batch * BATCH as i64;
        let numbers: Vec<i64> = (first..first + rows.len() as i64).collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        client.execute(&insert, &[&numbers, &rows]).await?;
    }
    Ok(start.elapsed())
}

/// Many steps at once beside batched inserts of a row a step, with as many bytes altogether.
async fn fan_out_row(place: &mut Place, width: u64, rounds: usize) -> anyhow::Result<()> {
    let log = entries(|engine| async move {
        let output = engine.run("fan-out", fan_out(width)).await?;
        assert_eq!(output, sum_of_squares(width));
        Ok(())
    })
    .await?;
    let bytes: usize = log.iter().map(bytes::Bytes::len).sum();
    let row = vec![7; bytes / width as usize];
    let rows = vec![row; width as usize];
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let schema = place.schema();
        let engine = Engine::open(place.store(&schema)).await?;
        let workflow = fan_out(width);
        let start = Instant::now();
        let output = engine.run("fan-out", workflow).await?;
        let ours = start.elapsed();
        assert_eq!(output, sum_of_squares(width));
        engine.shutdown().await?;
        pairs.push((ours, insert_batched(place, &rows).await?));
    }
    Row {
        work: "fan-out and gather",
        floor: "batched inserts, a row a step, same bytes",
        at_least: "0.4",
        units: width,
        pairs,
    }
    .print();
    Ok(())
}

/// Many runs side by side beside batched inserts of their entries.
async fn runs_row(place: &mut Place, n: u64, rounds: usize) -> anyhow::Result<()> {
    async fn run_all(engine: &Engine, n: u64) -> anyhow::Result<()> {
        let mut runs = tokio::task::JoinSet::new();
        for i in 0..n {
            let engine = engine.clone();
            runs.spawn(async move { engine.run(format!("run-{i}"), chain(3)).await });
        }
        while let Some(output) = runs.join_next().await {
            assert_eq!(output??, 3);
        }
        Ok(())
    }

    let log = entries(|engine| async move { run_all(&engine, n).await }).await?;
    let rows: Vec<Vec<u8>> = log.iter().map(|entry| entry.to_vec()).collect();
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let schema = place.schema();
        let engine = Engine::open(place.store(&schema)).await?;
        let start = Instant::now();
        run_all(&engine, n).await?;
        let ours = start.elapsed();
        engine.shutdown().await?;
        pairs.push((ours, insert_batched(place, &rows).await?));
    }
    Row {
        work: "runs of 3 steps",
        floor: "batched inserts, a row an entry, same bytes",
        at_least: "",
        units: n,
        pairs,
    }
    .print();
    Ok(())
}

/// Remote steps of one run at 1 and at 3 workers, beside the same rows offered, taken and removed by plain statements, 256 at a time.
/// The engines are all in this process; the owner executes none of the steps.
async fn remote_rows(place: &mut Place, width: u64, rounds: usize) -> anyhow::Result<()> {
    for n_workers in [1, 3] {
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let store = place.schema();
            let store = place.store(&store);
            let none: [&str; 0] = [];
            let owner = Engine::builder().pools(none).open(&store).await?;
            let mut workers = Vec::new();
            for _ in 0..n_workers {
                workers.push(Engine::open(&store).await?);
            }
            let workflow = sum((0..width).map(square_elsewhere).collect::<Vec<_>>());
            let start = Instant::now();
            let output = owner.run("remote", workflow).await?;
            let ours = start.elapsed();
            assert_eq!(output, sum_of_squares(width));
            owner.shutdown().await?;
            for worker in workers {
                worker.shutdown().await?;
            }
            pairs.push((ours, queue_floor(place, width).await?));
        }
        Row {
            work: match n_workers {
                1 => "remote steps, 1 worker",
                _ => "remote steps, 3 workers",
            },
            floor: "rows inserted, taken, finished, deleted",
            at_least: "",
            units: width,
            pairs,
        }
        .print();
    }
    Ok(())
}

/// A queue in the plainest way: each row is inserted, taken, given a result and deleted, in batches, over one connection.
async fn queue_floor(place: &mut Place, rows: u64) -> anyhow::Result<Duration> {
    const AT_ONCE: i64 = 256;
    let client = place.connect().await?;
    let schema = place.schema();
    client
        .batch_execute(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.queue (n bigint PRIMARY KEY, state int NOT NULL, bytes bytea NOT NULL);
            CREATE INDEX waiting ON {schema}.queue (n) WHERE state = 0"
        ))
        .await?;
    let insert = format!(
        "INSERT INTO {schema}.queue SELECT n, 0, $3 FROM generate_series($1::bigint, $2::bigint) n"
    );
    let insert = client.prepare(&insert).await?;
    let take = format!(
        "UPDATE {schema}.queue q SET state = 1 WHERE q.n = ANY (ARRAY(
            SELECT n FROM {schema}.queue WHERE state = 0 ORDER BY n LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING q.n"
    );
    let take = client.prepare(&take).await?;
    let finish = format!("UPDATE {schema}.queue SET state = 2, bytes = $2 WHERE n = ANY ($1)");
    let finish = client.prepare(&finish).await?;
    let delete = format!("DELETE FROM {schema}.queue WHERE n = ANY ($1)");
    let delete = client.prepare(&delete).await?;
    let bytes: &[u8] = &[7; 64];
    let start = Instant::now();
    let rows = i64::try_from(rows)?;
    let mut first = 0;
    while first < rows {
        let last = (first + BATCH as i64).min(rows) - 1;
        client.execute(&insert, &[&first, &last, &bytes]).await?;
        first = last + 1;
    }
    loop {
        let taken = client.query(&take, &[&AT_ONCE]).await?;
        if taken.is_empty() {
            return Ok(start.elapsed());
        }
        let taken: Vec<i64> = taken.iter().map(|row| row.get(0)).collect();
        client.execute(&finish, &[&taken, &bytes]).await?;
        client.execute(&delete, &[&taken]).await?;
    }
}

/// Claims and listings among many runs, of which the newest hundredth is free and the rest have ended.
async fn look_rows(place: &mut Place, runs: u64) -> anyhow::Result<()> {
    let schema = place.schema();
    let store = keepstep::storage::open(&place.store(&schema)).await?;
    let client = place.connect().await?;
    client
        .batch_execute(&format!(
            "INSERT INTO {schema}.run (id, kind, status, owner, epoch, incarnation, workflow, plan_hash, created_at,
                first_entry, next_entry, journal_bytes, steps_total, steps_done, steps_failed, build_label, build_steps)
            SELECT 'run-' || n, 1, CASE WHEN n > {runs} - {runs} / 100 THEN 2 ELSE 4 END, NULL, 1, n, 'step',
                decode(repeat('00', 32), 'hex'), n, 0, 1, 100, 3, 3, 0, '', 0
            FROM generate_series(1, {runs}) n; ANALYZE {schema}.run"
        ))
        .await?;
    let work = format!("{runs} stored runs");
    let lease = Duration::from_secs(30);
    let mut claims = Vec::new();
    for _ in 0..10.min(runs / 1_000).max(1) {
        let start = Instant::now();
        let free = store.claim_free(RunKind::Workflow, &[], NodeId(1), lease, 10);
        assert!(!free.await?.is_empty());
        claims.push(start.elapsed());
    }
    figure(&work, "claim of 10 free runs", claims);
    for (what, statuses, newest_first) in [
        ("page of 100, newest first", vec![], true),
        (
            "page of 100 running, oldest first",
            vec![StoredStatus::Running],
            false,
        ),
        (
            "page of 100 pending, running or failed",
            vec![
                StoredStatus::Pending,
                StoredStatus::Running,
                StoredStatus::Failed,
            ],
            true,
        ),
    ] {
        let query = RunQuery {
            statuses,
            newest_first,
            limit: 100,
            ..RunQuery::default()
        };
        let mut pages = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            store.list(&query).await?;
            pages.push(start.elapsed());
        }
        figure(&work, what, pages);
    }
    Ok(())
}

fn figure(work: &str, what: &str, mut times: Vec<Duration>) {
    times.sort();
    let median = times[times.len() / 2].as_secs_f64() * 1e3;
    table::print_figure(work, what, &format!("{median:.2} ms"), "");
}
