//! `sluice dlq`: the dead letters, for people: look, replay, discard, restore, export.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::cli::letters::{export, list, none_match, print, show, show_payload};
use crate::cli::output::{Format, connect, failed, failed_to_read};
use crate::config::database::DatabaseArgs;
use crate::operator::dead_letters::{
    ATTEMPTS, CHUNK, Chosen, Deed, Filter, Query, Work, is_left_out,
};
use crate::terminal::tell;
use crate::words::of_io;

#[derive(Subcommand)]
pub enum Dlq {
    /// Dead letters, the latest first
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        status: LetterStatus,
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
        which: Which,
        #[command(flatten)]
        status: LetterStatus,
        #[command(flatten)]
        format: Format,
    },
    /// Try parked ones again; a dry run unless --apply is given
    Replay {
        #[command(flatten)]
        asked: Asked,
        /// File with a corrected payload, for the one letter that --id names
        #[arg(long, value_name = "FILE")]
        payload: Option<PathBuf>,
    },
    /// Give parked ones up; a dry run unless --apply is given
    Discard {
        #[command(flatten)]
        asked: Asked,
    },
    /// Park discarded ones again, to be replayed; a dry run unless --apply is given
    Restore {
        #[command(flatten)]
        asked: Asked,
    },
    /// Everything about them, payloads in base64, one JSON object a line
    Export {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        status: LetterStatus,
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
#[derive(Args)]
pub struct Which {
    /// These letters only, comma separated
    #[arg(long, value_delimiter = ',')]
    id: Option<Vec<i64>>,
    /// Of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this event type: a domain topic's is its name, any other topic's is balance.changed
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// With this error code, for example HANDLER_FAILED
    #[arg(long, value_parser = |code: &str| Ok::<_, String>(code.to_uppercase()))]
    code: Option<String>,
    /// With this record key, as `list` shows it
    #[arg(long)]
    key: Option<String>,
    /// First failed at or after this time, as PostgreSQL reads it: 2026-11-21, "yesterday", …
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// First failed before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Args)]
pub struct LetterStatus {
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
    #[arg(long, requires = "why")]
    apply: bool,
    /// Nothing is changed (the default)
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Why, for those who read the record later; --apply needs it
    #[arg(long, value_parser = reason)]
    why: Option<String>,
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Err("is no reason: say why, for those who read the record later".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Which letters, and whether it is done.
#[derive(Args)]
pub struct Asked {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    most: Most,
    #[command(flatten)]
    action: Action,
    #[command(flatten)]
    format: Format,
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            id: self.id.clone(),
            topic: self.topic.clone(),
            event_type: self.event_type.clone(),
            code: self.code.clone(),
            key: self.key.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            ..Filter::default()
        }
    }
}

impl LetterStatus {
    fn query<'f>(&'f self, filter: &'f Filter, limit: Option<i64>) -> Query<'f> {
        Query {
            filter,
            status: self.status.as_deref(),
            limit,
        }
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
            which,
            status,
            most,
            format,
        } => {
            let (filter, limit) = (which.filter(), Some(most.limit));
            list(&client, &status.query(&filter, limit), format.output).await
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
            which,
            status,
            format,
        } => {
            let filter = which.filter();
            let stats = status.query(&filter, None).stats(&client).await;
            let stats = stats.map_err(|error| failed_to_read(&error))?;
            if stats.is_empty() {
                tell(&none_match(&client, &filter).await?);
            }
            print(&stats, format.output, &[])
        }
        Dlq::Export {
            which,
            status,
            limit,
        } => {
            let filter = which.filter();
            export(&client, &status.query(&filter, *limit)).await
        }
        Dlq::Replay { asked, payload } => {
            let payload = payload.as_ref().map(|file| {
                std::fs::read(file)
                    .map_err(|error| format!("--payload {}: {}", file.display(), of_io(&error)))
            });
            let payload = payload.transpose()?;
            let deed = Deed::Replay(payload.as_deref());
            asked.act(&client, deed, shutdown).await
        }
        Dlq::Discard { asked } => asked.act(&client, Deed::Discard, shutdown).await,
        Dlq::Restore { asked } => asked.act(&client, Deed::Restore, shutdown).await,
    }
}

impl Asked {
    /// Chunk by chunk, each a transaction: what is done stays done, and the same command goes on with the rest.
    async fn act(
        &self,
        client: &Client,
        deed: Deed<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), String> {
        let filter = self.which.filter();
        if !filter.says_which() {
            return Err(
                "which dead letters? give --id, --topic, --type, --code, --key, --since or --until"
                    .into(),
            );
        }
        let work = Work {
            filter: &filter,
            limit: self.most.limit,
            deed,
        };
        let chosen = work.choose(client).await;
        let chosen = chosen.map_err(|error| failed(&error))?;
        corrects_one(&work.deed, &chosen)?;
        let mut done = self.chunks(client, &work.deed, &chosen, shutdown).await;
        done.outcomes.extend(chosen.left_out.iter().cloned());
        let output = self.format.output;
        match done.failure {
            Some(error) if done.outcomes.iter().all(is_left_out) => return Err(error),
            _ if done.outcomes.is_empty() && output.is_table() => {}
            _ => print(
                &done.outcomes,
                output,
                &["id", "verdict", "reason", "message"],
            )?,
        }
        let summary = self.summary(&work.deed, &done.outcomes, &chosen, done.is_stopped);
        match done.failure {
            None => {
                tell(&summary);
                Ok(())
            }
            Some(error) => Err(format!("{summary}; it failed there: {error}")),
        }
    }

    async fn chunks(
        &self,
        client: &Client,
        deed: &Deed<'_>,
        chosen: &Chosen,
        shutdown: &CancellationToken,
    ) -> Done {
        let dry_run = !self.action.apply;
        let bar = ProgressBar::new(chosen.ids.len() as u64).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left")
                .unwrap_or(ProgressStyle::default_bar()),
        );
        let mut done = Done::default();
        for chunk in chosen.ids.chunks(CHUNK) {
            done.is_stopped = shutdown.is_cancelled();
            if done.is_stopped {
                break;
            }
            let why = self.action.why.as_deref();
            match deed.act(client, chunk, why, dry_run).await {
                Ok(mut some) => done.outcomes.append(&mut some),
                Err(error) => {
                    done.failure = Some(failed(&error));
                    break;
                }
            }
            bar.inc(chunk.len() as u64);
        }
        bar.finish_and_clear();
        done
    }

    /// One line about what was done and what was not.
    fn summary(
        &self,
        deed: &Deed<'_>,
        outcomes: &[Value],
        chosen: &Chosen,
        stopped: bool,
    ) -> String {
        let all = chosen.ids.len();
        let done = outcomes.iter().filter(|row| !is_left_out(row)).count();
        let left_out = counts(outcomes.iter().filter(|row| is_left_out(row)), "reason");
        let verdicts = counts(outcomes.iter(), "verdict");
        let verb = match (self.action.apply, deed) {
            (false, _) => "",
            (true, Deed::Replay(_)) => " replayed",
            (true, Deed::Discard) => " discarded",
            (true, Deed::Restore) => " restored",
        };
        let mut parts = vec![match (all, deed) {
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
            parts.push(format!(
                "{more} more match beyond --limit {}",
                self.most.limit
            ));
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

/// What came of some chunks.
#[derive(Default)]
struct Done {
    outcomes: Vec<Value>,
    is_stopped: bool,
    failure: Option<String>,
}

/// A corrected payload is for one letter.
fn corrects_one(deed: &Deed<'_>, chosen: &Chosen) -> Result<(), String> {
    let count = chosen.ids.len();
    if !matches!(deed, Deed::Replay(Some(_))) || count == 1 {
        return Ok(());
    }
    let left_out = chosen.left_out.first();
    match left_out.and_then(|row| row["message"].as_str()) {
        Some(message) => Err(message.to_owned()),
        None => Err(format!(
            "--payload corrects one parked letter, and {count} match: name it with --id"
        )),
    }
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
