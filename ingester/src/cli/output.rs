//! Rows of the database on stdout: as a table, or as JSON.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::cli::session::Asking;
use crate::config::database::DatabaseArgs;
use crate::postgres::database::Database;
use crate::postgres::error::{describe, describe_at};
use crate::terminal::{clean, tell};
use crate::words::of_io;

/// Longer texts are cut in tables.
const CELL: usize = 100;

#[derive(Args)]
pub struct Format {
    /// How it is shown on stdout
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Jsonl,
}

/// A connection for a command that people give.
pub async fn connect(database: &DatabaseArgs, command: &str) -> Result<Asking, String> {
    let target = database.admin(command).map_err(|bad| bad.0)?.in_utc();
    let limit = 2 * database.connection_timeout();
    open(&target, database.admin_setting(), limit).await
}

/// The same of a server that `setting` names, within `limit`.
pub async fn open(target: &Database, setting: &str, limit: Duration) -> Result<Asking, String> {
    let address = target.address();
    match tokio::time::timeout(limit, Asking::open(target)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(format!("{setting}: {}", describe_at(&address, &error))),
        Err(_) => Err(format!(
            "{setting}: cannot reach PostgreSQL at {address}: no answer in time"
        )),
    }
}

/// What a command tells where the database refuses it, for commands that change something.
pub fn failed(error: &tokio_postgres::Error) -> String {
    advised(error, "sluice_admin")
}

/// The same for commands that only read.
pub fn failed_to_read(error: &tokio_postgres::Error) -> String {
    advised(error, "sluice_reader")
}

/// `role` is the one with the fewest rights that may do it.
fn advised(error: &tokio_postgres::Error, role: &str) -> String {
    let told = describe(error);
    match error.code().map(|code| code.code()) {
        Some("42501") => format!("{told}; let ADMIN_DATABASE_URL name a member of {role}"),
        _ => told,
    }
}

/// `nothing` is said on stderr where a table would have no rows.
pub fn print(rows: &[Value], output: Output, nothing: &str) -> Result<(), String> {
    match output {
        Output::Json => write_line(&serde_json::to_string_pretty(rows).unwrap_or_default()),
        Output::Jsonl => rows.iter().try_for_each(|row| write_line(&row.to_string())),
        Output::Table => {
            let Some(Value::Object(first)) = rows.first() else {
                tell(nothing);
                return Ok(());
            };
            let mut table = new_table();
            table.set_header(first.keys());
            for row in rows.iter().filter_map(Value::as_object) {
                table.add_row(row.values().map(|value| short(&cell(value))));
            }
            for (index, name) in first.keys().enumerate() {
                let is_number = |row: &Value| row[name].is_number() || row[name].is_null();
                if let (true, Some(column)) = (
                    first[name].is_number() && rows.iter().all(is_number),
                    table.column_mut(index),
                ) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            write_line(&table.trim_fmt())
        }
    }
}

pub fn new_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(
        if std::io::stdout().is_terminal() {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        },
    );
    table
}

pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => time(text).unwrap_or_else(|| text.clone()),
        other => other.to_string(),
    }
}

/// A time as people read it, to the second: PostgreSQL's JSON has `2026-11-21T05:00:00.123456+00:00`.
fn time(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix('T')?.split_at_checked(8)?;
    let is_like = |text: &str, shape: &str| {
        let mut both = text.chars().zip(shape.chars());
        both.all(|(c, s)| c.is_ascii_digit() == (s == '0') && (s == '0' || c == s))
    };
    let fraction = |c: char| c == '.' || c.is_ascii_digit();
    (is_like(date, "0000-00-00") && is_like(time, "00:00:00"))
        .then(|| format!("{date} {time}{}", rest.trim_start_matches(fraction)))
}

/// On one line, and not too long for a table.
pub fn short(text: &str) -> String {
    let text = clean(text);
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = chars.by_ref().take(CELL).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

/// A line to stdout, cleaned of what a terminal would obey; a reader that has enough, as `head`, is no failure.
pub fn write_line(text: &str) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{}", clean(text)) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("stdout: {}", of_io(&error)))
        }
        _ => Ok(()),
    }
}
