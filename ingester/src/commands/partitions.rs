//! `sluice status`, `partitions`, `pause`, `resume`, `step-down` and `accept`: what an operator sees of
//! partitions, and does with them.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::commands::output::{Format, Output, connect, failed, print, rows};
use crate::commands::write_line;
use crate::config::{DatabaseArgs, KafkaSettings};
use crate::partition::Partition;
use crate::source::Kafka;

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

#[derive(Args)]
pub struct Offsets {
    /// Of this topic only
    #[arg(long)]
    topic: Option<String>,
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

/// Which partition, or all of a topic that its circuit breaker has paused.
#[derive(Args)]
pub struct Resumed {
    /// TOPIC/NUMBER, as `sluice status` shows it; or TOPIC: all its partitions that the circuit breaker has paused
    #[arg(value_name = "PARTITION")]
    what: String,
}

/// Which record.
#[derive(Args)]
pub struct Burial {
    #[command(flatten)]
    which: Which,
    /// Where the record stands in its partition
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// Why, for those who read the record later
    #[arg(long, required_unless_present = "withdraw")]
    why: Option<String>,
    /// Take back an order that was not carried out yet
    #[arg(long)]
    withdraw: bool,
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

const OFFSETS: &str = "
    SELECT l.topic, l.partition, r.pruned_below, p.commit_offset, p.fencing_token
    FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
    LEFT JOIN ledger.retention r USING (partition_id)
    WHERE $1::text IS NULL OR l.topic = $1 ORDER BY l.topic, l.partition";

// The reason goes where the record of such actions looks for it.
const PAUSE: &str = "SELECT sluice.pause_partition($1, $2, $3)";
const RESUME: &str = "SELECT set_config('sluice.why', $3, true), sluice.resume_partition($1, $2)";
const RESET: &str = "SELECT set_config('sluice.why', $2, true), sluice.reset_breaker($1)";
const BURY: &str = "SELECT sluice.bury_record($1, $2, $3, $4)";
const WITHDRAW: &str = "SELECT sluice.withdraw_burial($1, $2, $3)";
const STEP_DOWN: &str = "SELECT set_config('sluice.why', $3, true), sluice.step_down($1, $2)";

const ACCEPT: &str = "SELECT sluice.accept_partition($1, $2, $3, $4)";

/// All of what is known of each partition.
pub async fn all(
    client: &Client,
    topic: Option<&str>,
) -> Result<Vec<Value>, tokio_postgres::Error> {
    rows(client, &format!("{FOR_PROGRAMS}{FROM}"), &[&topic]).await
}

/// What an operator may do with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pause,
    Resume,
    StepDown,
}

impl Action {
    /// Does it, and says in a line what that came to.
    pub async fn take(
        self,
        client: &Client,
        partition: &Partition,
        why: &str,
    ) -> Result<String, tokio_postgres::Error> {
        let (topic, number) = (&partition.topic, &partition.number);
        let statement = match self {
            Self::Pause => PAUSE,
            Self::Resume => RESUME,
            Self::StepDown => STEP_DOWN,
        };
        let row = client.query_one(statement, &[topic, number, &why]).await?;
        Ok(match self {
            Self::Pause if row.get(0) => format!("{partition} is paused"),
            Self::Pause => format!("{partition} was paused already"),
            Self::Resume if row.get(1) => format!("{partition} goes on"),
            Self::Resume => format!("{partition} was not paused"),
            Self::StepDown => match row.get::<_, Option<String>>(1) {
                Some(leader) => format!("{leader} leads {partition} no more"),
                None => format!("nobody leads {partition}"),
            },
        })
    }
}

pub async fn status(database: &DatabaseArgs, status: &Status) -> Result<(), String> {
    let client = connect(database, "sluice status").await?;
    let (output, topic) = (status.format.output, status.topic.as_deref());
    loop {
        let found = match output {
            Output::Table => rows(&client, &format!("{FOR_PEOPLE}{FROM}"), &[&topic]).await,
            Output::Json | Output::Jsonl => all(&client, topic).await,
        };
        let found = found.map_err(|error| failed(&error))?;
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

/// What the database has committed beside what Kafka has, both asked now.
pub async fn offsets(
    database: &DatabaseArgs,
    kafka: &KafkaSettings,
    offsets: &Offsets,
) -> Result<(), String> {
    let client = connect(database, "sluice partitions").await?;
    let read = rows(&client, OFFSETS, &[&offsets.topic]).await;
    drop(client);
    let kafka = Arc::new(Kafka::connect(kafka, Arc::default())?);
    kafka.serve();
    let mut found = Vec::new();
    for row in read.map_err(|error| failed(&error))? {
        let partition = Partition {
            topic: row["topic"].as_str().unwrap_or_default().to_owned(),
            number: row["partition"].as_i64().unwrap_or_default() as i32,
        };
        let ends = kafka.watermarks(&partition).await.map_err(|error| {
            let refusal = kafka.refusal().unwrap_or(error);
            format!("KAFKA_BROKERS: {refusal}")
        })?;
        // Less than the end while a transaction is open.
        let stable = match ends {
            Some(_) => kafka.stable_end(&partition).await.ok(),
            None => None,
        };
        let commit_offset = row["commit_offset"].as_i64().unwrap_or_default();
        found.push(json!({
            "partition": partition.to_string(),
            "log_start_offset": ends.map(|ends| ends.low),
            "pruned_below": row["pruned_below"],
            "commit_offset": commit_offset,
            "log_end_offset": ends.map(|ends| ends.high),
            "last_stable_offset": stable,
            "waiting": ends.map(|ends| ends.high - commit_offset),
            "fencing_token": row["fencing_token"],
        }));
    }
    print(
        &found,
        offsets.format.output,
        "no partition has been read yet",
    )
}

/// Ends a halt: what Kafka holds now is what is read on.
pub async fn accept(
    database: &DatabaseArgs,
    which: &Which,
    offset: Option<i64>,
    why: &str,
) -> Result<(), String> {
    let client = connect(database, "sluice accept").await?;
    let Partition { topic, number } = &which.partition;
    let row = client
        .query_one(ACCEPT, &[topic, number, &why, &offset])
        .await
        .map_err(|error| failed(&error))?;
    let partition = &which.partition;
    write_line(&format!(
        "{partition} goes on at offset {}",
        row.get::<_, i64>(0)
    ))
}

pub async fn act(
    database: &DatabaseArgs,
    which: &Which,
    action: Action,
    why: &str,
) -> Result<(), String> {
    let command = match action {
        Action::Pause => "sluice pause",
        Action::Resume => "sluice resume",
        Action::StepDown => "sluice step-down",
    };
    let client = connect(database, command).await?;
    let said = action.take(&client, &which.partition, why).await;
    write_line(&said.map_err(|error| failed(&error))?)
}

/// Resumes a partition, or what of a topic its circuit breaker has paused.
pub async fn resume(database: &DatabaseArgs, resumed: &Resumed, why: &str) -> Result<(), String> {
    let topic = &resumed.what;
    if let Ok(partition) = partition(topic) {
        return act(database, &Which { partition }, Action::Resume, why).await;
    }
    let client = connect(database, "sluice resume").await?;
    let reset = client.query_one(RESET, &[topic, &why]).await;
    let resumed: i32 = reset.map_err(|error| failed(&error))?.get(1);
    write_line(&match resumed {
        0 => format!("no partition of {topic} was paused by its circuit breaker"),
        count => format!("{topic} goes on: partitions resumed: {count}"),
    })
}

/// Gives up one record by hand.
pub async fn bury(database: &DatabaseArgs, burial: &Burial) -> Result<(), String> {
    let client = connect(database, "sluice bury").await?;
    let Burial {
        which,
        offset,
        why,
        withdraw,
    } = burial;
    let partition = &which.partition;
    let (topic, number) = (&partition.topic, &partition.number);
    let answer = match withdraw {
        true => client.query_one(WITHDRAW, &[topic, number, offset]).await,
        false => client.query_one(BURY, &[topic, number, offset, why]).await,
    };
    let done: bool = answer.map_err(|error| failed(&error))?.get(0);
    let record = format!("the record at offset {offset} of {partition}");
    write_line(&match (withdraw, done) {
        (false, true) => format!("{record} becomes a dead letter when the partition comes to it"),
        (false, false) => format!("{record} was to be buried already"),
        (true, true) => format!("{record} is not to be buried any more"),
        (true, false) => format!("{record} was not to be buried"),
    })
}
