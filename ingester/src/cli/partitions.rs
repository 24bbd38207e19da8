//! `sluice status`, `partitions`, `pause`, `resume`, `step-down` and `accept`: what an operator sees of
//! partitions, and does with them.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::Value;
use tokio_postgres::Client;

use crate::cli::output::{Format, connect, failed, failed_to_read, print_narrow, write_line};
use crate::cli::table;
use crate::config::database::DatabaseArgs;
use crate::config::kafka::KafkaSettings;
use crate::kafka::client::Kafka;
use crate::operator::partitions::{self, Action};
use crate::partition::Partition;

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_secs(1);
const RUNNING: &str = "running";
/// As ledger.partition_status has them.
const STATES: [&str; 7] = [
    RUNNING,
    "starting",
    "retrying",
    "paused",
    "halted",
    "stalled",
    "no leader",
];
/// Columns of the status where not all of them fit.
const GLANCE: [&str; 5] = ["partition", "state", "lag", "leader", "reason"];
const NOTHING_READ: &str = "no partition has been read yet";
/// To the upper left, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Args)]
pub struct StatusArgs {
    /// Of this topic only
    #[arg(long)]
    topic: Option<String>,
    /// In one of these states only, comma separated
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(STATES))]
    state: Vec<String>,
    /// All but the running ones
    #[arg(long, conflicts_with = "state")]
    troubled: bool,
    /// Led by this instance only
    #[arg(long, value_name = "SERVICE_ID")]
    leader: Option<String>,
    /// Again every second, until Ctrl-C; as many rows as the terminal has
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

impl StatusArgs {
    fn is_wanted(&self, row: &Value) -> bool {
        let state = row["state"].as_str().unwrap_or_default();
        let leader = row["leader"].as_str().or(row["leader_svc_id"].as_str());
        (self.state.is_empty() || self.state.iter().any(|wanted| wanted == state))
            && !(self.troubled && state == RUNNING)
            && (self.leader.is_none() || self.leader.as_deref() == leader)
    }

    async fn rows(&self, client: &Client) -> Result<Vec<Value>, String> {
        let topic = self.topic.as_deref();
        let found = match self.format.output.is_table() {
            true => partitions::at_a_glance(client, topic).await,
            false => partitions::all(client, topic).await,
        };
        let mut found = found.map_err(|error| failed_to_read(&error))?;
        if found.is_empty() {
            known_topic(client, topic).await?;
        }
        found.retain(|row| self.is_wanted(row));
        if self.format.output.is_table() {
            // What waits for a person stands on top; the others keep their order.
            found.sort_by_key(|row| row["state"] == RUNNING);
        }
        Ok(found)
    }
}

pub async fn status(database: &DatabaseArgs, status: &StatusArgs) -> Result<(), String> {
    let client = connect(database, "sluice status").await?;
    let output = status.format.output;
    let nothing = match status.state.is_empty() && !status.troubled && status.leader.is_none() {
        true => NOTHING_READ,
        false => "no partition is like that",
    };
    loop {
        let mut found = status.rows(&client).await?;
        let mut left_out = 0;
        if status.watch && output.is_table() {
            // The header, the line about the rest, and where the cursor stands.
            let most = table::size()
                .1
                .map_or(usize::MAX, |lines| lines.saturating_sub(3));
            left_out = found.len().saturating_sub(most);
            found.truncate(most);
            if std::io::stdout().is_terminal() {
                print!("{CLEAR}");
            }
        }
        print_narrow(&found, output, nothing, &GLANCE)?;
        if left_out > 0 {
            let more = "show them by --topic, --state, --leader or --troubled";
            write_line(&format!("… and {left_out} more: {more}"))?;
        }
        if !status.watch {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// An answer where nothing is found of a topic: it may be misspelt.
pub(super) async fn known_topic(client: &Client, topic: Option<&str>) -> Result<(), String> {
    let Some(topic) = topic else { return Ok(()) };
    let known = partitions::topics(client).await;
    let known = known.map_err(|error| failed_to_read(&error))?;
    if known.iter().any(|known| known == topic) {
        return Ok(());
    }
    Err(match known.is_empty() {
        true => format!("no partition of {topic:?} has been read, and none of any other topic"),
        false => format!(
            "no partition of {topic:?} has been read; topics that were: {}",
            known.join(", ")
        ),
    })
}

/// What the database has committed beside what Kafka has, both asked now.
pub async fn offsets(
    database: &DatabaseArgs,
    kafka: &KafkaSettings,
    offsets: &Offsets,
) -> Result<(), String> {
    let client = connect(database, "sluice partitions").await?;
    let committed = partitions::committed(&client, offsets.topic.as_deref()).await;
    let committed = committed.map_err(|error| failed_to_read(&error))?;
    if committed.is_empty() {
        known_topic(&client, offsets.topic.as_deref()).await?;
    }
    drop(client);
    let kafka = Arc::new(Kafka::connect(kafka, Arc::default())?);
    kafka.serve();
    let found = partitions::beside_kafka(&committed, &kafka).await;
    let found = found.map_err(|error| {
        let refusal = kafka.refusal().unwrap_or(error);
        format!("KAFKA_BROKERS: {refusal}")
    })?;
    let narrow = [
        "partition",
        "commit_offset",
        "log_end_offset",
        "waiting",
        "log_start_offset",
    ];
    print_narrow(&found, offsets.format.output, NOTHING_READ, &narrow)
}

/// Ends a halt: what Kafka holds now is what is read on.
pub async fn accept(
    database: &DatabaseArgs,
    which: &Which,
    offset: Option<i64>,
    why: &str,
) -> Result<(), String> {
    let client = connect(database, "sluice accept").await?;
    let partition = &which.partition;
    let accepted = partitions::accept(&client, partition, offset, why).await;
    let offset = accepted.map_err(|error| failed(&error))?;
    write_line(&format!("{partition} goes on at offset {offset}"))
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
    let reset = partitions::reset_breaker(&client, topic, why).await;
    write_line(&match reset.map_err(|error| failed(&error))? {
        0 => format!("no partition of {topic} was paused by its circuit breaker"),
        count => format!("{topic} goes on: partitions resumed: {count}"),
    })
}

/// Gives up one record by hand.
pub async fn bury(database: &DatabaseArgs, burial: &Burial) -> Result<(), String> {
    let client = connect(database, "sluice bury").await?;
    let (partition, offset) = (&burial.which.partition, burial.offset);
    let why = burial.why.as_deref();
    let done = match burial.withdraw {
        true => partitions::withdraw_burial(&client, partition, offset).await,
        false => partitions::bury(&client, partition, offset, why).await,
    };
    let done = done.map_err(|error| failed(&error))?;
    let record = format!("the record at offset {offset} of {partition}");
    write_line(&match (burial.withdraw, done) {
        (false, true) => format!("{record} becomes a dead letter when the partition comes to it"),
        (false, false) => format!("{record} was to be buried already"),
        (true, true) => format!("{record} is not to be buried any more"),
        (true, false) => format!("{record} was not to be buried"),
    })
}
