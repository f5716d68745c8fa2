//! The pipeline: its steps, and how they follow each other.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::kernels::numeric::mul;
use arrow::compute::{DatePart, cast, date_part, filter_record_batch, not};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, UInt64Type};
use keepstep::Bytes;
use keepstep::prelude::*;
use serde::{Deserialize, Serialize};

use crate::make;
use crate::tables::{TableWriter, batches, numbers, read_parquet, split};

/// Into how many parts the tables are split, to be joined side by side.
const BUCKETS: usize = 8;
/// How many files of orders are made.
const ORDER_FILES: u64 = 16;
const CUSTOMER_FILES: u64 = 4;
/// How many groups the report shows.
const TOP: usize = 8;

/// What this process brings along. Resources are not part of a run: the next process may bring others.
pub(crate) struct Worker {
    slow: Duration,
    executed: AtomicU64,
}

impl Worker {
    pub(crate) fn new(slow: Duration) -> Self {
        let executed = AtomicU64::new(0);
        Self { slow, executed }
    }

    pub(crate) fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    fn executes(&self) {
        self.executed.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.slow);
    }
}

/// Who buys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) country: String,
    pub(crate) segment: String,
}

/// What some orders come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) orders: u64,
    pub(crate) cents: i64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.orders += other.orders;
        self.cents += other.cents;
    }
}

/// What the join of one bucket comes to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// By group and month.
    sums: Vec<(Group, i32, Sum)>,
    /// Orders whose customer is not in the other table.
    unknown: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) all: Sum,
    pub(crate) groups: u64,
    /// Orders whose customer is not in the other table.
    pub(crate) unknown: u64,
    /// 1 for January.
    pub(crate) best_month: i32,
    /// The groups that brought most.
    pub(crate) top: Vec<(Group, Sum)>,
}

/// A table in parts: one object a bucket.
type Parts = Vec<ObjectRef<Bytes>>;

/// Makes the data and reports on it.
pub(crate) fn made_sales(data: &str, megabytes: u64) -> Workflow<Report> {
    let folder = format!("{data}-{megabytes}-mb");
    let rows = megabytes * make::ORDERS_PER_MB / ORDER_FILES;
    let customers = (rows / 4).max(CUSTOMER_FILES);
    let mut made: Vec<Workflow<PathBuf>> = (0..CUSTOMER_FILES)
        .map(|part| make_customers(folder.clone(), part, customers / CUSTOMER_FILES))
        .collect();
    let known = customers / CUSTOMER_FILES * CUSTOMER_FILES;
    made.extend((0..ORDER_FILES).map(|part| make_orders(folder.clone(), part, rows, known)));
    sales_of(made)
}

/// Reports on the data of a folder.
pub(crate) fn sales_in(folder: &str) -> Workflow<Report> {
    files(folder.to_owned())
}

#[step(name = "sales/make orders")]
fn make_orders(
    folder: PathBuf,
    part: u64,
    rows: u64,
    customers: u64,
    #[resource] worker: &Arc<Worker>,
) -> anyhow::Result<PathBuf> {
    worker.executes();
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("orders-{part:04}.parquet"));
    make::orders(&path, part, rows, customers)?;
    Ok(path)
}

#[step(name = "sales/make customers")]
fn make_customers(
    folder: PathBuf,
    part: u64,
    rows: u64,
    #[resource] worker: &Arc<Worker>,
) -> anyhow::Result<PathBuf> {
    worker.executes();
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("customers-{part:04}.parquet"));
    make::customers(&path, part * rows, rows)?;
    Ok(path)
}

#[step(name = "sales/files")]
fn files(folder: &Path, #[resource] worker: &Arc<Worker>) -> anyhow::Result<Workflow<Report>> {
    worker.executes();
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "parquet")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(sales_of(files))
}

/// Splits each file as soon as it is there.
#[step(name = "sales/of files", retries = 0)]
async fn sales_of(files: Vec<PathBuf>) -> anyhow::Result<Workflow<Report>> {
    let (mut orders, mut customers) = (Vec::new(), Vec::new());
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("orders-") {
            orders.push(load_orders(path));
        } else if name.starts_with("customers-") {
            customers.push(load_customers(path));
        }
    }
    anyhow::ensure!(
        !orders.is_empty() && !customers.is_empty(),
        "the folder needs files orders-*.parquet and customers-*.parquet"
    );
    Ok(shuffle(orders, customers))
}

/// What of an order goes on: orders that were not returned, what they brought, and in which month.
#[step(name = "sales/load orders")]
async fn load_orders(path: PathBuf, #[resource] worker: &Arc<Worker>) -> anyhow::Result<Parts> {
    let worker = Arc::clone(worker);
    let tables = tokio::task::spawn_blocking(move || {
        worker.executes();
        let columns = ["customer_id", "day", "quantity", "cents", "returned"];
        let schema = Schema::new(vec![
            Field::new("customer_id", DataType::UInt64, false),
            Field::new("month", DataType::Int32, false),
            Field::new("revenue", DataType::Int64, false),
        ]);
        let kept = read_parquet(&path, &columns)?.map(|batch| kept_orders(&batch?, &schema));
        split_table(kept, &schema)
    });
    put_all(tables.await??).await
}

fn kept_orders(batch: &RecordBatch, schema: &Schema) -> anyhow::Result<RecordBatch> {
    let returned: BooleanArray = batch
        .column_by_name("returned")
        .and_then(|column| column.as_boolean_opt())
        .context("column returned is missing, or not one of booleans")?
        .clone();
    let kept = filter_record_batch(batch, &not(&returned)?)?;
    let day = kept
        .column_by_name("day")
        .context("there is no column day")?;
    let quantity = cast(&numbers::<Int32Type>(&kept, "quantity")?, &DataType::Int64)?;
    let revenue = mul(&quantity, &numbers::<Int64Type>(&kept, "cents")?)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(numbers::<UInt64Type>(&kept, "customer_id")?),
        date_part(day, DatePart::Month)?,
        revenue,
    ];
    Ok(RecordBatch::try_new(schema.clone().into(), columns)?)
}

#[step(name = "sales/load customers")]
async fn load_customers(path: PathBuf, #[resource] worker: &Arc<Worker>) -> anyhow::Result<Parts> {
    let worker = Arc::clone(worker);
    let tables = tokio::task::spawn_blocking(move || {
        worker.executes();
        let columns = ["customer_id", "country", "segment"];
        let schema = Schema::new(vec![
            Field::new("customer_id", DataType::UInt64, false),
            Field::new("country", DataType::Utf8, false),
            Field::new("segment", DataType::Utf8, false),
        ]);
        split_table(read_parquet(&path, &columns)?, &schema)
    });
    put_all(tables.await??).await
}

/// A table a bucket.
fn split_table(
    batches: impl Iterator<Item = anyhow::Result<RecordBatch>>,
    schema: &Schema,
) -> anyhow::Result<Vec<Bytes>> {
    let mut tables = (0..BUCKETS)
        .map(|_| TableWriter::new(schema))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for batch in batches {
        for (table, part) in tables
            .iter_mut()
            .zip(split(&batch?, "customer_id", BUCKETS)?)
        {
            table.write(&part)?;
        }
    }
    tables.into_iter().map(TableWriter::finish).collect()
}

async fn put_all(tables: Vec<Bytes>) -> anyhow::Result<Parts> {
    let mut parts = Vec::with_capacity(tables.len());
    for table in tables {
        parts.push(put(&table).await?);
    }
    Ok(parts)
}

/// Turns the files' parts into buckets: a bucket has what belongs together of every file.
#[step(name = "sales/shuffle")]
async fn shuffle(orders: Vec<Parts>, customers: Vec<Parts>) -> Workflow<Report> {
    let bucket = |table: &[Parts], bucket: usize| -> Parts {
        table.iter().map(|parts| parts[bucket].clone()).collect()
    };
    let joined: Vec<_> = (0..BUCKETS)
        .map(|at| join(bucket(&orders, at), bucket(&customers, at)))
        .collect();
    report(joined)
}

/// Joins the orders of one bucket with their customers, and sums them up.
#[step(name = "sales/join")]
async fn join(
    orders: Parts,
    customers: Parts,
    #[resource] worker: &Arc<Worker>,
) -> anyhow::Result<Joined> {
    let (orders, customers) = (get_all(orders).await?, get_all(customers).await?);
    let worker = Arc::clone(worker);
    tokio::task::spawn_blocking(move || {
        worker.executes();
        join_tables(&orders, &customers)
    })
    .await?
}

async fn get_all(parts: Parts) -> anyhow::Result<Vec<Arc<Bytes>>> {
    let mut tables = Vec::with_capacity(parts.len());
    for part in parts {
        tables.push(part.get().await?);
    }
    Ok(tables)
}

fn join_tables(orders: &[Arc<Bytes>], customers: &[Arc<Bytes>]) -> anyhow::Result<Joined> {
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of_customer: HashMap<u64, usize> = HashMap::new();
    for table in customers {
        for batch in batches(table)? {
            let text = |name: &str| -> anyhow::Result<StringArray> {
                let column = batch
                    .column_by_name(name)
                    .and_then(|column| column.as_string_opt());
                let column = column.with_context(|| format!("column {name} is missing"))?;
                Ok(column.clone())
            };
            let (countries, segments) = (text("country")?, text("segment")?);
            let ids = numbers::<UInt64Type>(&batch, "customer_id")?;
            for (row, id) in ids.values().iter().enumerate() {
                let (country, segment) = (countries.value(row), segments.value(row));
                let is_it = |group: &Group| group.country == country && group.segment == segment;
                let group = groups.iter().position(is_it).unwrap_or_else(|| {
                    groups.push(Group {
                        country: country.to_owned(),
                        segment: segment.to_owned(),
                    });
                    groups.len() - 1
                });
                group_of_customer.insert(*id, group);
            }
        }
    }
    let mut sums: BTreeMap<(usize, i32), Sum> = BTreeMap::new();
    let mut unknown = 0;
    for table in orders {
        for batch in batches(table)? {
            let ids = numbers::<UInt64Type>(&batch, "customer_id")?;
            let months = numbers::<Int32Type>(&batch, "month")?;
            let revenue = numbers::<Int64Type>(&batch, "revenue")?;
            let rows = ids.values().iter().zip(months.values());
            for ((id, month), cents) in rows.zip(revenue.values()) {
                match group_of_customer.get(id) {
                    Some(group) => sums.entry((*group, *month)).or_default().add(Sum {
                        orders: 1,
                        cents: *cents,
                    }),
                    None => unknown += 1,
                }
            }
        }
    }
    let sums = sums
        .into_iter()
        .map(|((group, month), sum)| (groups[group].clone(), month, sum))
        .collect();
    Ok(Joined { sums, unknown })
}

#[step(name = "sales/report")]
fn report(joined: Vec<Joined>, #[resource] worker: &Arc<Worker>) -> anyhow::Result<Report> {
    worker.executes();
    let unknown = joined.iter().map(|part| part.unknown).sum();
    let mut all = Sum::default();
    let mut months: BTreeMap<i32, i64> = BTreeMap::new();
    let mut groups: BTreeMap<Group, Sum> = BTreeMap::new();
    for (group, month, sum) in joined.into_iter().flat_map(|part| part.sums) {
        all.add(sum);
        *months.entry(month).or_default() += sum.cents;
        groups.entry(group).or_default().add(sum);
    }
    let best_month = months.into_iter().max_by_key(|(_, cents)| *cents);
    let n_groups = groups.len() as u64;
    let mut top: Vec<(Group, Sum)> = groups.into_iter().collect();
    top.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.cents));
    top.truncate(TOP);
    Ok(Report {
        all,
        groups: n_groups,
        unknown,
        best_month: best_month.context("there are no orders")?.0,
        top,
    })
}
