//! The event types that come with Sluice, from the schemas of this build, and what became of an event.

use include_dir::{Dir, include_dir};
use serde_json::Value;
use tokio_postgres::{Client, Error};

use crate::operator::rows::rows;

static SCHEMAS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../families/platform/events");
const ENDING: &str = ".schema.json";

const FIND: &str = "SELECT * FROM sluice.find_event($1, $2)";

// Those that have sent something lately: of each partition the last records are asked, by the keys of the tables.
const SOURCES: &str = "
    SELECT DISTINCT v.source FROM ledger.partition_progress p
    CROSS JOIN LATERAL (
        SELECT g.source FROM ledger.balance_log g
        WHERE g.partition_id = p.partition_id AND g.kafka_offset >= p.commit_offset - 200 AND g.change_no = 0
        UNION ALL
        SELECT e.source FROM ledger.verdicts e
        WHERE e.partition_id = p.partition_id AND e.kafka_offset >= p.commit_offset - 200
    ) v
    WHERE v.source IS NOT NULL ORDER BY 1 LIMIT 50";

/// What became of an event, by the records that carried it.
pub async fn find(client: &Client, source: &str, event_id: &str) -> Result<Vec<Value>, Error> {
    rows(client, FIND, &[&source, &event_id]).await
}

/// The senders that were heard of lately.
pub async fn sources(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client.query(SOURCES, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The same of an event that any of these may have sent, or one without a sender: each row with its `source`.
pub async fn find_of_any(
    client: &Client,
    event_id: &str,
    sources: &[String],
    or_none: bool,
) -> Result<Vec<Value>, Error> {
    let none = or_none.then(String::new);
    let mut found = Vec::new();
    for source in none.iter().chain(sources) {
        for mut row in find(client, source, event_id).await? {
            row["source"] = match source.is_empty() {
                true => Value::Null,
                false => Value::from(source.as_str()),
            };
            found.push(row);
        }
    }
    Ok(found)
}

/// The names of all types.
pub fn types() -> Vec<&'static str> {
    let names = SCHEMAS.files().filter_map(|file| file.path().to_str());
    let mut types: Vec<_> = names.filter_map(|name| name.strip_suffix(ENDING)).collect();
    types.sort_unstable();
    types
}

/// The JSON Schema of a type, as it is written.
pub fn schema(event_type: &str) -> Result<&'static str, String> {
    let file = SCHEMAS.get_file(format!("{event_type}{ENDING}"));
    file.and_then(include_dir::File::contents_utf8)
        .ok_or_else(|| {
            format!("no event type {event_type:?} comes with Sluice; see `sluice events list`")
        })
}

/// The same, read.
pub fn parsed_schema(event_type: &str) -> Result<Value, String> {
    serde_json::from_str(schema(event_type)?).map_err(|error| error.to_string())
}
