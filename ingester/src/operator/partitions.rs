//! What an operator sees of partitions, and does with them.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_postgres::{Client, Error};

use crate::kafka::client::Kafka;
use crate::operator::rows::rows;
use crate::partition::Partition;

// For a table people want few and short columns, a program wants all.
const FOR_PEOPLE: &str = "
    SELECT topic || '/' || partition AS partition, state, lag, round(records_per_second::numeric) AS per_s, commit_offset,
        leader_svc_id AS leader, round(extract(epoch FROM lease_left)::numeric, 1) AS lease_s, reason";
const FOR_PROGRAMS: &str = "
    SELECT topic, partition, leader_svc_id, extract(epoch FROM lease_left)::float8 AS lease_left_s, commit_offset, lag,
        records_per_second, state, reason, reported_at,
        extract(epoch FROM clock_timestamp() - reported_at)::float8 AS reported_s_ago, last_batch_records, last_copy_us, last_apply_us, last_commit_us";
const FROM: &str = " FROM ledger.partition_status s WHERE $1::text IS NULL OR topic = $1 ORDER BY s.topic, s.partition";

const TOPICS: &str = "SELECT DISTINCT topic FROM ledger.partition_leases ORDER BY 1";

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
pub async fn all(client: &Client, topic: Option<&str>) -> Result<Vec<Value>, Error> {
    rows(client, &format!("{FOR_PROGRAMS}{FROM}"), &[&topic]).await
}

/// The same for people: few and short columns.
pub async fn at_a_glance(client: &Client, topic: Option<&str>) -> Result<Vec<Value>, Error> {
    rows(client, &format!("{FOR_PEOPLE}{FROM}"), &[&topic]).await
}

/// The topics of which partitions were read.
pub async fn topics(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client.query(TOPICS, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What the database has committed of each partition.
pub async fn committed(client: &Client, topic: Option<&str>) -> Result<Vec<Value>, Error> {
    rows(client, OFFSETS, &[&topic]).await
}

/// Each of what was [`committed`] beside what Kafka has now; an error is Kafka's.
pub async fn beside_kafka(committed: &[Value], kafka: &Arc<Kafka>) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    for row in committed {
        let partition = Partition {
            topic: row["topic"].as_str().unwrap_or_default().to_owned(),
            number: row["partition"].as_i64().unwrap_or_default() as i32,
        };
        let ends = kafka.watermarks(&partition).await?;
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
    Ok(found)
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
    ) -> Result<String, Error> {
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

/// Resumes what of a topic its circuit breaker has paused; answers how many partitions.
pub async fn reset_breaker(client: &Client, topic: &str, why: &str) -> Result<i32, Error> {
    let row = client.query_one(RESET, &[&topic, &why]).await?;
    Ok(row.get(1))
}

/// Ends a halt: what Kafka holds now is what is read on, from the offset that is answered.
pub async fn accept(
    client: &Client,
    partition: &Partition,
    offset: Option<i64>,
    why: &str,
) -> Result<i64, Error> {
    let Partition { topic, number } = partition;
    let row = client
        .query_one(ACCEPT, &[topic, number, &why, &offset])
        .await?;
    Ok(row.get(0))
}

/// Orders that one record is given up; whether that changed anything.
pub async fn bury(
    client: &Client,
    partition: &Partition,
    offset: i64,
    why: Option<&str>,
) -> Result<bool, Error> {
    let Partition { topic, number } = partition;
    let row = client
        .query_one(BURY, &[topic, number, &offset, &why])
        .await?;
    Ok(row.get(0))
}

/// Takes such an order back; whether there was one.
pub async fn withdraw_burial(
    client: &Client,
    partition: &Partition,
    offset: i64,
) -> Result<bool, Error> {
    let Partition { topic, number } = partition;
    let row = client
        .query_one(WITHDRAW, &[topic, number, &offset])
        .await?;
    Ok(row.get(0))
}
