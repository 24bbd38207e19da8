//! `sluice dlq`: the dead letters, for people: look, replay, discard, restore, export.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::commands::output::{self, Format, Output, Parameter, cell, connect, failed, new_table};
use crate::commands::write_line;
use crate::config::DatabaseArgs;
use crate::terminal::{clean, tell};

/// Letters of one transaction: what a stopped replay finishes, and a killed one loses.
pub const CHUNK: usize = 500;
/// As in sluice.find_dead_letters: that ends loops.
const ATTEMPTS: i32 = 20;

#[derive(Subcommand)]
pub enum Dlq {
    /// Dead letters, the latest first
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        status: Status,
        #[command(flatten)]
        most: Most,
        #[command(flatten)]
        format: Format,
    },
    /// One dead letter, with its payload and what was done with it
    Show {
        id: i64,
        /// The payload that is tried next only, byte for byte unless a terminal shows it: to be corrected in a file
        #[arg(long, conflicts_with = "output")]
        payload: bool,
        #[command(flatten)]
        format: Format,
    },
    /// How many there are, by topic, code and status
    Stats {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        status: Status,
        #[command(flatten)]
        format: Format,
    },
    /// Try parked ones again; a dry run unless --apply is given
    Replay {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        most: Most,
        #[command(flatten)]
        action: Action,
        /// File with a corrected payload, for the one letter that --id names
        #[arg(long, value_name = "FILE")]
        payload: Option<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
    /// Give parked ones up; a dry run unless --apply is given
    Discard {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        most: Most,
        #[command(flatten)]
        action: Action,
        #[command(flatten)]
        format: Format,
    },
    /// Park discarded ones again, to be replayed; a dry run unless --apply is given
    Restore {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        most: Most,
        #[command(flatten)]
        action: Action,
        #[command(flatten)]
        format: Format,
    },
    /// Everything about them, payloads in base64, one JSON object a line
    Export {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        status: Status,
        /// How many at most; default: all
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        limit: Option<i64>,
    },
}

impl Dlq {
    /// Whether it ends between two transactions when it is asked to stop; anything else may end at once.
    pub fn works_in_chunks(&self) -> bool {
        matches!(
            self,
            Self::Replay { .. } | Self::Discard { .. } | Self::Restore { .. }
        )
    }
}

/// Which letters.
#[derive(Args, Default)]
pub struct Filter {
    /// These letters only, comma separated
    #[arg(long, value_delimiter = ',')]
    pub id: Option<Vec<i64>>,
    /// Of this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Of this event type: a domain topic's is its name, any other topic's is balance.changed
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// With this error code, for example HANDLER_FAILED
    #[arg(long, value_parser = |code: &str| Ok::<_, String>(code.to_uppercase()))]
    pub code: Option<String>,
    /// With this record key, as `list` shows it
    #[arg(long)]
    pub key: Option<String>,
    /// First failed at or after this time, as PostgreSQL reads it: 2026-11-21, "yesterday", …
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// First failed before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Args)]
pub struct Status {
    /// With this status; default: any
    #[arg(long, ignore_case = true, value_parser = PossibleValuesParser::new(["PARKED", "REPLAYED", "DISCARDED"]).map(|status| status.to_uppercase()))]
    status: Option<String>,
}

#[derive(Args)]
pub struct Most {
    /// How many at most
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
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

// A key is given as it is shown: as text, or as \x and hexadecimal digits.
const WHERE: &str = "
    ($1::bigint[] IS NULL OR d.id = ANY ($1)) AND ($2::text IS NULL OR d.topic = $2)
    AND ($3::text IS NULL OR d.topic = $3
        OR $3 = 'balance.changed' AND NOT d.is_domain)
    AND ($4::text IS NULL OR d.error_code = $4)
    AND ($5::text IS NULL OR d.key = CASE left($5, 2) WHEN '\\x' THEN $5::text::bytea ELSE convert_to($5, 'UTF8') END)
    AND ($6::text IS NULL OR d.status = $6)
    AND ($7::text IS NULL OR d.first_failed_at >= $7::text::timestamptz)
    AND ($8::text IS NULL OR d.first_failed_at < $8::text::timestamptz)";

// Of two columns with one name the later one stands. encode() breaks lines.
const EVERYTHING: &str = "
    d.*, translate(encode(d.payload, 'base64'), E'\\n', '') AS payload,
    translate(encode(d.retry_payload, 'base64'), E'\\n', '') AS retry_payload";

const REPLAY: &str = "
    SELECT * FROM sluice.replay_dead_letters(ids => $1, why => $2, dry_run => $3, payload => $4, max_rows => 2147483647)";
const DISCARD: &str = "
    SELECT * FROM sluice.discard_dead_letters(ids => $1, why => $2, dry_run => $3, max_rows => 2147483647)";

const RESTORE: &str = "
    SELECT * FROM sluice.restore_dead_letters(ids => $1, why => $2, dry_run => $3, max_rows => 2147483647)";

/// What a statement with `WHERE` and a `LIMIT $9` is given.
pub struct Query<'f> {
    pub filter: &'f Filter,
    pub status: Option<&'f str>,
    pub limit: Option<i64>,
}

impl Query<'_> {
    fn parameters(&self) -> [Parameter<'_>; 9] {
        let filter = self.filter;
        [
            &filter.id,
            &filter.topic,
            &filter.event_type,
            &filter.code,
            &filter.key,
            &self.status,
            &filter.since,
            &filter.until,
            &self.limit,
        ]
    }

    async fn rows(&self, client: &Client, statement: &str) -> Result<Vec<Value>, String> {
        let rows = rows(client, statement, &self.parameters()).await;
        rows.map_err(|error| failed(&error))
    }

    /// The latest first, without their payloads.
    pub async fn letters(&self, client: &Client) -> Result<Vec<Value>, tokio_postgres::Error> {
        let statement = format!(
            "SELECT d.id, d.topic, d.partition, d.kafka_offset AS offset, d.key, d.event_id,
                d.error_code AS code, d.attempts, d.status, d.first_failed_at, d.error_message AS message
             FROM ledger.dead_letters d WHERE {WHERE} ORDER BY d.id DESC LIMIT $9"
        );
        rows(client, &statement, &self.parameters()).await
    }
}

/// What is to be done with letters.
pub enum Deed<'p> {
    /// With a corrected payload, if there is one: then for one letter.
    Replay(Option<&'p [u8]>),
    Discard,
    /// Park discarded ones again.
    Restore,
}

impl Deed<'_> {
    /// The status of the letters that it is for.
    fn wanted(&self) -> &'static str {
        match self {
            Self::Replay(_) | Self::Discard => "PARKED",
            Self::Restore => "DISCARDED",
        }
    }

    /// In one transaction; answers what became of each letter, or would become of it. One that is left out has no
    /// verdict, and the reason.
    pub async fn act(
        &self,
        client: &Client,
        ids: &[i64],
        why: Option<&str>,
        dry_run: bool,
    ) -> Result<Vec<Value>, tokio_postgres::Error> {
        match self {
            Self::Replay(payload) => rows(client, REPLAY, &[&ids, &why, &dry_run, payload]).await,
            Self::Discard => rows(client, DISCARD, &[&ids, &why, &dry_run]).await,
            Self::Restore => rows(client, RESTORE, &[&ids, &why, &dry_run]).await,
        }
    }
}

impl Filter {
    /// Whether it says which letters are meant.
    fn says_which(&self) -> bool {
        let texts = [
            &self.topic,
            &self.event_type,
            &self.code,
            &self.key,
            &self.since,
            &self.until,
        ];
        self.id.is_some() || texts.iter().any(|text| text.is_some())
    }
}

/// Text for stdout, or one line that says what failed.
pub async fn dlq(
    database: &DatabaseArgs,
    command: &Dlq,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let client = connect(database, "sluice dlq").await?;
    match command {
        Dlq::List {
            filter,
            status,
            most,
            format,
        } => {
            let query = Query {
                filter,
                status: status.status.as_deref(),
                limit: Some(most.limit),
            };
            list(&client, &query, format.output).await
        }
        Dlq::Show {
            id,
            payload,
            format,
        } => match payload {
            true => show_payload(&client, *id).await,
            false => show(&client, *id, format.output).await,
        },
        Dlq::Stats {
            filter,
            status,
            format,
        } => {
            let statement = format!(
                "SELECT d.topic, d.error_code AS code, d.status, count(*) AS letters, min(d.first_failed_at) AS first,
                    max(d.updated_at) AS latest
                 FROM ledger.dead_letters d WHERE {WHERE} GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT $9"
            );
            let (status, limit) = (status.status.as_deref(), None);
            let query = Query {
                filter,
                status,
                limit,
            };
            print(&query.rows(&client, &statement).await?, format.output)
        }
        Dlq::Export {
            filter,
            status,
            limit,
        } => {
            let (status, limit) = (status.status.as_deref(), *limit);
            let query = Query {
                filter,
                status,
                limit,
            };
            export(&client, &query).await
        }
        Dlq::Replay {
            filter,
            most,
            action,
            payload,
            format,
        } => {
            let payload = payload.as_ref().map(|file| {
                std::fs::read(file)
                    .map_err(|error| format!("--payload {}: {error}", file.display()))
            });
            let payload = payload.transpose()?;
            let work = Work {
                filter,
                limit: most.limit,
                action,
                deed: Deed::Replay(payload.as_deref()),
                output: format.output,
            };
            work.act(&client, shutdown).await
        }
        Dlq::Discard {
            filter,
            most,
            action,
            format,
        }
        | Dlq::Restore {
            filter,
            most,
            action,
            format,
        } => {
            let work = Work {
                filter,
                limit: most.limit,
                action,
                deed: match command {
                    Dlq::Restore { .. } => Deed::Restore,
                    _ => Deed::Discard,
                },
                output: format.output,
            };
            work.act(&client, shutdown).await
        }
    }
}

/// A replay, a discard or a restore.
struct Work<'c> {
    filter: &'c Filter,
    limit: i64,
    action: &'c Action,
    deed: Deed<'c>,
    output: Output,
}

impl Work<'_> {
    /// Chunk by chunk, each a transaction: what is done stays done, and the same command goes on with the rest.
    async fn act(&self, client: &Client, shutdown: &CancellationToken) -> Result<(), String> {
        if !self.filter.says_which() {
            return Err(
                "which dead letters? give --id, --topic, --type, --code, --key, --since or --until"
                    .into(),
            );
        }
        let chosen = self.choose(client).await?;
        let ids = &chosen.ids;
        if matches!(self.deed, Deed::Replay(Some(_))) && ids.len() != 1 {
            if let Some(message) = chosen
                .left_out
                .first()
                .and_then(|row| row["message"].as_str())
            {
                return Err(message.to_owned());
            }
            let count = ids.len();
            return Err(format!(
                "--payload corrects one parked letter, and {count} match: name it with --id"
            ));
        }
        let dry_run = !self.action.apply;
        let bar = ProgressBar::new(ids.len() as u64).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left")
                .unwrap_or(ProgressStyle::default_bar()),
        );
        let mut outcomes = Vec::new();
        let (mut stopped, mut failure) = (false, None);
        for chunk in ids.chunks(CHUNK) {
            stopped = shutdown.is_cancelled();
            if stopped {
                break;
            }
            let why = self.action.why.as_deref();
            match self.deed.act(client, chunk, why, dry_run).await {
                Ok(mut some) => outcomes.append(&mut some),
                Err(error) => {
                    failure = Some(failed(&error));
                    break;
                }
            }
            bar.inc(chunk.len() as u64);
        }
        bar.finish_and_clear();
        outcomes.extend(chosen.left_out.iter().cloned());
        match failure {
            Some(error) if outcomes.iter().all(is_left_out) => return Err(error),
            _ if outcomes.is_empty() && self.output == Output::Table => {}
            _ => print(&outcomes, self.output)?,
        }
        let summary = self.summary(&outcomes, &chosen, stopped);
        match failure {
            None => {
                tell(&summary);
                Ok(())
            }
            Some(error) => Err(format!("{summary}; it failed there: {error}")),
        }
    }

    async fn choose(&self, client: &Client) -> Result<Chosen, String> {
        let query = Query {
            filter: self.filter,
            status: Some(self.deed.wanted()),
            limit: Some(self.limit),
        };
        // Discarding is what ends a letter that fails for ever.
        let may_be_worn_out = self.filter.id.is_some() || !matches!(self.deed, Deed::Replay(_));
        let is_left_out = format!("(NOT {may_be_worn_out} AND d.attempts >= {ATTEMPTS})");
        let parked = format!(
            "SELECT d.id FROM ledger.dead_letters d WHERE {WHERE} AND NOT {is_left_out}
             ORDER BY d.topic, d.partition, d.kafka_offset LIMIT $9"
        );
        let ids = query.rows(client, &parked).await?;
        let counts = format!(
            "SELECT count(*) FILTER (WHERE NOT {is_left_out}) AS matching, count(*) FILTER (WHERE {is_left_out}) AS worn_out
             FROM ledger.dead_letters d WHERE {WHERE} LIMIT $9"
        );
        let counts = query.rows(client, &counts).await?;
        let count = |name: &str| counts.first().and_then(|row| row[name].as_u64());
        let ids: Vec<i64> = ids.iter().filter_map(|row| row["id"].as_i64()).collect();
        Ok(Chosen {
            left_out: self.left_out(client, &ids).await?,
            ids,
            matching: count("matching").unwrap_or_default() as usize,
            worn_out: count("worn_out").unwrap_or_default() as usize,
        })
    }

    /// Those of `--id` that are not chosen, each with the reason.
    async fn left_out(&self, client: &Client, chosen: &[i64]) -> Result<Vec<Value>, String> {
        if self.filter.id.is_none() {
            return Ok(Vec::new());
        }
        let wanted = self.deed.wanted();
        let query = Query {
            filter: self.filter,
            status: None,
            limit: None,
        };
        let left_out = format!(
            "SELECT i.id, d.topic, d.partition, d.kafka_offset, NULL AS verdict,
                CASE WHEN d.id IS NULL THEN 'NO_SUCH_LETTER' WHEN d.status <> '{wanted}' THEN 'NOT_{wanted}'
                    WHEN {WHERE} THEN 'MAX_ROWS' ELSE 'OTHER_FILTER' END AS reason,
                CASE WHEN d.id IS NULL THEN 'Left out: there is no dead letter of this id.'
                    WHEN d.status <> '{wanted}' THEN format('Left out: it is %s since %s.', d.status, d.updated_at::timestamptz(0))
                    WHEN {WHERE} THEN 'Left out: it is beyond --limit.' ELSE 'Left out: another filter excludes it.' END AS message
             FROM (SELECT DISTINCT unnest($1::bigint[]) AS id) i LEFT JOIN ledger.dead_letters d ON d.id = i.id
             ORDER BY i.id LIMIT $9"
        );
        let mut left_out = query.rows(client, &left_out).await?;
        left_out.retain(|row| row["id"].as_i64().is_some_and(|id| !chosen.contains(&id)));
        Ok(left_out)
    }

    /// One line about what was done and what was not.
    fn summary(&self, outcomes: &[Value], chosen: &Chosen, stopped: bool) -> String {
        let all = chosen.ids.len();
        let done = outcomes.iter().filter(|row| !is_left_out(row)).count();
        let left_out = counts(outcomes.iter().filter(|row| is_left_out(row)), "reason");
        let verdicts = counts(outcomes.iter(), "verdict");
        let verb = match (self.action.apply, &self.deed) {
            (false, _) => "",
            (true, Deed::Replay(_)) => " replayed",
            (true, Deed::Discard) => " discarded",
            (true, Deed::Restore) => " restored",
        };
        let mut parts = vec![match (all, &self.deed) {
            (0, deed) => format!("no {} letter matches", deed.wanted().to_lowercase()),
            (_, Deed::Replay(_)) if done > 0 => {
                format!("{done} of {all} letters{verb}: {verdicts}")
            }
            _ => format!("{done} of {all} letters{verb}"),
        }];
        if !left_out.is_empty() {
            parts.push(format!("left out: {left_out}"));
        }
        if stopped {
            parts.push("stopped, the same command goes on with the rest".to_owned());
        }
        if chosen.matching > all {
            let more = chosen.matching - all;
            parts.push(format!("{more} more match beyond --limit {}", self.limit));
        }
        if chosen.worn_out > 0 {
            let count = chosen.worn_out;
            parts.push(format!(
                "{count} that failed {ATTEMPTS} times are left out, name them with --id"
            ));
        }
        if all > 0 && !self.action.apply {
            parts.push("dry run, nothing is changed: --apply does it".to_owned());
        }
        parts.join("; ")
    }
}

/// Letters that a command is about.
struct Chosen {
    ids: Vec<i64>,
    /// Those of `--id` that it is not about.
    left_out: Vec<Value>,
    /// Without the limit.
    matching: usize,
    /// Failed too often to be meant by a filter.
    worn_out: usize,
}

fn is_left_out(outcome: &Value) -> bool {
    outcome["verdict"].is_null()
}

/// How often each value stands in a column: `2 APPLIED, 1 DEAD`.
fn counts<'v>(rows: impl Iterator<Item = &'v Value>, column: &str) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for value in rows.filter_map(|row| row[column].as_str()) {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let counts = counts.iter();
    let counts: Vec<String> = counts
        .map(|(value, count)| format!("{count} {value}"))
        .collect();
    counts.join(", ")
}

async fn list(client: &Client, query: &Query<'_>, output: Output) -> Result<(), String> {
    let letters = query.letters(client).await;
    let letters = letters.map_err(|error| failed(&error))?;
    print(&letters, output)?;
    let limit = query.limit.unwrap_or(i64::MAX);
    if letters.len() as i64 == limit {
        let count =
            format!("SELECT count(*) AS all FROM ledger.dead_letters d WHERE {WHERE} LIMIT $9");
        let count = query.rows(client, &count).await?;
        match count.first().and_then(|row| row["all"].as_i64()) {
            Some(all) if all > limit => {
                tell(&format!("the latest {limit} of {all}; --limit shows more"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Row by row: there may be more than fit into memory.
async fn export(client: &Client, query: &Query<'_>) -> Result<(), String> {
    let statement = format!(
        "SELECT row_to_json(r)::text FROM (
            SELECT {EVERYTHING} FROM ledger.dead_letters d WHERE {WHERE}
            ORDER BY d.topic, d.partition, d.kafka_offset LIMIT $9) r"
    );
    let rows = client.query_raw(&statement, query.parameters()).await;
    let mut rows = std::pin::pin!(rows.map_err(|error| failed(&error))?);
    let mut count = 0;
    while let Some(row) = rows.try_next().await.map_err(|error| failed(&error))? {
        let letter = serde_json::from_str(row.get(0));
        let mut letter: Value = letter.map_err(|error| error.to_string())?;
        show_key(&mut letter);
        write_line(&letter.to_string())?;
        count += 1;
    }
    tell(&format!("{count} letters"));
    Ok(())
}

/// Everything of one letter, its payload in base64.
pub async fn letter(
    client: &Client,
    id: i64,
) -> Result<Option<Map<String, Value>>, tokio_postgres::Error> {
    let letter = format!("SELECT {EVERYTHING} FROM ledger.dead_letters d WHERE d.id = $1");
    let letters = rows(client, &letter, &[&id]).await?.into_iter();
    Ok(letters
        .filter_map(|letter| match letter {
            Value::Object(letter) => Some(letter),
            _ => None,
        })
        .next())
}

/// What was done with a letter.
pub async fn actions(client: &Client, id: i64) -> Result<Vec<Value>, tokio_postgres::Error> {
    let actions =
        "SELECT acted_at, action, by_user, why, verdict, reason, payload IS NOT NULL AS corrected
        FROM ledger.dead_letter_actions WHERE dead_letter_id = $1 ORDER BY id";
    rows(client, actions, &[&id]).await
}

async fn existing(client: &Client, id: i64) -> Result<Map<String, Value>, String> {
    let letter = letter(client, id).await.map_err(|error| failed(&error))?;
    letter.ok_or_else(|| format!("there is no dead letter {id}; see `sluice dlq list`"))
}

async fn show_payload(client: &Client, id: i64) -> Result<(), String> {
    let letter = existing(client, id).await?;
    // What is tried next is what is to be corrected further.
    let payloads = ["retry_payload", "payload"].map(|name| letter[name].as_str());
    let Some(base64) = payloads.into_iter().flatten().next() else {
        return Err(format!("dead letter {id} has no payload"));
    };
    let bytes = openssl::base64::decode_block(base64).map_err(|error| error.to_string())?;
    if std::io::stdout().is_terminal() {
        return write_line(&String::from_utf8_lossy(&bytes));
    }
    let written = std::io::stdout().write_all(&bytes);
    written.map_err(|error| error.to_string())
}

async fn show(client: &Client, id: i64, output: Output) -> Result<(), String> {
    let mut letter = existing(client, id).await?;
    let actions = actions(client, id).await;
    let actions = actions.map_err(|error| failed(&error))?;
    if output != Output::Table {
        letter.insert("actions".to_owned(), Value::Array(actions));
        let letter = Value::Object(letter);
        return write_line(&match output {
            Output::Json => serde_json::to_string_pretty(&letter).unwrap_or_default(),
            _ => letter.to_string(),
        });
    }
    let mut table = new_table();
    for (name, value) in &letter {
        let text = match name.as_str() {
            "payload" | "retry_payload" => readable(value),
            _ => cell(value),
        };
        table.add_row([name.clone(), clean(&text).into_owned()]);
    }
    write_line(&table.trim_fmt())?;
    if actions.is_empty() {
        return Ok(());
    }
    write_line("")?;
    print(&actions, Output::Table)
}

/// Rows whose keys are as people know them.
async fn rows(
    client: &Client,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Value>, tokio_postgres::Error> {
    let mut rows = output::rows(client, statement, parameters).await?;
    rows.iter_mut().for_each(show_key);
    Ok(rows)
}

fn print(rows: &[Value], output: Output) -> Result<(), String> {
    output::print(rows, output, "no dead letters")
}

fn show_key(row: &mut Value) {
    if let Some(Value::String(key)) = row.get_mut("key")
        && let Some(text) = key_text(key)
    {
        *key = text;
    }
}

/// PostgreSQL's `\x…` as the text that it is, if it is one and does not look like that itself.
fn key_text(hex: &str) -> Option<String> {
    let digits = hex.strip_prefix("\\x")?.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let text = String::from_utf8(bytes.collect::<Option<_>>()?).ok()?;
    (!text.starts_with("\\x") && !text.chars().any(char::is_control)).then_some(text)
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
