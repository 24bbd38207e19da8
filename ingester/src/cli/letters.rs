//! Dead letters as people are shown them: lists, one of them, and all about them as JSON.

use std::io::{IsTerminal, Write};

use futures_util::TryStreamExt;
use serde_json::{Map, Value};
use tokio_postgres::Client;

use crate::cli::output::{self, Output, failed, failed_to_read, write_line};
use crate::cli::table::cell;
use crate::operator::dead_letters::{self, Filter, Query};
use crate::terminal::{clean, tell};
use crate::words::of_io;

pub(super) async fn list(client: &Client, query: &Query<'_>, output: Output) -> Result<(), String> {
    let letters = query.letters(client).await;
    let letters = letters.map_err(|error| failed(&error))?;
    if letters.is_empty() {
        tell(&none_match(client, query.filter).await?);
    }
    ids_left_out(&letters, query);
    let narrow = [
        "id",
        "topic",
        "partition",
        "offset",
        "code",
        "status",
        "message",
    ];
    print(&letters, output, &narrow)?;
    let limit = query.limit.unwrap_or(i64::MAX);
    if letters.len() as i64 == limit {
        match query.count(client).await.map_err(|error| failed(&error))? {
            Some(all) if all > limit => {
                tell(&format!("the latest {limit} of {all}; --limit shows more"));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) async fn export(client: &Client, query: &Query<'_>) -> Result<(), String> {
    let letters = query.everything(client).await;
    let mut letters = std::pin::pin!(letters.map_err(|error| failed(&error))?);
    let mut count = 0;
    while let Some(letter) = letters.try_next().await.map_err(|error| failed(&error))? {
        write_line(&letter.to_string())?;
        count += 1;
    }
    match count {
        0 => tell(&none_match(client, query.filter).await?),
        count => tell(&format!("{count} letters")),
    }
    Ok(())
}

async fn existing(client: &Client, id: i64) -> Result<Map<String, Value>, String> {
    let letter = dead_letters::letter(client, id)
        .await
        .map_err(|error| failed(&error))?;
    letter.ok_or_else(|| format!("there is no dead letter {id}; see `sluice dlq list`"))
}

pub(super) async fn show_payload(client: &Client, id: i64) -> Result<(), String> {
    let letter = existing(client, id).await?;
    // What is tried next is what is to be corrected further.
    let payloads = ["retry_payload", "payload"].map(|name| letter[name].as_str());
    let Some(base64) = payloads.into_iter().flatten().next() else {
        return Err(format!("dead letter {id} has no payload"));
    };
    let bytes = openssl::base64::decode_block(base64);
    let bytes = bytes.map_err(|_| format!("the payload of dead letter {id} arrived damaged"))?;
    if std::io::stdout().is_terminal() {
        return write_line(&String::from_utf8_lossy(&bytes));
    }
    let written = std::io::stdout().write_all(&bytes);
    written.map_err(|error| format!("stdout: {}", of_io(&error)))
}

pub(super) async fn show(client: &Client, id: i64, output: Output) -> Result<(), String> {
    let mut letter = existing(client, id).await?;
    let actions = dead_letters::actions(client, id).await;
    let actions = actions.map_err(|error| failed(&error))?;
    if !output.is_table() {
        letter.insert("actions".to_owned(), Value::Array(actions));
        let letter = Value::Object(letter);
        return write_line(&match output {
            Output::Json => serde_json::to_string_pretty(&letter).unwrap_or_default(),
            _ => letter.to_string(),
        });
    }
    let widest = letter.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in &letter {
        let text = match name.as_str() {
            "payload" | "retry_payload" => readable(value),
            _ => cell(value),
        };
        // Line breaks and tabs of others stay within their line.
        let text = clean(&text).replace(['\n', '\t'], " ");
        write_line(format!("{name:widest$}  {text}").trim_end())?;
    }
    if actions.is_empty() {
        return Ok(());
    }
    write_line("")?;
    let narrow = ["acted_at", "action", "by_user", "why", "verdict", "reason"];
    print(&actions, output, &narrow)
}

/// Where there are none, the caller has said why.
pub(super) fn print(rows: &[Value], output: Output, narrow: &[&str]) -> Result<(), String> {
    match rows.is_empty() && output.is_table() {
        true => Ok(()),
        false => output::print_narrow(rows, output, "", narrow),
    }
}

/// What there is, where nothing is of the kind that was asked for: a topic or a code may be misspelt.
pub(super) async fn none_match(client: &Client, filter: &Filter) -> Result<String, String> {
    let everything = Filter::default();
    let all = Query {
        filter: &everything,
        status: None,
        limit: Some(10),
    };
    let all = all
        .stats(client)
        .await
        .map_err(|error| failed_to_read(&error))?;
    if all.is_empty() {
        return Ok("no dead letters".to_owned());
    }
    let there: Vec<String> = all
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {} {} {}",
                row["letters"],
                text("status"),
                text("code"),
                text("topic")
            )
        })
        .collect();
    let ids = match &filter.id {
        Some(ids) if ids.len() == 1 => format!("there is no dead letter {}", ids[0]),
        _ => "no dead letter matches".to_owned(),
    };
    Ok(format!("{ids}; there are: {}", there.join(", ")))
}

/// Says which of the ids that were asked for are not shown.
fn ids_left_out(letters: &[Value], query: &Query<'_>) {
    let asked = query.filter.id.iter().flatten();
    let is_shown = |id: &i64| letters.iter().any(|letter| letter["id"] == *id);
    let missing: Vec<String> = asked
        .filter(|id| !is_shown(id))
        .map(i64::to_string)
        .collect();
    if !missing.is_empty() && !letters.is_empty() {
        tell(&format!(
            "left out, for there is none or it does not match: {}",
            missing.join(", ")
        ));
    }
}

/// Base64 as the text that it is, if it is one.
fn readable(value: &Value) -> String {
    let Some(base64) = value.as_str() else {
        return cell(value);
    };
    let bytes = openssl::base64::decode_block(base64).unwrap_or_default();
    match String::from_utf8(bytes) {
        Ok(text) => text,
        _ => format!("base64 {base64}"),
    }
}
