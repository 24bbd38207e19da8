//! Removes what the database knows of records that Kafka does not hold any more.

use serde_json::{Value, json};
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

use crate::operator::rows::{Parameter, rows};
use crate::partition::Partition;

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

/// What is to be removed.
pub struct Wanted<'a> {
    /// Committed longer ago than this, as PostgreSQL reads it.
    pub older_than: &'a str,
    /// How many records are removed in one transaction.
    pub max_records: i32,
    pub dry_run: bool,
}

/// Those of the topic's partitions that were read.
pub async fn read(
    client: &Client,
    topic: &str,
    partition: Option<i32>,
) -> Result<Vec<Partition>, Error> {
    let rows = client.query(READ, &[&topic, &partition]).await?;
    let partition = |number| Partition {
        topic: topic.to_owned(),
        number,
    };
    Ok(rows.iter().map(|row| partition(row.get(0))).collect())
}

/// From which offset on verdicts stay because RESULTS_TOPIC has not got them yet, if Kafka has less.
pub async fn untold_from(
    client: &Client,
    partition: &Partition,
    log_start_offset: i64,
) -> Result<Option<i64>, Error> {
    let Partition { topic, number } = partition;
    let arguments: [Parameter<'_>; 3] = [topic, number, &log_start_offset];
    let untold = client.query_opt(UNTOLD, &arguments).await?;
    Ok(untold.map(|row| row.get(0)))
}

/// Removes chunk by chunk, each a transaction; ends between two of them when it is asked to stop.
pub async fn prune(
    client: &Client,
    wanted: &Wanted<'_>,
    partition: &Partition,
    log_start_offset: i64,
    shutdown: &CancellationToken,
) -> Result<Value, Error> {
    let mut counts = [0; COUNTS.len()];
    loop {
        let answer = rows(
            client,
            PRUNE,
            &[
                &partition.topic,
                &partition.number,
                &log_start_offset,
                &wanted.older_than,
                &wanted.max_records,
                &wanted.dry_run,
            ],
        )
        .await?;
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
