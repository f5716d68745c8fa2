//! Tables: read from Parquet, passed on as objects in Arrow's own form, and read from there without a copy.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::Buffer;
use arrow::compute::take;
use arrow::datatypes::{ArrowPrimitiveType, Schema, UInt64Type};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use keepstep::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// Columns of a Parquet file, by name, batch by batch.
pub(crate) fn read_parquet(
    path: &Path,
    columns: &[&str],
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<RecordBatch>> + use<>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let mask = ProjectionMask::columns(reader.parquet_schema(), columns.iter().copied());
    let batches = reader
        .with_projection(mask)
        .with_batch_size(64 << 10)
        .build()?;
    Ok(batches.map(|batch| Ok(batch?)))
}

/// Writes a Parquet file that is there as a whole or not at all: a step that was killed half-way runs again.
pub(crate) fn write_parquet(
    path: &Path,
    batches: impl IntoIterator<Item = anyhow::Result<RecordBatch>>,
    schema: &Schema,
) -> anyhow::Result<()> {
    let half = path.with_extension("half");
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let file = File::create(&half).with_context(|| half.display().to_string())?;
    let mut writer = ArrowWriter::try_new(file, schema.clone().into(), Some(properties))?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    writer.into_inner()?.sync_all()?;
    std::fs::rename(&half, path)?;
    Ok(())
}

/// A table in Arrow's streaming form.
pub(crate) struct TableWriter(StreamWriter<Vec<u8>>);

impl TableWriter {
    pub(crate) fn new(schema: &Schema) -> anyhow::Result<Self> {
        Ok(Self(StreamWriter::try_new(Vec::new(), schema)?))
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        Ok(self.0.write(batch)?)
    }

    pub(crate) fn finish(self) -> anyhow::Result<Bytes> {
        Ok(self.0.into_inner()?.into())
    }
}

/// The batches of a table that was passed by reference: their columns lie in the object's memory map.
pub(crate) fn batches(table: &Bytes) -> anyhow::Result<Vec<RecordBatch>> {
    let mut rest = Buffer::from(table.clone());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        batches.extend(decoder.decode(&mut rest)?);
    }
    decoder.finish()?;
    Ok(batches)
}

/// A column of a primitive type.
pub(crate) fn numbers<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
) -> anyhow::Result<arrow::array::PrimitiveArray<T>> {
    let column = batch
        .column_by_name(name)
        .with_context(|| format!("there is no column {name}"))?;
    let numbers = column.as_primitive_opt::<T>().with_context(|| {
        format!(
            "column {name} is {}, not {}",
            column.data_type(),
            T::DATA_TYPE
        )
    })?;
    Ok(numbers.clone())
}

/// The rows of a batch that belong to each bucket, by the hash of a key: equal keys are in the same bucket of every table.
pub(crate) fn split(
    batch: &RecordBatch,
    key: &str,
    buckets: usize,
) -> anyhow::Result<Vec<RecordBatch>> {
    let keys: UInt64Array = numbers::<UInt64Type>(batch, key)?;
    let mut rows = vec![Vec::new(); buckets];
    for (row, key) in (0u32..).zip(keys.values()) {
        rows[bucket_of(*key, buckets)].push(row);
    }
    rows.into_iter()
        .map(|rows| {
            let rows = UInt32Array::from(rows);
            let columns = batch
                .columns()
                .iter()
                .map(|column| Ok(take(column, &rows, None)?))
                .collect::<anyhow::Result<Vec<ArrayRef>>>()?;
            Ok(RecordBatch::try_new(batch.schema(), columns)?)
        })
        .collect()
}

/// Fibonacci hashing: keys that follow each other are spread over the buckets.
fn bucket_of(key: u64, buckets: usize) -> usize {
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    hash as usize % buckets
}
