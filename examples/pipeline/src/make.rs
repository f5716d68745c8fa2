//! Makes the data: orders and customers, the same in every run.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};

use crate::tables::write_parquet;

/// About a megabyte of Parquet.
pub(crate) const ORDERS_PER_MB: u64 = 60_000;
/// One in so many orders is of a customer that nobody knows.
const UNKNOWN: u64 = 1000;
const BATCH: u64 = 64 << 10;

const COUNTRIES: [&str; 8] = [
    "Austria", "Belgium", "Denmark", "France", "Germany", "Italy", "Poland", "Spain",
];
const SEGMENTS: [&str; 4] = ["school", "shop", "home", "hospital"];
/// 2024-01-01, in days since 1970.
const FIRST_DAY: i32 = 19_723;

fn schema(columns: &[(&str, DataType)]) -> Schema {
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), false);
    Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

/// Random numbers that are the same everywhere: SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// One file of orders.
pub(crate) fn orders(path: &Path, part: u64, rows: u64, customers: u64) -> anyhow::Result<()> {
    let schema = schema(&[
        ("order_id", DataType::UInt64),
        ("customer_id", DataType::UInt64),
        ("day", DataType::Date32),
        ("product", DataType::Utf8),
        ("quantity", DataType::Int32),
        ("cents", DataType::Int64),
        ("returned", DataType::Boolean),
    ]);
    let mut random = Random(part);
    let first = part * rows;
    let batches = (0..rows).step_by(BATCH as usize).map(|start| {
        let ids: Vec<u64> = (start..rows.min(start + BATCH))
            .map(|row| first + row)
            .collect();
        let customer = |random: &mut Random| match random.below(UNKNOWN) {
            0 => customers + random.below(customers),
            _ => random.below(customers),
        };
        let n = ids.len();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(ids)),
            Arc::new(
                (0..n)
                    .map(|_| customer(&mut random))
                    .collect::<UInt64Array>(),
            ),
            Arc::new(
                (0..n)
                    .map(|_| Some(FIRST_DAY + random.below(366) as i32))
                    .collect::<Date32Array>(),
            ),
            Arc::new(
                (0..n)
                    .map(|_| Some(format!("product {:05}", random.below(20_000))))
                    .collect::<StringArray>(),
            ),
            Arc::new(
                (0..n)
                    .map(|_| 1 + random.below(9) as i32)
                    .collect::<Int32Array>(),
            ),
            Arc::new(
                (0..n)
                    .map(|_| 99 + random.below(50_000) as i64)
                    .collect::<Int64Array>(),
            ),
            Arc::new(
                (0..n)
                    .map(|_| Some(random.below(20) == 0))
                    .collect::<BooleanArray>(),
            ),
        ];
        Ok(RecordBatch::try_new(schema.clone().into(), columns)?)
    });
    write_parquet(path, batches, &schema)
}

/// One file of customers: those from `first` on.
pub(crate) fn customers(path: &Path, first: u64, rows: u64) -> anyhow::Result<()> {
    let schema = schema(&[
        ("customer_id", DataType::UInt64),
        ("country", DataType::Utf8),
        ("segment", DataType::Utf8),
        ("name", DataType::Utf8),
    ]);
    let mut random = Random(!first);
    let ids = || first..first + rows;
    let mut pick = |from: &[&'static str]| {
        let picked = ids().map(|_| Some(from[random.below(from.len() as u64) as usize]));
        picked.collect::<StringArray>()
    };
    let (country, segment) = (pick(&COUNTRIES), pick(&SEGMENTS));
    let name: StringArray = ids().map(|id| Some(format!("customer {id}"))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids().collect::<UInt64Array>()),
        Arc::new(country),
        Arc::new(segment),
        Arc::new(name),
    ];
    let batch = RecordBatch::try_new(schema.clone().into(), columns)?;
    write_parquet(path, [Ok(batch)], &schema)
}
