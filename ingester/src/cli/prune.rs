//! `sluice prune`: removes what the database knows of records that Kafka does not hold any more.

use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::cli::output::{Format, connect, failed, print_narrow};
use crate::cli::partitions::known_topic;
use crate::config::database::DatabaseArgs;
use crate::config::kafka::KafkaSettings;
use crate::kafka::client::Kafka;
use crate::operator::prune as operator;
use crate::terminal::tell;

#[derive(Args)]
pub struct Prune {
    /// Records of this topic
    #[arg(long)]
    topic: String,
    /// Of this partition only; default: of all that were read
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Committed longer ago than this, as PostgreSQL reads it: 30d, "6 months", 0s
    #[arg(long, value_name = "INTERVAL", default_value = "30d")]
    older_than: String,
    /// How many records are removed in one transaction
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(i32).range(1..))]
    max_records: i32,
    /// Remove it; without this it is a dry run that says what would be removed
    #[arg(long)]
    apply: bool,
    /// Nothing is removed (the default)
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

/// Ends between two chunks when it is asked to stop.
pub async fn prune(
    database: &DatabaseArgs,
    kafka: &KafkaSettings,
    prune: &Prune,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let client = connect(database, "sluice prune").await?;
    let read = operator::read(&client, &prune.topic, prune.partition).await;
    let read = read.map_err(|error| failed(&error))?;
    if read.is_empty() {
        known_topic(&client, Some(&prune.topic)).await?;
        return Err(match prune.partition {
            Some(number) => format!("partition {}/{number} has not been read", prune.topic),
            None => format!("no partition of {:?} has been read", prune.topic),
        });
    }
    let kafka = Arc::new(Kafka::connect(kafka, Arc::default())?);
    let wanted = operator::Wanted {
        older_than: &prune.older_than,
        max_records: prune.max_records,
        dry_run: !prune.apply,
    };
    let mut pruned = Vec::new();
    for partition in read {
        let ends = kafka.watermarks(&partition).await;
        let ends = ends.map_err(|error| format!("KAFKA_BROKERS: {error}"))?;
        let low = ends
            .ok_or_else(|| format!("{partition} does not exist in Kafka"))?
            .low;
        let done = operator::prune(&client, &wanted, &partition, low, shutdown).await;
        pruned.push(done.map_err(|error| failed(&error))?);
        let untold = operator::untold_from(&client, &partition, low).await;
        if let Some(offset) = untold.map_err(|error| failed(&error))? {
            let topic = &partition.topic;
            tell(&format!(
                "{partition}: records from offset {offset} on stay, because RESULTS_TOPIC does not have their verdicts yet; \
                 where it is not set any more: SELECT sluice.end_results('{topic}')"
            ));
        }
    }
    let narrow = [
        "partition",
        "records",
        "log_rows",
        "identities",
        "dead_letters",
        "pruned_below",
    ];
    print_narrow(&pruned, prune.format.output, "", &narrow)?;
    if !prune.apply {
        tell("dry run, nothing is removed: --apply does it");
    }
    Ok(())
}
