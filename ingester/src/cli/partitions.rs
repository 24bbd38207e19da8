//! `sluice status`, `partitions`, `pause`, `resume`, `step-down` and `accept`: what an operator sees of
//! partitions, and does with them.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::output::{Format, Output, connect, failed, print, write_line};
use crate::config::database::DatabaseArgs;
use crate::config::kafka::KafkaSettings;
use crate::kafka::client::Kafka;
use crate::operator::partitions::{self, Action};
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

pub async fn status(database: &DatabaseArgs, status: &Status) -> Result<(), String> {
    let client = connect(database, "sluice status").await?;
    let (output, topic) = (status.format.output, status.topic.as_deref());
    loop {
        let found = match output {
            Output::Table => partitions::at_a_glance(&client, topic).await,
            Output::Json | Output::Jsonl => partitions::all(&client, topic).await,
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
    let committed = partitions::committed(&client, offsets.topic.as_deref()).await;
    drop(client);
    let kafka = Arc::new(Kafka::connect(kafka, Arc::default())?);
    kafka.serve();
    let committed = committed.map_err(|error| failed(&error))?;
    let found = partitions::beside_kafka(&committed, &kafka).await;
    let found = found.map_err(|error| {
        let refusal = kafka.refusal().unwrap_or(error);
        format!("KAFKA_BROKERS: {refusal}")
    })?;
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
