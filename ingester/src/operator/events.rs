//! The event types that come with Sluice, from the schemas of this build, and what became of an event.

use include_dir::{Dir, include_dir};
use serde_json::Value;
use tokio_postgres::{Client, Error};

use crate::operator::rows::rows;

static SCHEMAS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../families/platform/events");
const ENDING: &str = ".schema.json";

const FIND: &str = "SELECT * FROM sluice.find_event($1, $2)";

/// What became of an event, by the records that carried it.
pub async fn find(client: &Client, source: &str, event_id: &str) -> Result<Vec<Value>, Error> {
    rows(client, FIND, &[&source, &event_id]).await
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
