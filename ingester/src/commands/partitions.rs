//! `sluice status`, `pause`, `resume` and `step-down`: what an operator sees of partitions, and
//! does with them.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use tokio_postgres::types::ToSql;

use crate::commands::output::{Format, Output, connect, failed, print, rows};
use crate::commands::write_line;
use crate::config::DatabaseArgs;
use crate::partition::Partition;

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// To the upper left, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Args)]
pub struct Status {
    /// Of this topic only
    #[arg(long)]
    topic: Option<String>,
    /// Again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    format: Format,
}

/// Which partition.
#[derive(Args)]
pub struct Which {
    /// TOPIC/NUMBER, as `sluice status` shows it
    #[arg(value_parser = partition)]
    partition: Partition,
}

fn partition(text: &str) -> Result<Partition, String> {
    let parts = text.rsplit_once('/');
    let parsed = parts.and_then(|(topic, number)| Some((topic, number.parse().ok()?)));
    match parsed {
        Some((topic, number)) if !topic.is_empty() && number >= 0 => Ok(Partition {
            topic: topic.to_owned(),
            number,
        }),
        _ => Err("must be a topic and a number, for example balance.changed/0".to_owned()),
    }
}

// For a table people want few and short columns, a program wants all.
const FOR_PEOPLE: &str = "
    SELECT topic || '/' || partition AS partition, leader_svc_id AS leader,
        round(extract(epoch FROM lease_left)::numeric, 1) AS lease_s, commit_offset, lag,
        round(records_per_second::numeric) AS per_s, state, reason";
const FOR_PROGRAMS: &str = "
    SELECT topic, partition, leader_svc_id, extract(epoch FROM lease_left)::float8 AS lease_left_s, commit_offset, lag,
        records_per_second, state, reason, reported_at, last_batch_records, last_copy_us, last_apply_us, last_commit_us";
const FROM: &str = " FROM ledger.partition_status s WHERE $1::text IS NULL OR topic = $1 ORDER BY s.topic, s.partition";

pub async fn status(database: &DatabaseArgs, status: &Status) -> Result<(), String> {
    let client = connect(database, "sluice status").await?;
    let output = status.format.output;
    let columns = match output {
        Output::Table => FOR_PEOPLE,
        Output::Json | Output::Jsonl => FOR_PROGRAMS,
    };
    loop {
        let found = rows(&client, &format!("{columns}{FROM}"), &[&status.topic]).await?;
        if status.watch && output == Output::Table && std::io::stdout().is_terminal() {
            print!("{CLEAR}");
        }
        print(&found, output, "no partition has been read yet")?;
        if !status.watch {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

pub async fn pause(database: &DatabaseArgs, which: &Which, why: &str) -> Result<(), String> {
    let sql = "SELECT sluice.pause_partition($1, $2, $3)";
    match ask(database, "sluice pause", sql, which, &[&why]).await? {
        true => write_line(&format!("{} is paused", which.partition)),
        false => write_line(&format!("{} was paused already", which.partition)),
    }
}

pub async fn resume(database: &DatabaseArgs, which: &Which) -> Result<(), String> {
    let sql = "SELECT sluice.resume_partition($1, $2)";
    match ask(database, "sluice resume", sql, which, &[]).await? {
        true => write_line(&format!("{} goes on", which.partition)),
        false => write_line(&format!("{} was not paused", which.partition)),
    }
}

pub async fn step_down(database: &DatabaseArgs, which: &Which) -> Result<(), String> {
    let sql = "SELECT sluice.step_down($1, $2)";
    let leader: Option<String> = ask(database, "sluice step-down", sql, which, &[]).await?;
    match leader {
        Some(leader) => write_line(&format!("{leader} leads {} no more", which.partition)),
        None => write_line(&format!("nobody leads {}", which.partition)),
    }
}

async fn ask<T: for<'r> tokio_postgres::types::FromSql<'r>>(
    database: &DatabaseArgs,
    command: &str,
    sql: &str,
    which: &Which,
    more: &[&(dyn ToSql + Sync)],
) -> Result<T, String> {
    let client = connect(database, command).await?;
    let mut parameters: Vec<&(dyn ToSql + Sync)> =
        vec![&which.partition.topic, &which.partition.number];
    parameters.extend(more);
    let row = client.query_one(sql, &parameters).await;
    Ok(row.map_err(|error| failed(&error))?.get(0))
}
