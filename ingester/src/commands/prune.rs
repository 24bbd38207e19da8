//! `sluice prune`: removes what the database knows of records that Kafka does not hold any more.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::commands::output::{Format, connect, failed, print, rows};
use crate::config::{DatabaseArgs, KafkaSettings};
use crate::partition::Partition;
use crate::source::Kafka;

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

const READ: &str = "
    SELECT l.partition FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
    WHERE l.topic = $1 AND ($2::int IS NULL OR l.partition = $2) AND p.started_at IS NOT NULL ORDER BY 1";

const PRUNE: &str = "
    SELECT $1::text || '/' || $2::int AS partition, $3::bigint AS log_start_offset, p.*
    FROM sluice.prune($1, $2, $3, $4::text::interval, $5, $6) p";

// Where the verdicts that RESULTS_TOPIC has not got yet begin, if prune stops there.
const UNTOLD: &str = "
    SELECT r.next_offset FROM ledger.results_progress r
    JOIN ledger.partition_leases l USING (partition_id) JOIN ledger.partition_progress p USING (partition_id)
    WHERE l.topic = $1 AND l.partition = $2 AND r.next_offset < least($3, p.commit_offset)";

/// Columns that add up over the chunks; of the others the last one counts.
const COUNTS: [&str; 4] = ["records", "log_rows", "identities", "dead_letters"];

/// Ends between two chunks when it is asked to stop.
pub async fn prune(
    database: &DatabaseArgs,
    kafka: &KafkaSettings,
    prune: &Prune,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let client = connect(database, "sluice prune").await?;
    let kafka = Arc::new(Kafka::connect(kafka, Arc::default())?);
    let read = client.query(READ, &[&prune.topic, &prune.partition]).await;
    let mut pruned = Vec::new();
    for row in read.map_err(|error| failed(&error))? {
        let partition = Partition {
            topic: prune.topic.clone(),
            number: row.get(0),
        };
        let ends = kafka.watermarks(&partition).await;
        let ends = ends.map_err(|error| format!("KAFKA_BROKERS: {error}"))?;
        let ends = ends.ok_or_else(|| format!("{partition} does not exist in Kafka"))?;
        pruned.push(chunks(&client, prune, &partition, ends.low, shutdown).await?);
        let untold = client
            .query_opt(UNTOLD, &[&partition.topic, &partition.number, &ends.low])
            .await;
        if let Some(row) = untold.map_err(|error| failed(&error))? {
            let (offset, topic) = (row.get::<_, i64>(0), &partition.topic);
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

async fn chunks(
    client: &Client,
    prune: &Prune,
    partition: &Partition,
    log_start_offset: i64,
    shutdown: &CancellationToken,
) -> Result<Value, String> {
    let mut counts = [0; COUNTS.len()];
    loop {
        let answer = rows(
            client,
            PRUNE,
            &[
                &partition.topic,
                &partition.number,
                &log_start_offset,
                &prune.older_than,
                &prune.max_records,
                &prune.dry_run,
            ],
        )
        .await
        .map_err(|error| failed(&error))?;
        let mut answer = answer.into_iter().next().unwrap_or_default();
        for (name, count) in COUNTS.iter().zip(&mut counts) {
            *count += answer[name].as_i64().unwrap_or_default();
            answer[name] = json!(count);
        }
        if answer["more"] != true || shutdown.is_cancelled() {
            return Ok(answer);
        }
    }
}
