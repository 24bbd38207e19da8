//! `sluice events find`: what became of an event, by the records that carried it.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::commands::output::{Format, Output, connect, failed, print, rows};
use crate::commands::write_line;
use crate::config::DatabaseArgs;

#[derive(Args)]
pub struct Find {
    /// Its eventId
    event_id: String,
    /// Its source; without this an event that gives none
    #[arg(long, default_value = "")]
    source: String,
    #[command(flatten)]
    format: Format,
}

const FIND: &str = "SELECT * FROM sluice.find_event($1, $2)";

/// Tables on stdout, or the rows of `sluice.find_event` as JSON.
pub async fn find(database: &DatabaseArgs, find: &Find) -> Result<(), String> {
    let client = connect(database, "sluice events find").await?;
    let found = rows(&client, FIND, &[&find.source, &find.event_id]).await;
    let found = found.map_err(|error| failed(&error))?;
    if found.is_empty() {
        return Err(nothing(find));
    }
    if find.format.output != Output::Table {
        return print(&found, find.format.output, "");
    }
    print(
        &found.iter().map(summary).collect::<Vec<_>>(),
        Output::Table,
        "",
    )?;
    for part in [changes(&found), actions(&found)] {
        if !part.is_empty() {
            write_line("")?;
            print(&part, Output::Table, "")?;
        }
    }
    Ok(())
}

fn nothing(find: &Find) -> String {
    let which = match find.source.as_str() {
        "" => "without a source (name one with --source)".to_owned(),
        source => format!("of source {source:?}"),
    };
    format!(
        "no event {:?} {which}: no record of it is committed, or it was pruned",
        find.event_id
    )
}

/// A record on one line.
fn summary(row: &Value) -> Value {
    let mut summary = Map::new();
    for name in [
        "topic",
        "partition",
        "kafka_offset",
        "verdict",
        "reason",
        "event_time",
        "created_at",
        "result_told",
    ] {
        summary.insert(name.to_owned(), row[name].clone());
    }
    let letter = &row["dead_letter"];
    let letter = letter["id"]
        .as_i64()
        .map(|id| format!("{id} {}", letter["status"].as_str().unwrap_or_default()));
    summary.insert("dead_letter".to_owned(), json!(letter));
    Value::Object(summary)
}

/// The changes of all records, each with the place of its record.
fn changes(found: &[Value]) -> Vec<Value> {
    let columns = [
        "account_id",
        "shard_id",
        "currency_code",
        "available_delta",
        "frozen_delta",
        "available_before",
        "frozen_before",
        "available_after",
        "frozen_after",
    ];
    list(found, |row| &row["changes"], &columns)
}

/// What was done to their dead letters.
fn actions(found: &[Value]) -> Vec<Value> {
    let columns = ["acted_at", "action", "by_user", "why", "verdict", "reason"];
    list(found, |row| &row["dead_letter"]["actions"], &columns)
}

/// What `part` has of each record, with the record's place.
fn list(found: &[Value], part: impl Fn(&Value) -> &Value, columns: &[&str]) -> Vec<Value> {
    let mut lines = Vec::new();
    for row in found {
        for entry in part(row).as_array().into_iter().flatten() {
            let place = ["topic", "partition", "kafka_offset"].map(|name| (name, &row[name]));
            let cells = columns.iter().map(|name| (*name, &entry[*name]));
            let line = place.into_iter().chain(cells);
            lines.push(
                line.map(|(name, cell)| (name.to_owned(), cell.clone()))
                    .collect(),
            );
        }
    }
    lines
}
