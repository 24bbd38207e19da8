//! `sluice prune`: removes what the database knows of records that Kafka does not hold any more.

use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::cli::output::{Format, connect, failed, print};
use crate::config::database::DatabaseArgs;
use crate::config::kafka::KafkaSettings;
use crate::kafka::client::Kafka;
use crate::operator::prune as operator;

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
    /// Say what would be removed
    #[arg(long)]
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
    let kafka = Arc::new(Kafka::connect(kafka, Arc::default())?);
    let wanted = operator::Wanted {
        older_than: &prune.older_than,
        max_records: prune.max_records,
        dry_run: prune.dry_run,
    };
    let read = operator::read(&client, &prune.topic, prune.partition).await;
    let mut pruned = Vec::new();
    for partition in read.map_err(|error| failed(&error))? {
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
            eprintln!(
                "{partition}: what is from offset {offset} on stays, for RESULTS_TOPIC has not got its verdicts yet; \
                 where it is not set any more: SELECT sluice.end_results('{topic}')"
            );
        }
    }
    print(
        &pruned,
        prune.format.output,
        "no such partition has been read yet",
    )
}
