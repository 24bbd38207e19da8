//! `sluice events try`: what the handler of a type makes of events, in a transaction that is rolled back.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::event_check::{Files, refusals};
use crate::cli::output::{Format, connect, failed, print, write_line};
use crate::config::database::DatabaseArgs;
use crate::operator::event_check::{Given, check_given, events_of};
use crate::operator::events;

#[derive(Args)]
pub struct Try {
    /// Their type, for example user.created
    event_type: String,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    format: Format,
}

const NOTHING_STAYS: &str = "Rolled back: the handler's rows are gone. Whether an eventId was used before was not looked at.";

/// Whether the handler takes all events.
pub async fn try_events(database: &DatabaseArgs, arguments: &Try) -> Result<bool, String> {
    let files = arguments.files.read()?;
    let given: Vec<Given<'_>> = files.iter().flat_map(events_of).collect();
    let rules = arguments.files.rules(Some(arguments.event_type.clone()));
    // The database gets jsonb, which hides some of what is refused.
    let findings = check_given(&given, &rules);
    if !findings.refused.is_empty() {
        write_line(&refusals(&findings).join("\n"))?;
        return Err("nothing was tried: correct these events first".to_owned());
    }
    let payloads = given.iter().map(|event| std::str::from_utf8(event.payload));
    let payloads = payloads.collect::<Result<Vec<&str>, _>>();
    let payloads = payloads.map_err(|_| "an event is not UTF-8".to_owned())?;
    let client = connect(database, "sluice events try").await?;
    let tried = events::try_handler(&client, &arguments.event_type, &payloads).await;
    let tried = tried.map_err(|error| failed(&error))?;
    let (verdicts, written): (Vec<&Value>, Vec<&Value>) =
        tried.iter().partition(|row| row["nth"].is_number());
    let is_taken = |row: &&Value| row["verdict"] == "APPLIED" || row["verdict"] == "DUPLICATE";
    let are_taken = verdicts.iter().all(is_taken);
    let verdicts: Vec<Value> = verdicts.iter().map(|row| placed(row, &given)).collect();
    let columns = ["relation", "written", "message"];
    let written: Vec<Value> = written.iter().map(|row| part(row, &columns)).collect();
    let output = arguments.format.output;
    if !output.is_table() {
        print(&[verdicts, written].concat(), output, "")?;
        return Ok(are_taken);
    }
    let columns = ["event", "event_id", "verdict", "reason"];
    let table: Vec<Value> = verdicts.iter().map(|row| part(row, &columns)).collect();
    print(&table, output, "")?;
    // Whole, however narrow the terminal is.
    let lines = verdicts.iter().filter_map(refusal);
    let lines: Vec<String> = lines.chain(written.iter().map(line)).collect();
    write_line("")?;
    lines.iter().try_for_each(|line| write_line(line))?;
    write_line(NOTHING_STAYS)?;
    Ok(are_taken)
}

/// The verdict of an event, behind the place that it has in the files.
fn placed(row: &Value, given: &[Given<'_>]) -> Value {
    let nth = row["nth"].as_u64().unwrap_or_default() as usize;
    let place = nth.checked_sub(1).and_then(|index| given.get(index));
    let place = place.map(|event| format!("{}:{}", event.file, event.line));
    let mut placed = Map::from_iter([("event".to_owned(), json!(place))]);
    if let Value::Object(rest) = part(row, &["event_id", "verdict", "reason", "message"]) {
        placed.extend(rest);
    }
    Value::Object(placed)
}

fn part(row: &Value, columns: &[&str]) -> Value {
    let columns = columns.iter();
    let columns = columns.map(|name| ((*name).to_owned(), row[*name].clone()));
    Value::Object(columns.collect())
}

/// Why an event would not be applied.
fn refusal(row: &Value) -> Option<String> {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let message = row["message"].as_str()?;
    Some(format!("{} {}: {message}", text("verdict"), text("event")))
}

/// What the handler left of a table: a row whole, without the fields that it left empty.
fn line(row: &Value) -> String {
    let relation = row["relation"].as_str().unwrap_or_default();
    match &row["written"] {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Map<String, Value> = fields
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            format!("{relation} {}", Value::Object(fields))
        }
        _ => format!("{relation} {}", row["message"].as_str().unwrap_or_default()),
    }
}
