//! `sluice events`: the event types that come with Sluice, from the schemas of this build, and what became of an event.

use comfy_table::{ContentArrangement, Table, presets};
use include_dir::{Dir, include_dir};
use serde_json::Value;

use crate::commands::find::Find;
use crate::config::DatabaseArgs;

static SCHEMAS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../events");
const ENDING: &str = ".schema.json";

#[derive(clap::Subcommand)]
pub enum Events {
    #[command(flatten)]
    Types(Types),
    /// What became of an event: where it is, its verdict, its changes, its dead letter, and whether its sender was told
    Find {
        #[command(flatten)]
        database: Box<DatabaseArgs>,
        #[command(flatten)]
        find: Find,
    },
}

#[derive(clap::Subcommand)]
pub enum Types {
    /// All types with what each one says
    List,
    /// The JSON Schema of a type
    Schema {
        /// For example user.created
        event_type: String,
    },
    /// A sample event of a type, ready to be sent
    Sample {
        /// For example user.created
        event_type: String,
    },
}

/// What to print, or one line that says why not.
pub fn types_as_text(command: &Types) -> Result<String, String> {
    match command {
        Types::List => list(),
        Types::Schema { event_type } => Ok(source(event_type)?.trim_end().to_owned()),
        Types::Sample { event_type } => {
            let schema = parse(source(event_type)?)?;
            serde_json::to_string(&schema["examples"][0]).map_err(|error| error.to_string())
        }
    }
}

fn list() -> Result<String, String> {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for event_type in types() {
        let schema = parse(source(event_type)?)?;
        let meaning = schema["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        table.add_row([event_type.to_owned(), meaning]);
    }
    Ok(table.trim_fmt())
}

fn types() -> Vec<&'static str> {
    let names = SCHEMAS.files().filter_map(|file| file.path().to_str());
    let mut types: Vec<_> = names.filter_map(|name| name.strip_suffix(ENDING)).collect();
    types.sort_unstable();
    types
}

fn source(event_type: &str) -> Result<&'static str, String> {
    let file = SCHEMAS.get_file(format!("{event_type}{ENDING}"));
    file.and_then(include_dir::File::contents_utf8)
        .ok_or_else(|| {
            format!("no event type {event_type:?} comes with Sluice; see `sluice events list`")
        })
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
