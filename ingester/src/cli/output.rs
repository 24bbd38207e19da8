//! Rows of the database on stdout: as a table, or as JSON.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::session::Asking;
use crate::cli::table;
use crate::config::database::DatabaseArgs;
use crate::postgres::database::Database;
use crate::postgres::error::{describe, describe_at};
use crate::terminal::{clean, tell};
use crate::words::of_io;

#[derive(Args)]
pub struct Format {
    /// How it is shown on stdout; a table is cut to the width of the terminal, `wide` has all columns in full
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Wide,
    Json,
    Jsonl,
}

impl Output {
    /// Whether people read it.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// How wide a table of it may be.
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Table => table::size().0,
            _ => None,
        }
    }
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
    print_narrow(rows, output, nothing, &[])
}

/// The same, with the columns that a table has where not all of them fit.
pub fn print_narrow(
    rows: &[Value],
    output: Output,
    nothing: &str,
    narrow: &[&str],
) -> Result<(), String> {
    match output {
        Output::Json => write_line(&serde_json::to_string_pretty(rows).unwrap_or_default()),
        Output::Jsonl => rows.iter().try_for_each(|row| write_line(&row.to_string())),
        Output::Table | Output::Wide if rows.is_empty() => {
            tell(nothing);
            Ok(())
        }
        Output::Table | Output::Wide => {
            let rows: Vec<_> = rows.iter().filter_map(Value::as_object).collect();
            write_line(&table::lines(&rows, narrow, output.width()).join("\n"))
        }
    }
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
