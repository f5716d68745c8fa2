//! The report is what a plain loop over the same files comes to, however they are cut into parts.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Date32Type, Int32Type, Int64Type, UInt64Type};
use keepstep::prelude::*;

use crate::make;
use crate::steps::{Group, Report, Sum, Worker, sales_in};
use crate::tables::{numbers, read_parquet};

/// By group, with the orders of unknown customers.
fn plain_loop(folder: &Path, orders: u64, customers: u64) -> (BTreeMap<Group, Sum>, u64) {
    let mut group_of: HashMap<u64, Group> = HashMap::new();
    for part in 0..customers {
        let path = folder.join(format!("customers-{part}.parquet"));
        for batch in read_parquet(&path, &["customer_id", "country", "segment"]).unwrap() {
            let batch = batch.unwrap();
            let ids = numbers::<UInt64Type>(&batch, "customer_id").unwrap();
            for (row, id) in ids.values().iter().enumerate() {
                let text =
                    |column: usize| batch.column(column).as_string::<i32>().value(row).into();
                let (country, segment) = (text(1), text(2));
                group_of.insert(*id, Group { country, segment });
            }
        }
    }
    let (mut sums, mut unknown) = (BTreeMap::new(), 0);
    for part in 0..orders {
        let path = folder.join(format!("orders-{part}.parquet"));
        let columns = ["customer_id", "day", "quantity", "cents", "returned"];
        for batch in read_parquet(&path, &columns).unwrap() {
            let batch = batch.unwrap();
            assert!(batch.num_rows() > 0);
            let ids = numbers::<UInt64Type>(&batch, "customer_id").unwrap();
            let days = numbers::<Date32Type>(&batch, "day").unwrap();
            let quantity = numbers::<Int32Type>(&batch, "quantity").unwrap();
            let cents = numbers::<Int64Type>(&batch, "cents").unwrap();
            let returned = batch.column_by_name("returned").unwrap().as_boolean();
            for row in (0..batch.num_rows()).filter(|row| !returned.value(*row)) {
                assert!(days.value(row) > 0);
                match group_of.get(&ids.value(row)) {
                    Some(group) => {
                        let sum: &mut Sum = sums.entry(group.clone()).or_default();
                        sum.orders += 1;
                        sum.cents += i64::from(quantity.value(row)) * cents.value(row);
                    }
                    None => unknown += 1,
                }
            }
        }
    }
    (sums, unknown)
}

async fn report_on(folder: &Path, data: &str) -> Report {
    let engine = Engine::builder()
        .resource(Arc::new(Worker::new(Duration::ZERO)))
        .open(data)
        .await
        .unwrap();
    let report = engine
        .run("sales", sales_in(folder.to_str().unwrap()))
        .await;
    engine.shutdown().await.unwrap();
    report.unwrap()
}

#[tokio::test]
async fn the_report_is_what_a_plain_loop_comes_to() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tables");
    std::fs::create_dir(&folder).unwrap();
    for part in 0..3 {
        let path = folder.join(format!("customers-{part}.parquet"));
        make::customers(&path, 100 * part, 100).unwrap();
    }
    for part in 0..5 {
        let path = folder.join(format!("orders-{part}.parquet"));
        make::orders(&path, part, 70_000, 300).unwrap();
    }
    let (sums, unknown) = plain_loop(&folder, 5, 3);
    assert!(unknown > 0, "there are orders of unknown customers");

    let data = dir.path().join("store");
    let report = report_on(&folder, data.to_str().unwrap()).await;
    assert_eq!(report.unknown, unknown);
    assert_eq!(report.groups, sums.len() as u64);
    assert_eq!(
        report.all.orders,
        sums.values().map(|sum| sum.orders).sum::<u64>()
    );
    assert_eq!(
        report.all.cents,
        sums.values().map(|sum| sum.cents).sum::<i64>()
    );
    for (group, sum) in &report.top {
        assert_eq!(sums.get(group), Some(sum), "{group:?}");
    }
    // The same from the store, without the files.
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(report_on(&folder, data.to_str().unwrap()).await, report);
}

#[tokio::test]
async fn a_folder_without_tables_is_said_to_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder()
        .resource(Arc::new(Worker::new(Duration::ZERO)))
        .open("memory:")
        .await
        .unwrap();
    let path = dir.path().to_str().unwrap();
    let error = engine.run("sales", sales_in(path)).await.unwrap_err();
    let error = format!("{:#}", anyhow::Error::from(error));
    assert!(error.contains("orders-*.parquet"), "{error}");
}
