//! `sluice dlq`: the dead letters, for people: look, replay, discard, export.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::commands::write_line;
use crate::config::DatabaseArgs;
use crate::error::describe;

/// Letters of one transaction: what is lost when a replay is stopped.
const CHUNK: usize = 500;

#[derive(Subcommand)]
pub enum Dlq {
    /// Dead letters, the latest first
    List(Filter),
    /// One dead letter, with its payload and what was done with it
    Show { id: i64 },
    /// How many there are, by topic, code and status
    Stats(Filter),
    /// Try parked ones again; a dry run unless --apply is given
    Replay {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        action: Action,
        /// File with a corrected payload, for the one letter that --id names
        #[arg(long, value_name = "FILE")]
        payload: Option<PathBuf>,
    },
    /// Give parked ones up; a dry run unless --apply is given
    Discard {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        action: Action,
    },
    /// Everything about them, payloads in base64, one JSON object a line
    Export(Filter),
}

#[derive(Args)]
pub struct Filter {
    /// These letters only, comma separated
    #[arg(long, value_delimiter = ',')]
    id: Option<Vec<i64>>,
    /// Of this topic (domain topics are named after their event type)
    #[arg(long, visible_alias = "type")]
    topic: Option<String>,
    /// With this error code, for example HANDLER_FAILED
    #[arg(long)]
    code: Option<String>,
    /// With this record key
    #[arg(long)]
    key: Option<String>,
    /// PARKED, REPLAYED or DISCARDED; replay and discard take parked ones only
    #[arg(long)]
    status: Option<String>,
    /// First failed at or after this time, as PostgreSQL reads it: 2026-11-21, "yesterday", …
    #[arg(long)]
    since: Option<String>,
    /// First failed before this time
    #[arg(long)]
    until: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args)]
pub struct Action {
    /// Do it; without this it is a dry run that says what each letter would become
    #[arg(long)]
    apply: bool,
    /// Nothing is changed (the default)
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Why, for those who read the record later
    #[arg(long)]
    why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Jsonl,
}

const WHERE: &str = "
    ($1::bigint[] IS NULL OR d.id = ANY ($1)) AND ($2::text IS NULL OR d.topic = $2)
    AND ($3::text IS NULL OR d.error_code = $3) AND ($4::bytea IS NULL OR d.key = $4)
    AND ($5::text IS NULL OR d.status = $5)
    AND ($6::text IS NULL OR d.first_failed_at >= $6::text::timestamptz)
    AND ($7::text IS NULL OR d.first_failed_at < $7::text::timestamptz)";

impl Filter {
    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref().map(str::as_bytes)
    }

    /// Whether it says which letters are meant.
    fn says_which(&self) -> bool {
        self.id.is_some()
            || [&self.topic, &self.code, &self.key, &self.since, &self.until]
                .iter()
                .any(|field| field.is_some())
    }
}

/// Text for stdout, or one line that says what failed.
pub async fn dlq(database: &DatabaseArgs, command: &Dlq) -> Result<(), String> {
    let target = database.admin("sluice dlq").map_err(|bad| bad.0)?;
    let client = target.connect(|_| ()).await;
    let client = client.map_err(|error| {
        format!(
            "ADMIN_DATABASE_URL: PostgreSQL at {}: {}",
            target.address(),
            describe(&error)
        )
    })?;
    match command {
        Dlq::List(filter) => {
            let columns = "d.id, d.topic, d.partition, d.kafka_offset AS offset, d.event_id, d.error_code AS code,
                d.attempts, d.status, d.first_failed_at, left(d.error_message, 100) AS message";
            let rows = find(&client, filter, columns, "d.id DESC").await?;
            print(&rows, filter.output)
        }
        Dlq::Show { id } => show(&client, *id).await,
        Dlq::Stats(filter) => {
            let statement = format!(
                "SELECT d.topic, d.error_code AS code, d.status, count(*) AS letters, min(d.first_failed_at) AS first,
                    max(d.updated_at) AS latest
                 FROM ledger.dead_letters d WHERE {WHERE} GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT $8"
            );
            print(&filtered(&client, filter, &statement).await?, filter.output)
        }
        Dlq::Export(filter) => {
            let columns =
                "d.*, encode(d.key, 'base64') AS key, encode(d.payload, 'base64') AS payload";
            let rows = find(
                &client,
                filter,
                columns,
                "d.topic, d.partition, d.kafka_offset",
            )
            .await?;
            print(&rows, Output::Jsonl)
        }
        Dlq::Replay {
            filter,
            action,
            payload,
        } => {
            let payload = payload.as_ref().map(|file| {
                std::fs::read(file)
                    .map_err(|error| format!("--payload {}: {error}", file.display()))
            });
            let payload = payload.transpose()?;
            let statement = "SELECT * FROM sluice.replay_dead_letters(
                ids => $1, why => $2, dry_run => $3, payload => $4, max_rows => 2147483647)";
            act(&client, filter, action, statement, &[&payload]).await
        }
        Dlq::Discard { filter, action } => {
            let statement = "SELECT * FROM sluice.discard_dead_letters(
                ids => $1, why => $2, dry_run => $3, max_rows => 2147483647)";
            act(&client, filter, action, statement, &[]).await
        }
    }
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

/// Chunk by chunk, each a transaction: what is done stays done, and the same command goes on with the rest.
async fn act(
    client: &Client,
    filter: &Filter,
    action: &Action,
    statement: &str,
    further: &[Parameter<'_>],
) -> Result<(), String> {
    if !filter.says_which() {
        return Err(
            "which dead letters? give --id, --topic, --code, --key, --since or --until".into(),
        );
    }
    let parked = format!(
        "SELECT d.id FROM ledger.dead_letters d WHERE {WHERE} AND d.status = 'PARKED'
            AND ($1 IS NOT NULL OR d.attempts < 20)
         ORDER BY d.topic, d.partition, d.kafka_offset LIMIT $8"
    );
    let found = filtered(client, filter, &parked).await?;
    let ids: Vec<i64> = found.iter().filter_map(|row| row["id"].as_i64()).collect();
    let dry_run = !action.apply;
    let bar = ProgressBar::new(ids.len() as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    let mut outcomes = Vec::new();
    let mut failure = None;
    for chunk in ids.chunks(CHUNK) {
        let mut parameters: Vec<Parameter<'_>> = vec![&chunk, &action.why, &dry_run];
        parameters.extend(further);
        match rows(client, statement, &parameters).await {
            Ok(mut some) => outcomes.append(&mut some),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    print(&outcomes, filter.output)?;
    let what = if dry_run {
        "dry run, nothing is changed; --apply does it"
    } else {
        "done"
    };
    match failure {
        None => {
            eprintln!("{} of {} letters: {what}", outcomes.len(), ids.len());
            Ok(())
        }
        Some(error) => Err(format!(
            "{} of {} letters: {what}; then: {error}",
            outcomes.len(),
            ids.len()
        )),
    }
}

async fn show(client: &Client, id: i64) -> Result<(), String> {
    let letter =
        "SELECT d.*, encode(d.key, 'base64') AS key, encode(d.payload, 'base64') AS payload
        FROM ledger.dead_letters d WHERE d.id = $1";
    let letters = rows(client, letter, &[&id]).await?;
    let Some(Value::Object(letter)) = letters.into_iter().next() else {
        return Err(format!(
            "there is no dead letter {id}; see `sluice dlq list`"
        ));
    };
    let mut table = new_table();
    for (name, value) in &letter {
        let text = match name.as_str() {
            "key" | "payload" => readable(value),
            _ => cell(value),
        };
        table.add_row([name.clone(), text]);
    }
    write_line(&table.trim_fmt())?;
    let actions =
        "SELECT acted_at, action, by_user, why, verdict, reason, payload IS NOT NULL AS corrected
        FROM ledger.dead_letter_actions WHERE dead_letter_id = $1 ORDER BY id";
    let actions = rows(client, actions, &[&id]).await?;
    if actions.is_empty() {
        return Ok(());
    }
    write_line("")?;
    print(&actions, Output::Table)
}

async fn find(
    client: &Client,
    filter: &Filter,
    columns: &str,
    order: &str,
) -> Result<Vec<Value>, String> {
    let statement = format!(
        "SELECT {columns} FROM ledger.dead_letters d WHERE {WHERE} ORDER BY {order} LIMIT $8"
    );
    filtered(client, filter, &statement).await
}

async fn filtered(client: &Client, filter: &Filter, statement: &str) -> Result<Vec<Value>, String> {
    let parameters: [Parameter<'_>; 8] = [
        &filter.id,
        &filter.topic,
        &filter.code,
        &filter.key(),
        &filter.status,
        &filter.since,
        &filter.until,
        &filter.limit,
    ];
    rows(client, statement, &parameters).await
}

/// Rows as JSON objects, columns in order; of two columns with one name the later one stands.
async fn rows(
    client: &Client,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Value>, String> {
    let statement = format!("SELECT row_to_json(r)::text FROM ({statement}) r");
    let rows = client.query(&statement, parameters).await;
    let rows = rows.map_err(|error| describe(&error))?;
    rows.iter()
        .map(|row| serde_json::from_str(row.get(0)).map_err(|error| error.to_string()))
        .collect()
}

fn print(rows: &[Value], output: Output) -> Result<(), String> {
    match output {
        Output::Json => write_line(&serde_json::to_string_pretty(rows).unwrap_or_default()),
        Output::Jsonl => rows.iter().try_for_each(|row| write_line(&row.to_string())),
        Output::Table => {
            let Some(Value::Object(first)) = rows.first() else {
                eprintln!("no dead letters");
                return Ok(());
            };
            let mut table = new_table();
            table.set_header(first.keys());
            for row in rows.iter().filter_map(Value::as_object) {
                table.add_row(row.values().map(cell));
            }
            write_line(&table.trim_fmt())
        }
    }
}

fn new_table() -> Table {
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

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Base64 as the text that it is, if it is one.
fn readable(value: &Value) -> String {
    let Some(base64) = value.as_str() else {
        return cell(value);
    };
    let bytes = openssl::base64::decode_block(&base64.replace('\n', "")).unwrap_or_default();
    match String::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text,
        _ => format!("base64 {base64}"),
    }
}
