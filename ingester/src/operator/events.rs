//! The JSON Schemas of this build: of the event types that come with Sluice, and of the records that it writes itself.
//! And what became of an event.

use include_dir::{Dir, File, include_dir};
use ledger::event::BALANCE_CHANGED;
use serde_json::Value;
use tokio_postgres::{Client, Error};

use crate::operator::rows::rows;

/// Of the core: balance events, and what Sluice produces to `RESULTS_TOPIC` and `DLQ_TOPIC`.
static CORE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../schemas");
/// Of the domain events that come with Sluice.
static FAMILIES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../families/platform/events");
const ENDING: &str = ".schema.json";

/// The records that Sluice writes itself.
pub const WRITTEN: [&str; 2] = ["result", "dead-letter"];

const FIND: &str = "SELECT * FROM sluice.find_event($1, $2)";
const TRY: &str = "SELECT * FROM sluice.try_handler($1, $2::text::jsonb)";

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

/// What the handler of a type makes of events, rolled back: a row for each event, then one for each row that it wrote.
pub async fn try_handler(
    client: &Client,
    event_type: &str,
    payloads: &[&str],
) -> Result<Vec<Value>, Error> {
    let events = format!("[{}]", payloads.join(","));
    rows(client, TRY, &[&event_type, &events]).await
}

/// The names of all types of domain events.
pub fn types() -> Vec<&'static str> {
    let names = FAMILIES.files().filter_map(|file| file.path().to_str());
    let mut types: Vec<_> = names.filter_map(|name| name.strip_suffix(ENDING)).collect();
    types.sort_unstable();
    types
}

/// All that has a schema: balance events, domain events, what Sluice writes.
pub fn described() -> Vec<&'static str> {
    let mut all = vec![BALANCE_CHANGED];
    all.extend(types());
    all.extend(WRITTEN);
    all
}

/// The JSON Schema of an event type or a record, as it is written.
pub fn schema(name: &str) -> Result<&'static str, String> {
    let file = format!("{name}{ENDING}");
    let found = CORE.get_file(&file).or_else(|| FAMILIES.get_file(&file));
    found.and_then(File::contents_utf8).ok_or_else(|| {
        format!("no event type {name:?} comes with Sluice; see `sluice events list`")
    })
}

/// The same, read.
pub fn parsed_schema(name: &str) -> Result<Value, String> {
    serde_json::from_str(schema(name)?).map_err(|error| error.to_string())
}
