//! The whole way: a backlog in Kafka, a real `sluice run`, and the clock until its last COMMIT.

use crate::ingester::Ingester;
use crate::kafka::{Kafka, Record};
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

use super::accounts;
use super::workload::{PARTITIONS, Waiting};

/// Fills a new topic, starts an ingester, and measures from its first COMMIT to its last.
pub async fn measure<T>(
    stack: &Stack,
    kafka: &Kafka,
    topic: &str,
    backlog: &[T],
    record: impl Fn(&T) -> Waiting,
    changes_each: usize,
) -> Result<Sample> {
    accounts::empty_logs(stack).await?;
    fill(kafka, topic, backlog, record).await?;
    let mut ingester = Ingester::start(stack, topic, "", None)?;
    let sample = ingester
        .drain(stack, &[topic], 0, backlog.len() as i64)
        .await?;
    ingester.stop();
    accounts::expect_applied(stack, backlog.len() * changes_each).await?;
    Ok(sample)
}

/// Creates a topic with a backlog.
pub async fn fill<T>(
    kafka: &Kafka,
    topic: &str,
    backlog: &[T],
    record: impl Fn(&T) -> Waiting,
) -> Result<()> {
    kafka.create_topics([topic], PARTITIONS as i32).await?;
    tokio::task::block_in_place(|| produce(kafka, topic, backlog, record))
}

/// Sends the records, and waits until Kafka has them.
pub fn produce<T>(
    kafka: &Kafka,
    topic: &str,
    backlog: &[T],
    record: impl Fn(&T) -> Waiting,
) -> Result<()> {
    // In parts, for the payloads take room.
    for part in backlog.chunks(10_000) {
        let waiting: Vec<Waiting> = part.iter().map(&record).collect();
        kafka.produce(waiting.iter().map(|waiting| Record {
            topic,
            partition: waiting.partition as i32,
            key: waiting.key.as_bytes(),
            payload: &waiting.payload,
        }))?;
    }
    Ok(())
}
