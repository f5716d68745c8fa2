//! Making the schema, and bringing an older one up to date: one process at a time, in one transaction.

use super::backend::Object;

/// The format that this version reads and writes. Add a script to `SCRIPTS` with every new one.
pub(super) const FORMAT: i32 = 1;
/// Brings a store of format n to format n + 1.
const SCRIPTS: [&str; FORMAT as usize] = [concat!(
    include_str!("schema.sql"),
    include_str!("tasks.sql")
)];

/// What was there.
#[derive(Debug)]
pub(super) struct Found {
    /// The format of the store, now.
    pub(super) format: i32,
    pub(super) encoding: String,
    /// Whether the server syncs what it commits.
    pub(super) syncs: bool,
}

/// The text of a script, or of any statement, for the schema of a store: its name stands for `keepstep`.
pub(super) fn named(sql: &str, schema: &str) -> String {
    sql.replace("keepstep.", &format!("\"{schema}\"."))
        .replace("'keepstep'", &format!("'{schema}'"))
}

pub(super) async fn install(
    session: &mut Object,
    schema: &str,
) -> Result<Found, tokio_postgres::Error> {
    let row = session
        .query_one(
            "SELECT current_setting('server_encoding'), current_setting('fsync') = 'on'",
            &[],
        )
        .await?;
    let mut found = Found {
        format: 0,
        encoding: row.try_get(0)?,
        syncs: row.try_get(1)?,
    };
    if !found.is_readable() {
        return Ok(found);
    }
    let transaction = session.transaction().await?;
    // Two that open a new store at once: the second waits, and finds it made.
    transaction
        .execute(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
            &[&format!("keepstep schema {schema}")],
        )
        .await?;
    let row = transaction
        .query_one(
            "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.store') IS NOT NULL",
            &[&schema],
        )
        .await?;
    let (has_schema, has_store): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if has_store {
        let query = named("SELECT format FROM keepstep.store", schema);
        found.format = transaction.query_one(&query, &[]).await?.try_get(0)?;
    }
    let missing = usize::try_from(found.format)
        .ok()
        .and_then(|format| SCRIPTS.get(format..))
        .unwrap_or_default();
    if missing.is_empty() {
        return Ok(found);
    }
    // Whoever may not make schemas can be given an empty one.
    if !has_schema {
        transaction
            .batch_execute(&format!("CREATE SCHEMA \"{schema}\""))
            .await?;
    }
    for script in missing {
        transaction.batch_execute(&named(script, schema)).await?;
    }
    let update = named("UPDATE keepstep.store SET format = $1", schema);
    transaction.execute(&update, &[&FORMAT]).await?;
    transaction.commit().await?;
    found.format = FORMAT;
    Ok(found)
}

impl Found {
    /// Ids are any text, and sort by their bytes.
    pub(super) fn is_readable(&self) -> bool {
        self.encoding == "UTF8"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_the_schema_of_its_store() {
        let script = named(SCRIPTS[0], "flows");
        assert!(script.contains("CREATE TABLE \"flows\".run ("));
        assert!(script.contains("channel constant text := 'flows'"));
        assert!(!script.contains("keepstep.run"));
    }
}
