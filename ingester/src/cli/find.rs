//! `sluice events find`: what became of an event, by the records that carried it.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::output::{Format, connect, failed_to_read, print, write_line};
use crate::config::database::DatabaseArgs;
use crate::operator::events;

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

/// Tables on stdout, or the rows of `sluice.find_event` as JSON.
pub async fn find(database: &DatabaseArgs, find: &Find) -> Result<(), String> {
    let client = connect(database, "sluice events find").await?;
    let found = events::find(&client, &find.source, &find.event_id).await;
    let found = found.map_err(|error| failed_to_read(&error))?;
    if found.is_empty() {
        return Err(nothing(find));
    }
    if !find.format.output.is_table() {
        return print(&found, find.format.output, "");
    }
    print(
        &found.iter().map(summary).collect::<Vec<_>>(),
        find.format.output,
        "",
    )?;
    for part in [changes(&found), letters(&found), actions(&found)] {
        if !part.is_empty() {
            write_line("")?;
            print(&part, find.format.output, "")?;
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

/// Why there are dead letters, and how often each was tried.
fn letters(found: &[Value]) -> Vec<Value> {
    let columns = ["id", "status", "error_code", "attempts", "error_message"];
    let dead = found.iter().filter(|row| row["dead_letter"].is_object());
    dead.map(|row| line(row, &row["dead_letter"], &columns))
        .collect()
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
        let entries = part(row).as_array().into_iter().flatten();
        lines.extend(entries.map(|entry| line(row, entry, columns)));
    }
    lines
}

/// Columns of `entry` behind the place of its record.
fn line(row: &Value, entry: &Value, columns: &[&str]) -> Value {
    let mut line = Map::new();
    for name in ["topic", "partition", "kafka_offset"] {
        line.insert(name.to_owned(), row[name].clone());
    }
    for name in columns {
        line.insert((*name).to_owned(), entry[*name].clone());
    }
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_told_with_its_message_and_its_attempts() {
        let place = |offset: i64| json!({"topic": "t", "partition": 0, "kafka_offset": offset, "dead_letter": null});
        let mut dead = place(7);
        dead["dead_letter"] = json!({
            "id": 3, "status": "PARKED", "error_code": "HANDLER_FAILED", "error_message": "no such user", "attempts": 4,
            "actions": [{"acted_at": null, "action": "REPLAY", "by_user": "ada", "why": null, "verdict": "DEAD", "reason": null}]
        });
        let found = [place(6), dead];
        assert_eq!(
            letters(&found),
            [json!({
                "topic": "t", "partition": 0, "kafka_offset": 7, "id": 3, "status": "PARKED", "error_code": "HANDLER_FAILED",
                "attempts": 4, "error_message": "no such user"
            })]
        );
        let actions = actions(&found);
        assert_eq!(
            (
                actions.len(),
                &actions[0]["kafka_offset"],
                &actions[0]["by_user"]
            ),
            (1, &json!(7), &json!("ada"))
        );
        assert!(changes(&found).is_empty());
    }
}
